"""The page: what there is to say of a run, put into report.html.jinja."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from convnext.runs import environment
from tools.reporting import curves, figures, tables
from tools.reporting.predictions import Findings
from tools.reporting.runs import Run, names

FOLDER = Path(__file__).parent
PICTURE = 256  # pixels, side of a picture, at most


def render(run: Run, findings: Findings, others: Sequence[Run] = ()) -> str:
    """The page of a run, whose curves lie in the same plots as those of others. The others are of
    the same problem type."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters |= {"text": tables.text, "picture": _picture}
    mistakes = None if findings.labels is None else tables.confusions(
        findings.labels, findings.predictions
    )  # fmt: skip
    return templates.get_template("report.html.jinja").render(
        css=Markup((FOLDER / "report.css").read_text()),
        run=run,
        findings=findings,
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


def _picture(image: np.ndarray) -> str:
    """As a URI that holds it."""
    picture, file = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((PICTURE, PICTURE))
    picture.save(file, format="WEBP", quality=85, method=4)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _comparison(runs):
    """The scores that the runs logged, and the fields in which their configs differ."""
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        of = run.score
        last = {prefix: run.series(f"{prefix}/{of}")[-1:] for prefix in ("val", "val_ema")}
        rows.append({
            "name": name,
            "step": run.logged_step,
            "num_steps": run.num_steps,
            "raw": last["val"][0][1] if last["val"] else None,
            "ema": last["val_ema"][0][1] if last["val_ema"] else None,
            "best": run.best(f"{run.reported}/{of}"),
        })  # fmt: skip
    return {"names": names(runs), "rows": rows, "differences": tables.differences(runs)}


def _classes(run, findings, mistakes):
    """The confusion matrix, the mistakes by their number, and the worst classes."""
    labels, predictions = findings.labels, findings.predictions
    num_classes = len(findings.class_names)
    shown = tables.confused_classes(num_classes, mistakes)
    overview, step = None, 1
    if num_classes > len(shown):
        overview, step = figures.overview("overview", labels, predictions, num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    of_class = findings.totals[run.reported]["of_class"]
    return {
        "overview": overview,
        "overview_step": step,
        "shown": shown,
        "matrix": tables.matrix(labels, predictions, shown),
        "mistakes": [(*m, m[2] / counts[m[0]]) for m in mistakes[: tables.LISTED]],
        "num_wrong": sum(count for *_, count in mistakes),
        "num_kinds": len(mistakes),
        "worst": tables.worst_classes(of_class, mistakes),
        "num_empty": int((counts == 0).sum()),
    }


def _calibration(run, findings):
    """Confidence beside accuracy, of all weights."""
    weights = [
        figures.Weights(
            label, curves.colours(run)[prefix], findings.totals[prefix]["of_confidence"]
        )
        for prefix, label in run.weights().items()
    ]
    scores = tables.scores(findings.totals, run.weights())
    return figures.Plot(
        name="reliability",
        title="Accuracy over confidence",
        svg=figures.reliability("reliability", weights),
        description="Accuracy over confidence, which are equal on the diagonal. "
        + " ".join(f"{row['weights']}: calibration error {row['ece']:.4f}." for row in scores),
        legend=[figures.Curve(w.label, (), w.colour) for w in weights],
        header=["confidence", *(f"{w.label}, {column}" for w in weights
                                for column in ("images", "mean confidence", "accuracy"))],
        rows=tables.of_confidence([w.sums for w in weights]),
    )  # fmt: skip
