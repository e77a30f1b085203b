"""What the weights of a run say of its validation images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convnext import sharding
from convnext.data import sources
from convnext.errors import InputError, require
from convnext.evaluation import activation, evaluate
from convnext.runs import checkpoint
from convnext.training import losses, metrics, steps
from convnext.weights import pretrained
from tools.reporting.runs import Run

MISTAKES = 24  # in the gallery
PICTURE = 192  # pixels, side that smaller images are enlarged to


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class."""

    index: int  # among the validation images
    label: int
    prediction: int
    confidence: float  # probability of the prediction
    image: np.ndarray  # uint8 [H, W, 3], as the model sees it
    overlay: np.ndarray  # the same with the map of the prediction over it


@dataclass(frozen=True)
class Findings:
    """Of the weights after `step`."""

    step: int
    num_params: int
    class_names: tuple[str, ...]
    totals: Mapping[str, Mapping[str, Any]]  # sums of metrics.details, by prefix ("val", ...)
    # Of each image, int [N], by the weights that are reported; None where it has no single label.
    labels: np.ndarray | None
    predictions: np.ndarray | None
    mistakes: tuple[Mistake, ...]  # the most confident first


def find(run: Run, *, data_root: str | None, batch_size: int, num_workers: int | None) -> Findings:
    """Evaluates the newest checkpoint of a run, raw and averaged, on its validation images.

    data_root and num_workers: in place of the run's, where not None. Raises InputError where there
    is no checkpoint, the data cannot be found or is of other classes.
    """
    mesh = sharding.make_mesh()
    sharding.check_batch_size(batch_size, mesh)
    step = checkpoint.latest_step(run.workdir)
    if not step:
        raise InputError(f"no checkpoint in {run.workdir}", "a run that has saved one")
    source = _source(run, data_root)
    # The step is said, so that all are of the same where the run goes on meanwhile.
    load = partial(pretrained.load, run.workdir, step=step, dtype=run.config["model"]["dtype"])
    found = {"val": load(weights="raw")}
    for prefix, decay in zip(run.averages(), run.config["ema_decays"], strict=True):
        found[prefix] = load(weights=f"ema_{decay}")
    reported = found[run.reported]

    batches = partial(
        evaluate.batches, source, reported.processor, mesh, batch_size=batch_size,
        num_workers=run.config["num_workers"] if num_workers is None else num_workers,
        max_bad_images=run.config["max_bad_images"], problem_type=run.problem_type,
    )  # fmt: skip
    eval_step = partial(evaluate.eval_step, reported.model, reported.processor, mesh)
    totals = steps.evaluate(
        eval_step(partial(metrics.details, problem_type=run.problem_type)),
        {prefix: weights.params for prefix, weights in found.items()},
        batches(),
    )
    said, mistakes = {}, ()
    if run.problem_type == losses.SINGLE_LABEL:
        said = steps.collect(eval_step(metrics.outputs), reported.params, batches())
        mistakes = _mistakes(said, source, reported)
    return Findings(
        step=step,
        num_params=sum(leaf.size for leaf in jax.tree.leaves(reported.params)),
        class_names=reported.labels,
        totals=totals,
        labels=said.get("label"),
        predictions=said.get("prediction"),
        mistakes=mistakes,
    )


def _source(run, data_root):
    data = {**run.config["data"], **({} if data_root is None else {"root": data_root})}
    try:
        _, source = sources.load(**data)
    except InputError as error:
        raise InputError(
            f"the data of {run.workdir} cannot be read: {error.problem}",
            "--data_root, where it lies now",
        ) from error
    if run.problem_type != losses.REGRESSION:
        pairs = list(zip_longest(source.class_names, _class_names(run.workdir)))
        for index, (here, there) in enumerate(pairs):
            accepted = f"{there!r}, as in the run {run.workdir}"
            require(here == there, f"class {index} of the data", here, accepted)
    size = run.config["val_size"]
    require(len(source) == size, "the number of validation images", len(source),
            f"{size}, as in the run")  # fmt: skip
    return source


def _class_names(workdir: Path):
    try:
        return json.loads((workdir / "classes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{workdir}/classes.json: {error}", "that of a run") from error


def _mistakes(said, source, reported):
    """The most confident ones, with the map of what they were taken for."""
    wrong = np.flatnonzero(said["prediction"] != said["label"])
    worst = wrong[np.argsort(-said["confidence"][wrong], kind="stable")][:MISTAKES]
    if not worst.size:
        return ()
    indices, predictions = said["index"][worst], said["prediction"][worst]
    preprocess = partial(reported.processor.preprocess, [source[i]["image"] for i in indices])
    images = preprocess(do_rescale=False, do_normalize=False).astype(np.uint8)
    heat = jax.jit(partial(activation.class_activation, model=reported.model))(
        reported.params, preprocess(), predictions
    )
    factor = -(-PICTURE // reported.processor.size)
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    return tuple(
        Mistake(
            index=int(said["index"][at]),
            label=int(said["label"][at]),
            prediction=int(said["prediction"][at]),
            confidence=float(said["confidence"][at]),
            image=image,
            overlay=activation.overlay(image, map_of_it),
        )
        for at, image, map_of_it in zip(worst, images, np.asarray(heat), strict=True)
    )
