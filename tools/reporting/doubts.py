"""Images whose label is likely wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convnext.data import sources
from convnext.data.folders import Files
from convnext.errors import InputError
from convnext.tasks import linear, scoring
from convnext.training import losses
from convnext.weights import pretrained
from tools.reporting.runs import Run

MOST = 20_000  # images whose features are computed
SHOWN = 24  # on the page


@dataclass(frozen=True)
class Doubt:
    """An image whose label is likely wrong, as linear.doubtful says."""

    path: Path
    part: str  # "train" or "val"
    label: int
    likeliest: int
    probabilities: tuple[float, float]  # of the label, of the likeliest class
    image: np.ndarray | None  # uint8 [H, W, 3]; None past the first SHOWN


@dataclass(frozen=True)
class Doubts:
    """What was found, or why nothing was looked for."""

    why_not: str = "not asked for"
    weights: str = ""  # whose features
    count: int = 0  # images
    images: Sequence[Doubt] = ()  # the likeliest first

    @property
    def shown(self) -> list[Doubt]:
        """Those with an image."""
        return [each for each in self.images if each.image is not None]


def find(run: Run, data_root: str | None, **options: Any) -> Doubts:
    """Fits linear classifiers to the features of all images of a run, training and validation, and
    compares the label of each with what one says that did not learn it.

    The features are those of the weights that the run started from, which have not seen the labels;
    of a run from random weights its own, which have. options: of scoring.totals.
    """
    if run.problem_type != losses.SINGLE_LABEL:
        return Doubts("an image has no single label in this run")
    train, val = sources.load_of_run(run.config["data"], data_root, str(run.workdir))
    parts = {"train": train, "val": val}
    count = sum(map(len, parts.values()))
    if not all(isinstance(source, Files) for source in parts.values()):
        return Doubts("the images of this run are no files of their own")
    if count > MOST:
        return Doubts(f"{count:,} images are more than {MOST:,}")
    start = run.config.get("init_from")
    try:
        found = pretrained.load(start) if start else pretrained.load(run.workdir)
    except InputError as error:
        return Doubts(f"the weights that the run started from cannot be read: {error.problem}")
    found = replace(found, processor=pretrained.processor_of_run(run.config))

    rows = {
        part: scoring.features(found, source, of_head=True, show="features", **options)
        for part, source in parts.items()
    }
    features, labels = (
        np.concatenate([each[name] for each in rows.values()]) for name in ("features", "label")
    )
    classes = len(parts["train"].class_names)
    probabilities = linear.held_out(features, labels, classes)
    places = [(part, index) for part, each in rows.items() for index in each["index"]]
    return Doubts(
        why_not="",
        weights=found.origin,
        count=len(labels),
        images=[
            Doubt(
                path=parts[part].path(index),
                part=part,
                label=int(labels[row]),
                likeliest=int(probabilities[row].argmax()),
                probabilities=(
                    float(probabilities[row, labels[row]]),
                    float(probabilities[row].max()),
                ),
                image=parts[part][index]["image"] if rank < SHOWN else None,
            )
            for rank, row in enumerate(linear.doubtful(probabilities, labels))
            for part, index in [places[row]]
        ],
    )
