"""Page of a run, rendered from report.html.jinja."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from convnext.commands import typed
from convnext.runs import environment
from convnext.tasks import linear
from convnext.training.metrics import EMA, RAW
from tools.reporting import curves, figures, tables
from tools.reporting.doubts import Doubts
from tools.reporting.predictions import Findings
from tools.reporting.runs import Run, names

FOLDER = Path(__file__).parent
NOT_ASKED_FOR = Doubts()
PICTURE = 256  # pixels, side of a picture, at most


def render(
    run: Run, findings: Findings, others: Sequence[Run] = (), doubts: Doubts = NOT_ASKED_FOR
) -> str:
    """Returns the page of a run, with the curves of others in the same plots. The others must have
    the same problem type."""
    templates = environment_of_pages()
    templates.filters |= {"text": tables.text, "picture": picture, "short": short}
    mistakes = None
    if findings.labels is not None:
        mistakes = tables.confusions(findings.labels, findings.predictions)
    return templates.get_template("report.html.jinja").render(
        css=Markup((FOLDER / "report.css").read_text()),
        run=run,
        command=typed("python -m tools.report"),
        findings=findings,
        doubts=doubts,
        less_likely=linear.LESS_LIKELY,
        score_names=curves.SCORES,
        scores=tables.scores(findings.totals, run.weights()),
        recipe=tables.recipe(run),
        plots=list(curves.plots([run, *others])),
        most_points=figures.POINTS,
        most_rows=tables.ROWS,
        comparison=_comparison([run, *others]) if others else None,
        classes=None if mistakes is None else _classes(run, findings, mistakes),
        calibration=None if mistakes is None else _calibration(run, findings),
        own_environment=environment.describe(),
    )


def environment_of_pages() -> jinja2.Environment:
    """Returns what renders the templates of this folder; what they are given is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def short(path: str) -> str:
    """Returns the file of an image with the folder that it lies in."""
    return "/".join(Path(path).parts[-2:])


def picture(image: np.ndarray, side: int = PICTURE) -> str:
    """Returns the image as a data URI, of so many pixels a side at most."""
    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((side, side))
    picture.save(file, format="WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _comparison(runs):
    """Returns the scores that the runs logged, and the fields in which their configs differ."""
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        last = {prefix: run.series(f"{prefix}/{run.score}")[-1:] for prefix in (RAW, EMA)}
        rows.append(
            {
                "name": name,
                "step": run.logged_step,
                "num_steps": run.num_steps,
                "raw": last[RAW][0][1] if last[RAW] else None,
                "ema": last[EMA][0][1] if last[EMA] else None,
                "best": run.best(f"{run.reported}/{run.score}"),
            }
        )
    return {"names": names(runs), "rows": rows, "differences": tables.differences(runs)}


def _classes(run, findings, mistakes):
    """Returns the confusion matrix, the most frequent mistakes, and the worst classes."""
    labels, predictions = findings.labels, findings.predictions
    num_classes = len(findings.class_names)
    shown = tables.confused_classes(num_classes, mistakes)
    overview, step = None, 1
    if num_classes > len(shown):
        overview, step = figures.overview("overview", labels, predictions, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    rows = tables.of_classes(labels, predictions, num_classes, mistakes)
    return {
        "overview": overview,
        "overview_step": step,
        "shown": shown,
        "matrix": tables.matrix(labels, predictions, shown),
        "mistakes": [(*m, m[2] / counts[m[0]]) for m in mistakes[: tables.LISTED]],
        "num_wrong": sum(count for *_, count in mistakes),
        "num_kinds": len(mistakes),
        "worst": rows[: tables.LISTED],
        "others": rows[tables.LISTED :],
        "macro": tables.macro(rows),
        "num_empty": int((counts == 0).sum()),
    }


def _calibration(run, findings):
    """Returns the plot of accuracy over confidence, for all weights."""
    weights = [
        figures.Weights(
            label, curves.colours(run)[prefix], findings.totals[prefix]["of_confidence"]
        )
        for prefix, label in run.weights().items()
    ]
    scores = tables.scores(findings.totals, run.weights())
    errors = [f"{row['weights']}: calibration error {row['ece']:.4f}." for row in scores]
    columns = ("images", "mean confidence", "accuracy")
    return figures.Plot(
        name="reliability",
        title="Accuracy over confidence",
        svg=figures.reliability("reliability", weights),
        description=" ".join(
            ["Accuracy over confidence, which are equal on the diagonal.", *errors]
        ),
        legend=[figures.Curve(each.label, (), each.colour) for each in weights],
        header=["confidence", *(f"{each.label}, {c}" for each in weights for c in columns)],
        rows=tables.confidence_rows([each.sums for each in weights]),
    )
