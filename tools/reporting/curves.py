"""The curves of a run, or of several in the same plots."""

from collections.abc import Iterator, Sequence

from tools.reporting import figures, tables
from tools.reporting.runs import Run, names

SCORES = {"loss": "Loss", "top1": "Top-1", "top5": "Top-5", "mae": "Mean absolute error",
          "ece": "Calibration error"}  # fmt: skip
TRAINING = {
    "train/lr": "Learning rate",
    "train/images_per_second": "Images per second",
    "train/grad_norm": "Norm of the gradients",
    "data/wait_fraction": "Share of the time that images are waited for",
}
GREY = figures.NUM_COLOURS


def plots(runs: Sequence[Run]) -> Iterator[figures.Plot]:
    """Of each kind of value that any of the runs has logged. The weights of one run have a colour
    each; of several runs, a run has one, and its weights are told apart by their dashes."""
    for score in ("loss", runs[0].score):
        curves = [curve for number in range(len(runs)) for curve in _of_score(runs, number, score)]
        yield from _plot(score, SCORES[score], curves, is_share=score == "top1")
    for name, title in TRAINING.items():
        curves = [
            figures.Curve(run_name, run.series(name), colour)
            for colour, (run_name, run) in enumerate(zip(names(runs), runs, strict=True), 1)
        ]
        # A few updates may have gradients of a hundred times the others' norm.
        yield from _plot(name.replace("/", "-"), title, curves, log=name == "train/grad_norm")


def colours(run: Run) -> dict[str, int]:
    """Of the weights of one run, by prefix."""
    return {"val": 2} | {prefix: min(1 + 2 * i, 7) for i, prefix in enumerate(run.averages())}


def _of_score(runs, number, score):
    """The weights of one of the runs, and what it was trained on."""
    run, alone = runs[number], len(runs) == 1
    label = (lambda words: words) if alone else (lambda words: f"{names(runs)[number]}, {words}")
    if score == "loss":
        colour = GREY if alone else number + 1
        yield figures.Curve(label("training"), run.series("train/loss"), colour, "faint")
    for prefix, weights in run.weights().items():
        dash = {"val": "dashed", "val_ema": "solid"}.get(prefix, "dotted")
        colour = colours(run)[prefix] if alone else number + 1
        yield figures.Curve(label(weights), run.series(f"{prefix}/{score}"), colour, dash)


def _plot(name, title, curves, **keywords):
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return
    words = [
        f"{curve.label}: {tables.text(curve.points[0][1])} at step {curve.points[0][0]:,}, "
        f"{tables.text(curve.points[-1][1])} at step {curve.points[-1][0]:,}."
        for curve in curves
    ]
    yield figures.Plot(
        name=name,
        title=title,
        svg=figures.curves(name, curves, **keywords),
        description=f"{title} over the steps. {' '.join(words)}",
        legend=[curve for curve in curves if len(curves) > 1],
        header=["step", *(curve.label for curve in curves)],
        rows=tables.logged([curve.points for curve in curves]),
    )
