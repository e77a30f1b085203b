"""Predictions of a run's weights for its validation images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convnext.data import sources
from convnext.data.folders import Files
from convnext.errors import InputError, require
from convnext.evaluation import activation
from convnext.runs import checkpoint
from convnext.task import Source
from convnext.tasks import classification, scoring
from convnext.training import losses, metrics
from convnext.weights import pretrained
from convnext.weights.pretrained import Pretrained
from tools.reporting.runs import Run

MISTAKES = 24  # in the gallery
PICTURE = 192  # pixels; images with a smaller side are enlarged to it


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class."""

    index: int  # among the validation images
    name: str  # of its file, or its number
    label: int
    prediction: int
    confidence: float  # probability of the prediction
    image: np.ndarray  # uint8 [H, W, 3], as the model sees it
    overlay: np.ndarray  # the same with the map of the prediction over it


@dataclass(frozen=True)
class Findings:
    """Scores, predictions and mistakes of the weights after `step`."""

    step: int
    num_params: int
    class_names: tuple[str, ...]
    totals: Mapping[str, Mapping[str, Any]]  # sums of metrics.details, by prefix ("val", ...)
    # Of the weights that are reported, [N]; None if images have no single label.
    labels: np.ndarray | None
    predictions: np.ndarray | None
    confidences: np.ndarray | None
    images: tuple[str, ...]  # their files, or their numbers
    mistakes: tuple[Mistake, ...]  # the most confident first


def find(run: Run, data_root: str | None, **options: Any) -> Findings:
    """Evaluates the newest checkpoint of a run, raw and EMA, on its validation images.

    data_root: None takes the run's. options: of scoring.totals. Raises InputError if there is no
    checkpoint, or if the data cannot be found or has other classes.
    """
    step = checkpoint.latest_step(run.workdir)
    if not step:
        raise InputError(f"no checkpoint in {run.workdir}", "a run that has saved one")
    source = _source(run, data_root)
    # The step is fixed, so that all weights are of one step even if the run is still training.
    load = partial(pretrained.load, run.workdir, step=step, dtype=run.config["model"]["dtype"])
    models = {metrics.RAW: load(weights="raw")}
    for prefix, decay in zip(run.emas(), run.config["ema_decays"], strict=True):
        models[prefix] = load(weights=f"ema_{decay}")
    reported = models[run.reported]

    weights = {prefix: {"params": each.params} for prefix, each in models.items()}
    details = classification.evaluation(reported, source)
    totals = scoring.totals(details, weights, **options)
    rows, mistakes = {}, ()
    if run.problem_type == losses.SINGLE_LABEL:
        rows = of_each(reported, source, **options)
        mistakes = _mistakes(rows, source, reported)
    return Findings(
        step=step,
        num_params=sum(leaf.size for leaf in jax.tree.leaves(reported.params)),
        class_names=reported.labels,
        totals=totals,
        labels=rows.get("label"),
        predictions=rows.get("prediction"),
        confidences=rows.get("confidence"),
        images=tuple(image_name(source, index) for index in rows.get("index", ())),
        mistakes=mistakes,
    )


def image_name(source: Source, index: int) -> str:
    """The file of an image, or its number in a source that has no files."""
    return str(source.path(index)) if isinstance(source, Files) else f"image {index:,}"


def of_each(found: Pretrained, source: Source, **options: Any) -> dict[str, np.ndarray]:
    """Prediction, confidence and label of each image. options: of scoring.totals."""
    outputs = scoring.rows(found, source, _outputs)
    weights = {"": {"params": found.params}}
    return outputs.scores(scoring.totals(outputs, weights, **options)[""])


def _outputs(logits, batch):
    return metrics.outputs(logits, batch["label"], batch["mask"])


def _source(run, data_root):
    _, source = sources.load_of_run(run.config["data"], data_root, str(run.workdir))
    if run.problem_type != losses.REGRESSION:
        pairs = list(zip_longest(source.class_names, _class_names(run.workdir)))
        for index, (here, there) in enumerate(pairs):
            accepted = f"{there!r}, as in the run {run.workdir}"
            require(here == there, f"class {index} of the data", here, accepted)
    count, size = len(source), run.config["val_size"]
    require(count == size, "the number of validation images", count, f"{size}, as in the run")
    return source


def _class_names(workdir: Path):
    try:
        return json.loads((workdir / "classes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{workdir}/classes.json: {error}", "the file as a run writes it"
        ) from error


def _mistakes(rows, source, reported):
    """Returns the most confident mistakes, with the map of the class that each was taken for."""
    wrong = np.flatnonzero(rows["prediction"] != rows["label"])
    worst = wrong[np.argsort(-rows["confidence"][wrong], kind="stable")][:MISTAKES]
    if not worst.size:
        return ()
    indices, predictions = rows["index"][worst], rows["prediction"][worst]
    preprocess = partial(reported.processor.preprocess, [source[i]["image"] for i in indices])
    images = preprocess(do_rescale=False, do_normalize=False).astype(np.uint8)
    heat = jax.jit(partial(activation.class_activation, model=reported.model))(
        reported.params, preprocess(), predictions
    )
    factor = -(-PICTURE // reported.processor.size)
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return tuple(
        Mistake(
            index=int(rows["index"][row]),
            name=image_name(source, rows["index"][row]),
            label=int(rows["label"][row]),
            prediction=int(rows["prediction"][row]),
            confidence=float(rows["confidence"][row]),
            image=image,
            overlay=activation.overlay(image, heat_map),
        )
        for row, image, heat_map in zip(worst, images, np.asarray(heat), strict=True)
    )
