"""Weights from anywhere on a source of images, outside of a training run; the step, sums and
batches are those of training."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import progress
from rich.console import Console

from convnext import sharding
from convnext.data import pipeline, sources
from convnext.data.batches import EvalBatches, process_rows
from convnext.errors import require
from convnext.images import augment
from convnext.images.processor import ImageProcessor
from convnext.kernels.outline import compiler_options
from convnext.task import Batch, Evaluation, Source, Variables, append, joined
from convnext.training import losses, steps
from convnext.weights.pretrained import Pretrained


def totals(
    evaluation: Evaluation,
    weights: Mapping[str, Variables],
    *,
    batch_size: int,
    num_workers: int = 0,
    max_bad_images: int = 0,
    report: Callable[[str], None] = print,
    show: str | None = None,
) -> dict[str, Any]:
    """Evaluates each of the weights, in one pass; returns the totals that evaluation.scores takes.

    The weights are copied to every device. report: is given what is wrong with an image that is
    skipped. show: the name of a progress bar, on a terminal.
    """
    mesh = sharding.make_mesh()
    sharding.check_batch_size(batch_size, mesh)
    by_batch, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    eval_step = jax.jit(
        partial(steps.eval_step, measure=evaluation.measure),
        in_shardings=(replicated, by_batch),
        out_shardings=replicated,
        compiler_options=compiler_options(),
    )
    weights = {
        name: jax.device_put(jax.device_get(variables), replicated)
        for name, variables in weights.items()
    }
    batches = EvalBatches(
        evaluation.source,
        evaluation.transform,
        evaluation.groups,
        batch_size=batch_size,
        rows=process_rows(batch_size),
        max_bad_images=max_bad_images,
    )
    console = Console(stderr=True)
    with pipeline.Feed(by_batch, num_workers, report) as feed:
        bar = progress.track(
            feed.evaluate(batches),
            show or "",
            len(batches),
            transient=True,
            console=console,
            disable=show is None or not console.is_terminal,
        )
        return steps.evaluate(eval_step, evaluation, weights, bar)


def features(
    found: Pretrained, source: Source, *, of_head: bool = False, **options: Any
) -> dict[str, np.ndarray]:
    """Computes features [N, dims[-1]], pooled and normalised, and label [N] of every example, in
    order. of_head: what the last layer gets, which for some models is a hidden layer. options:
    `totals`."""
    model = found.model if of_head else found.model.clone(head_hidden_size=None)
    headless = replace(found, model=model.clone(num_classes=None))

    def measure(features, batch):
        return {"features": features, "label": batch["label"]}

    evaluation = rows(headless, source, measure)
    total = totals(evaluation, {"": {"params": found.params}}, **options)[""]
    return evaluation.scores(total)


def rows(
    found: Pretrained,
    source: Source,
    measure: Callable[[jax.Array, Batch], Mapping[str, jax.Array]],
) -> Evaluation:
    """Makes the evaluation that keeps what `measure` returns of (logits, batch) for each example.

    Its scores are arrays {name: [examples, ...], "index"} in the source's order. A model without a
    head has features for logits.
    """
    source = checked(source, found.problem_type or losses.SINGLE_LABEL)
    logits = logits_of(found)

    def measure_rows(variables: Variables, batch: Batch):
        values = measure(logits(variables, batch["image"]), batch)
        return {**values, "mask": batch["mask"], "index": batch["index"]}

    return Evaluation(
        source=source,
        transform=transform_of(found.processor),
        measure=measure_rows,
        combine=append,
        scores=joined,
    )


def checked(source: Source, problem_type: str) -> Source:
    """Returns the source; a single label that is of no class is refused where it is read."""
    if problem_type != losses.SINGLE_LABEL:
        return source
    return sources.Labelled(source, "evaluation image")


def transform_of(processor: ImageProcessor, crops: int = 1) -> Callable[[dict], dict]:
    """Makes the transform of an image processor; with crops 5 an image is [5, size, size, 3]."""
    require(processor.do_resize, "the image processor's do_resize", False, "True")
    return partial(
        augment.evaluate,
        image_size=processor.size,
        crop_pct=processor.crop_pct,
        crop_mode=processor.crop_mode,
        crop_rounding=processor.crop_rounding,
        resample=processor.resample,
        crops=crops,
    )


def logits_of(
    found: Pretrained, crops: int = 1, flip: bool = False
) -> Callable[[Variables, jax.Array], jax.Array]:
    """Makes the function from variables and uint8 images [N, H, W, C], or [N, 5, H, W, C] with
    crops 5, to logits [N, K]; of several views, to the logarithms of the mean probabilities."""
    processor, model = found.processor, found.model
    mean, std = (0.0,) * 3, (1.0,) * 3
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    rescales = processor.do_rescale and abs(processor.rescale_factor * 255 - 1) < 1e-6
    require(rescales, "the image processor's rescale_factor", processor.rescale_factor, "1 / 255")

    def logits(variables: Variables, images: jax.Array) -> jax.Array:
        images = steps.normalize(images, mean=mean, std=std)
        if crops == 1 and not flip:
            return model.apply(variables, images, train=False)
        images = images if images.ndim == 5 else images[:, None]
        if flip:
            images = jnp.concatenate([images, images[:, :, :, ::-1]], axis=1)
        count, views = images.shape[:2]
        each = model.apply(variables, images.reshape(-1, *images.shape[2:]), train=False)
        log_probs = jax.nn.log_softmax(each).reshape(count, views, -1)
        return jax.nn.logsumexp(log_probs, axis=1) - jnp.log(views)

    return logits
