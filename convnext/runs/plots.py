"""Pictures and tables of a run."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from convnext.errors import printable


def save_curves(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Loss, top-1 and learning rate over the steps of the lines of a metrics.jsonl, as a PNG."""
    names = sorted({name for line in lines for name in line})
    panels = {
        "loss": [name for name in names if name.endswith("/loss")],
        "top-1": [name for name in names if name.endswith("/top1")],
        "learning rate": ["train/lr"],
    }
    figure = Figure(figsize=(13, 3.6), layout="constrained")  # needs no screen, unlike pyplot's
    axes = figure.subplots(1, 3)
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for name in curves:
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=name)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend()
    best = max((line.get(name) or 0 for line in lines for name in panels["top-1"]), default=0)
    axes[1].set_ylim(max(0, min(0.9, 1 - 4 * (1 - best))), 1)  # the end is what one looks at
    figure.savefig(path, dpi=120)


def confusion_table(matrix: np.ndarray, class_names: Sequence[str], largest: int = 20) -> str:
    """Rows are labels, columns predictions. Past `largest` classes: the most frequent mistakes."""
    matrix, class_names = matrix.astype(int), [printable(name) for name in class_names]
    if len(class_names) > largest:
        mistakes = matrix * (1 - np.eye(len(matrix), dtype=int))
        order = np.argsort(-mistakes, axis=None, kind="stable")[:largest]
        pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
        return "\n".join(
            f"{mistakes[i, j]:6d} of {class_names[i]} taken for {class_names[j]}"
            for i, j in pairs
            if mistakes[i, j]
        )
    width = max(3, *(len(name) for name in class_names), len(str(matrix.max())))
    cells = [["", *class_names]]
    cells += [
        [name, *(str(count) if count else "." for count in row)]
        for name, row in zip(class_names, matrix, strict=True)
    ]
    return "\n".join(" ".join(cell.rjust(width) for cell in row) for row in cells)
