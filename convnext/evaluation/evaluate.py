"""A model on a source of images, as eval.py and the tools evaluate it.

The step, the sums and the batches are those of training (steps.py, metrics.py, data/pipeline.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich import progress
from rich.console import Console

from convnext import sharding
from convnext.data import pipeline
from convnext.data.sources import Source
from convnext.errors import require
from convnext.evaluation import probing
from convnext.images import augment
from convnext.images.processor import ImageProcessor
from convnext.models.convnext import ConvNeXt
from convnext.training import losses, metrics, steps
from convnext.weights.pretrained import Pretrained


def eval_step(
    model: ConvNeXt,
    processor: ImageProcessor,
    mesh: jax.sharding.Mesh,
    measure: Callable,
    *,
    crops: int = 1,
    flip: bool = False,
) -> Callable[[Any, dict[str, jax.Array]], Any]:
    """The compiled steps.eval_step, (params, batch) -> what `measure` makes of it.

    With crops 5, the batches' too, or with `flip`, the mirror images as well, the probabilities
    are the mean of those of the views; `measure` gets their logarithms.
    """
    mean, std = (0.0,) * 3, (1.0,) * 3
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    rescales = processor.do_rescale and abs(processor.rescale_factor * 255 - 1) < 1e-6
    require(rescales, "the image processor's rescale_factor", processor.rescale_factor, "1 / 255")
    replicated = sharding.replicated(mesh)
    return jax.jit(
        partial(
            steps.eval_step,
            model=_Views(model, flip) if crops > 1 or flip else model,
            normalize=partial(steps.normalize, mean=mean, std=std),
            measure=measure,
        ),
        in_shardings=(replicated, sharding.of_batch(mesh)),
        out_shardings=replicated,
    )


class _Views(NamedTuple):
    """A model of images [N, V, H, W, C], or [N, H, W, C], in V views."""

    model: ConvNeXt
    flip: bool

    def apply(self, variables, images, train):
        images = images if images.ndim == 5 else images[:, None]
        if self.flip:
            images = jnp.concatenate([images, images[:, :, :, ::-1]], axis=1)
        count, views = images.shape[:2]
        logits = self.model.apply(variables, images.reshape(-1, *images.shape[2:]), train=train)
        log_probs = jax.nn.log_softmax(logits).reshape(count, views, -1)
        return jax.nn.logsumexp(log_probs, axis=1) - jnp.log(views)


def batches(
    source: Source,
    processor: ImageProcessor,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    num_workers: int = 0,
    max_bad_images: int = 0,
    crops: int = 1,
    problem_type: str = losses.SINGLE_LABEL,
    report: Callable[[str], None] = print,
) -> Iterator[dict[str, jax.Array]]:
    """Every example once, {image uint8 [N, size, size, 3], label, mask}, on the devices. With
    crops 5, image is [N, 5, size, size, 3]: augment.eval_transform."""
    sharding.check_batch_size(batch_size, mesh)
    require(processor.do_resize, "the image processor's do_resize", False, "True")
    transform = partial(
        augment.eval_transform, image_size=processor.size, crop_pct=processor.crop_pct,
        crop_mode=processor.crop_mode, crop_rounding=processor.crop_rounding,
        resample=processor.resample, crops=crops,
    )  # fmt: skip
    host_batches = pipeline.EvalBatches(
        source, transform, batch_size=batch_size, rows=pipeline.process_rows(batch_size),
        max_bad_images=max_bad_images, problem_type=problem_type,
    )  # fmt: skip
    return pipeline.to_devices(host_batches, sharding.of_batch(mesh), num_workers=num_workers,
                               report=report)  # fmt: skip


def features(
    model: ConvNeXt,
    params: Any,
    processor: ImageProcessor,
    mesh: jax.sharding.Mesh,
    batches: Iterable[dict[str, jax.Array]],
) -> dict[str, np.ndarray]:
    """features [N, dims[-1]], pooled and normalised, and label [N] of every example, on the
    host."""

    def measure(pooled, labels, mask):
        return {"features": pooled, "label": labels, "mask": mask}

    headless = model.clone(num_classes=None, head_hidden_size=None)
    return steps.collect(eval_step(headless, processor, mesh, measure), params, batches)


def evaluate(
    found: Pretrained,
    parts: Mapping[str, Source],
    *,
    batch_size: int,
    classes: Sequence[int] | None = None,
    crops: int = 1,
    flip: bool = False,
    quiet: bool = True,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """By the name of the part loss, top1, top5 (of a regression: loss, mae) and count over all of
    its examples; of a single label also ece, and class_accuracy, {class: None where it has no
    example}. Of several parts, first as "" the means over them, and the count of all.

    classes: see metrics.details; crops, flip: `eval_step`; options: `batches`. Without `quiet` a
    terminal shows the progress.
    """
    mesh = sharding.make_mesh()
    problem_type = found.problem_type or losses.SINGLE_LABEL
    measure = partial(metrics.details, problem_type=problem_type, classes=classes)
    step = eval_step(found.model, found.processor, mesh, measure, crops=crops, flip=flip)
    params = {"": jax.device_put(jax.device_get(found.params), sharding.replicated(mesh))}
    console = Console(stderr=True)
    results = {}
    for name, source in parts.items():
        bar = progress.track(
            batches(source, found.processor, mesh, batch_size=batch_size, crops=crops,
                    problem_type=problem_type, **options),
            name, -(-len(source) // batch_size), transient=True, console=console,
            disable=quiet or not console.is_terminal,
        )  # fmt: skip
        results[name] = _scores(steps.evaluate(step, params, bar)[""], source.class_names)
    if len(results) == 1:
        return results
    scores = [name for name in results[name] if name not in ("count", "class_accuracy")]
    means = {score: float(np.mean([r[score] for r in results.values()])) for score in scores}
    return {"": {**means, "count": sum(r["count"] for r in results.values())}, **results}


def probe(
    found: Pretrained, train_source: Source, source: Source, *, name: str, **options: Any
) -> dict[str, Any]:
    """`evaluate` of features in place of the head, by those of the images to learn from; name: see
    probing.probabilities, options: `batches`."""
    mesh = sharding.make_mesh()
    learned, asked = (
        features(
            found.model, found.params, found.processor, mesh,
            batches(part, found.processor, mesh, **options),
        )
        for part in (train_source, source)
    )  # fmt: skip
    probabilities = probing.probabilities(name, learned, asked["features"], len(source.class_names))
    logits = np.log(np.maximum(probabilities, 1e-12)).astype(np.float32)
    totals = metrics.details(logits, asked["label"], np.ones(len(logits), np.float32))
    return _scores(jax.tree.map(np.float64, totals), source.class_names)


def _scores(totals, class_names):
    result = metrics.means(totals)
    if "of_class" in totals:
        result["ece"] = metrics.calibration_error(totals["of_confidence"])
        accuracies = metrics.class_accuracy(totals["of_class"]).tolist()
        result["class_accuracy"] = {
            name: None if np.isnan(value) else value
            for name, value in zip(class_names, accuracies, strict=True)
        }
    return result
