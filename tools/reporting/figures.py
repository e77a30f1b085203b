"""Plots as SVG for a page. Text stays text, and the colours are the page's.

Each colour is drawn as a stand-in, which is then replaced with a custom property of the page:
--ink, --muted, --grid, --series-1 to --series-8. So the plots follow the theme of the page.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from convnext.runs.plots import share_range

NUM_COLOURS = 8
STAND_INS = {"ink": "#0101a1", "muted": "#0101a2", "grid": "#0101a3"} | {
    f"series-{i}": f"#0101b{i}" for i in range(1, NUM_COLOURS + 1)
}
STYLE = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.color": STAND_INS["ink"],
    "axes.edgecolor": STAND_INS["grid"],
    "axes.labelcolor": STAND_INS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": STAND_INS["grid"],
    "grid.linewidth": 0.7,
    "xtick.color": STAND_INS["grid"],
    "ytick.color": STAND_INS["grid"],
    "xtick.labelcolor": STAND_INS["muted"],
    "ytick.labelcolor": STAND_INS["muted"],
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10.5,
    "ytick.labelsize": 10.5,
    "lines.linewidth": 1.7,
}
POINTS = 400  # a curve with more points is drawn as STRETCHES
STRETCHES = 100
# Colours of a confusion matrix, which can be seen on both themes.
RIGHT, WRONG = (0x2B, 0x6C, 0xB8), (0xD4, 0x5A, 0x12)


@dataclass(frozen=True)
class Curve:
    """A line in a plot."""

    label: str
    points: Sequence[tuple[int, float]]  # (step, value); NaN leaves a gap
    colour: int  # 1 to NUM_COLOURS
    dash: str = "solid"  # one of DASHES
    among_others: bool = False  # of other runs, which a shaded range would hide


@dataclass(frozen=True)
class Weights:
    """Weights of a model in a reliability diagram."""

    label: str
    colour: int
    sums: Mapping[str, np.ndarray]  # of_confidence, of metrics.details


@dataclass(frozen=True)
class Plot:
    """A figure of the page, with a description in words and a table."""

    name: str
    title: str
    svg: Markup
    description: str
    legend: Sequence[Curve]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


DASHES = {
    "solid": {},
    "faint": {"linewidth": 1.0, "alpha": 0.75},
    "dashed": {"linestyle": (0, (5, 2))},
    "dotted": {"linestyle": (0, (1.2, 1.6))},
}


def curves(name: str, drawn: Sequence[Curve], *, is_share: bool = False) -> Markup:
    """Draws values over steps. is_share: the values are shares of 1, and the axis shows the upper
    end."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(4.9, 3.0), layout="constrained")
        axis = figure.subplots()
        finite = []
        for number, curve in enumerate(drawn):
            colour, dash = STAND_INS[f"series-{curve.colour}"], DASHES[curve.dash]
            x, low, mean, high = stretches(curve.points)
            marker = {"marker": "o", "markersize": 3.5} if len(x) == 1 else {}
            axis.plot(x, mean, color=colour, gid=f"data-{number}", **dash, **marker)
            if (low < high).any() and not curve.among_others:
                axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
            finite.append(mean[np.isfinite(mean)])
        values = np.concatenate([*finite, []])
        highest = values.max(initial=0)
        if is_share:
            axis.set_ylim(share_range([curve for curve in finite if len(curve)]))
        elif len(values) and values.min() > 0 and highest > 20 * np.median(values):
            # The gradients of a few updates have a hundred times the usual norm.
            axis.set_yscale("log")
        whole = FuncFormatter(lambda x, _: f"{x:,.0f}")
        if highest >= 1000:
            axis.yaxis.set_major_formatter(whole)
        axis.set_xlabel("step")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.xaxis.set_major_formatter(whole)
        return _svg(figure, name)


