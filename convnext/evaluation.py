"""A model on a source of images, as eval.py and the tools evaluate it.

The step, the sums and the batches are those of training (steps.py, metrics.py, data/pipeline.py).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax

from convnext import sharding, steps
from convnext.data import augment, pipeline
from convnext.data.sources import Source
from convnext.errors import require
from convnext.model import ConvNeXt
from convnext.preprocessing import ImageProcessor


def eval_step(
    model: ConvNeXt, processor: ImageProcessor, mesh: jax.sharding.Mesh, measure: Callable
) -> Callable[[Any, dict[str, jax.Array]], Any]:
    """The compiled steps.eval_step, (params, batch) -> what `measure` makes of it."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    rescales = processor.do_rescale and abs(processor.rescale_factor * 255 - 1) < 1e-6
    require(rescales, "the image processor's rescale_factor", processor.rescale_factor, "1 / 255")
    replicated = sharding.replicated(mesh)
    return jax.jit(
        partial(
            steps.eval_step,
            model=model,
            normalize=partial(steps.normalize, mean=mean, std=std),
            measure=measure,
        ),
        in_shardings=(replicated, sharding.of_batch(mesh)),
        out_shardings=replicated,
    )


def batches(
    source: Source,
    processor: ImageProcessor,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    num_workers: int = 0,
    max_bad_images: int = 0,
) -> Iterator[dict[str, jax.Array]]:
    """Every example once, {image uint8 [N, size, size, 3], label, mask}, on the devices."""
    sharding.check_batch_size(batch_size, mesh)
    require(processor.do_resize, "the image processor's do_resize", False, "True")
    transform = partial(
        augment.eval_transform, image_size=processor.size, crop_pct=processor.crop_pct,
        crop_mode=processor.crop_mode, crop_rounding=processor.crop_rounding,
        resample=processor.resample,
    )  # fmt: skip
    host_batches = pipeline.EvalBatches(
        source, transform, batch_size=batch_size, rows=pipeline.process_rows(batch_size),
        max_bad_images=max_bad_images,
    )  # fmt: skip
    return pipeline.to_devices(host_batches, sharding.of_batch(mesh), num_workers=num_workers)
