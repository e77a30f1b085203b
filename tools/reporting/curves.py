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
    "data/wait_fraction": "Share of time waiting for images",
}
GREY = figures.NUM_COLOURS


def plots(runs: Sequence[Run]) -> Iterator[figures.Plot]:
    """Of each kind of value that any of the runs has logged. The weights of one run have a colour
    each; of several runs, a run has one, and its weights are told apart by their dashes."""
    run_names, alone = names(runs), len(runs) == 1
    run_colours = [figures.Curve(name, (), i) for i, name in enumerate(run_names, 1) if not alone]
    for score in ("loss", runs[0].score):
        curves, dashes = [], {}
        for number, (name, run) in enumerate(zip(run_names, runs, strict=True), 1):
            for curve in _of_score(run, score):
                dashes[curve.label] = figures.Curve(curve.label, (), GREY, curve.dash)
                label = curve.label if alone else f"{name}, {curve.label}"
                colour = curve.colour if alone else number
                curves.append(
                    figures.Curve(label, curve.points, colour, curve.dash, among_others=not alone)
                )
        legend = curves if alone else [*run_colours, *dashes.values()]
        yield from _plot(score, SCORES[score], curves, legend, is_share=score == "top1")
    for logged, title in TRAINING.items():
        curves = [
            figures.Curve(name, run.series(logged), colour, among_others=not alone)
            for colour, (name, run) in enumerate(zip(run_names, runs, strict=True), 1)
        ]
        yield from _plot(logged.replace("/", "-"), title, curves, run_colours)


def colours(run: Run) -> dict[str, int]:
    """Of the weights of one run, by prefix."""
    return {"val": 2} | {prefix: min(1 + 2 * i, 7) for i, prefix in enumerate(run.averages())}


def _of_score(run, score):
    """Of the weights, and the loss of training."""
    if score == "loss" and (points := run.series("train/loss")):
        yield figures.Curve("training", points, GREY, "faint")
    for prefix, weights in run.weights().items():
        dash = {"val": "dashed", "val_ema": "solid"}.get(prefix, "dotted")
        if points := run.series(f"{prefix}/{score}"):
            yield figures.Curve(weights, points, colours(run)[prefix], dash)


def _plot(name, title, curves, legend, **keywords):
    """None where nothing was logged."""
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
        legend=legend,
        header=["step", *(curve.label for curve in curves)],
        rows=tables.logged([curve.points for curve in curves]),
    )