def stretches(points: Sequence[tuple[int, float]]) -> np.ndarray:
    """Returns [4, n]: step, lowest, mean and highest value. More than POINTS points are summarised
    in STRETCHES parts, with NaN for a part without finite values."""
    x, y = np.array(points, float).T
    if len(points) <= POINTS:
        return np.stack([x, y, y, y])
    parts = zip(np.array_split(x, STRETCHES), np.array_split(y, STRETCHES), strict=True)
    columns = []
    for steps, values in parts:
        finite = values[np.isfinite(values)]
        ends = (finite.min(), finite.mean(), finite.max()) if finite.size else (np.nan,) * 3
        columns.append((steps.mean(), *ends))
    return np.array(columns).T


def reliability(name: str, weights: Sequence[Weights]) -> Markup:
    """Draws accuracy over confidence, and below it the share of the images in each part of
    [0, 1]."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.6, 5.0), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color=STAND_INS["muted"], linewidth=1, linestyle=(0, (4, 3)))
        for number, each in enumerate(weights):
            sums, colour = each.sums, STAND_INS[f"series-{each.colour}"]
            filled = sums["count"] > 0
            count = sums["count"][filled]
            x, y = sums["confidence"][filled] / count, sums["hits"][filled] / count
            above.plot(x, y, color=colour, linewidth=1.2, gid=f"data-{number}")
            # A point that few images are behind is small.
            above.scatter(x, y, color=colour, s=4 + 50 * np.sqrt(count / count.sum()), zorder=3)
            edges = np.linspace(0, 1, len(sums["count"]) + 1)
            below.stairs(sums["count"] / count.sum(), edges, color=colour, linewidth=1.4)
        above.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        below.set(ylabel="share", xlabel="confidence", ylim=(0, None))
        return _svg(figure, name)


def overview(
    name: str, labels: np.ndarray, predictions: np.ndarray, num_classes: int, largest: int = 200
) -> tuple[Markup, int]:
    """Draws the whole confusion matrix as a picture of at most `largest` rows. Returns the picture
    and the number of classes that a row stands for. labels and predictions: int [N]."""
    step = -(-num_classes // largest)
    size = -(-num_classes // step)
    hits, mistakes = np.zeros((2, size, size))
    right = labels == predictions
    np.add.at(hits, (labels[right] // step, predictions[right] // step), 1)
    np.add.at(mistakes, (labels[~right] // step, predictions[~right] // step), 1)
    # Shades follow the logarithm, so that one mistake can be seen beside a hundred.
    shade = lambda m: np.log1p(m) / max(np.log1p(m.max()), 1e-9)  # noqa: E731
    picture = np.zeros((size, size, 4), np.uint8)
    is_right = shade(hits) >= shade(mistakes)
    picture[..., :3] = np.where(is_right[..., None], RIGHT, WRONG)
    strength = np.where(is_right, shade(hits), shade(mistakes))
    picture[..., 3] = np.where(strength > 0, 45 + 210 * strength, 0)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name, "axes.grid": False}):
        figure = Figure(figsize=(5.6, 5.4), layout="constrained")
        axis = figure.subplots()
        extent = (0, size * step, size * step, 0)
        axis.imshow(picture, interpolation="none", gid="data-0", extent=extent)
        axis.set(xlabel="predicted class, by number", ylabel="label, by number")
        axis.set(xlim=(0, num_classes), ylim=(num_classes, 0))
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(MaxNLocator(5, integer=True))
        return _svg(figure, name), step


def _svg(figure: Figure, name: str) -> Markup:
    """Returns the `<svg>` alone, with ids that begin with `name`. It is hidden from screen readers,
    as the page describes it beside the drawing."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    # The style rule of an SVG would apply to the whole page.
    unwanted = r"<metadata>.*?</metadata>|<style.*?</style>"
    text = re.sub(unwanted, "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=xlink:href="#)', f"{name}-", text)
    # The font family is the page's.
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    for variable, stand_in in STAND_INS.items():
        text = text.replace(stand_in, f"var(--{variable})")
    view_box = re.search(r'viewBox="[^"]*"', text)[0]
    opening = f'<svg aria-hidden="true" focusable="false" {view_box}>'
    return Markup(opening + text[text.index(">") + 1 :])
