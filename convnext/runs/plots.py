"""Pictures of a run."""

import os
from collections.abc import Mapping, Sequence
from typing import Any


def save_curves(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike, score: str) -> None:
    """Draws loss, a score and learning rate over the steps of a metrics.jsonl, as a PNG. Where the
    score is "loss" it has no panel of its own."""
    from matplotlib.figure import Figure  # it takes a second, which no command's start waits for

    names = sorted({name for line in lines for name in line})
    panels = {
        "loss": [name for name in names if name.endswith("/loss")],
        score: [name for name in names if name.endswith(f"/{score}")],
        "learning rate": ["train/lr"],
    }
    figure = Figure(figsize=(13, 3.6), layout="constrained")  # pyplot's would need a screen
    axes = figure.subplots(1, len(panels))
    drawn: dict[str, list[float]] = {}
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for name in curves:
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            if points:
                at, drawn[name] = zip(*points, strict=True)
                axis.plot(at, drawn[name], label=name)
        axis.set_title("top-1" if title == "top1" else title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend()
    if score != "loss":
        axes[1].set_ylim(share_range([drawn[name] for name in panels[score] if name in drawn]))
    figure.savefig(path, dpi=120)


def share_range(curves: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The part of [0, 1] that a plot of shares shows: the end is what one looks at, and that of
    each curve is in it. A curve at 1 lies below the frame."""
    ends = [curve[-1] for curve in curves]
    best = max((max(curve) for curve in curves), default=0)
    low = max(0, min(0.9, 1 - 4 * (1 - best), *(end - 0.05 for end in ends)))
    return low, 1 + 0.02 * (1 - low)
