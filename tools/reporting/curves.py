"""Curves of a run, or of several runs in the same plots."""

from collections.abc import Iterator, Sequence

from convnext.training import metrics
from tools.reporting import figures, tables
from tools.reporting.runs import Run, names

SCORES = {
    "loss": "Loss",
    "top1": "Top-1",
    "top5": "Top-5",
    "mae": "Mean absolute error",
    "ece": "Calibration error",
}
TRAINING = {
    "train/lr": "Learning rate",
    "train/images_per_second": "Images per second",
    "train/grad_norm": "Norm of the gradients",
    "data/wait_fraction": "Share of time waiting for images",
}
GREY = figures.NUM_COLOURS


def plots(runs: Sequence[Run]) -> Iterator[figures.Plot]:
    """Yields a plot of each kind of value that any of the runs has logged. With one run each of its
    weights has a colour. With several each run has a colour, and dashes tell its weights apart."""
    run_names, alone = names(runs), len(runs) == 1
    run_colours = [figures.Curve(name, (), i) for i, name in enumerate(run_names, 1) if not alone]
    for score in ("loss", runs[0].score):
        curves, dashes = [], {}
        for number, (name, run) in enumerate(zip(run_names, runs, strict=True), 1):
            for curve in _score_curves(run, score):
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
    """Returns {prefix: colour} of the weights of one run."""
    return {metrics.RAW: 2} | {prefix: min(1 + 2 * i, 7) for i, prefix in enumerate(run.emas())}


def _score_curves(run, score):
    """Yields a curve for each of a run's weights, and one for the training loss."""
    if score == "loss" and (points := run.series("train/loss")):
        yield figures.Curve("training", points, GREY, "faint")
    for prefix, weights in run.weights().items():
        dash = {metrics.RAW: "dashed", metrics.EMA: "solid"}.get(prefix, "dotted")
        if points := run.series(f"{prefix}/{score}"):
            yield figures.Curve(weights, points, colours(run)[prefix], dash)


def _plot(name, title, curves, legend, **keywords):
    """Yields the plot, if anything was logged."""
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
