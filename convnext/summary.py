"""What a run is made of, said before it begins."""

from typing import Any

import jax
import optax

from convnext.model import ConvNeXt


def parameter_count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def macs(model: ConvNeXt, image_size: int) -> int:
    """Multiply-accumulates of one square image's forward pass, in convolutions and linear layers.

    The papers call this FLOPs.
    """
    side, channels, total = image_size, model.in_chans, 0
    for i, (depth, dim) in enumerate(zip(model.depths, model.dims, strict=True)):
        patch = 2 if i else model.patch_size
        side //= patch
        patchify = patch**2 * channels * dim
        block = 7**2 * dim + 2 * 4 * dim**2
        total += side**2 * (patchify + depth * block)
        channels = dim
    for width in (model.head_hidden_size, model.num_classes):
        if width:
            total += channels * width
            channels = width
    return total


def describe(
    *,
    model: ConvNeXt,
    params: Any,
    image_size: int,
    mesh: jax.sharding.Mesh,
    train_size: int,
    val_size: int,
    batch_size: int,
    steps_per_epoch: int,
    num_epochs: int,
    warmup_epochs: int,
    schedule: optax.Schedule,
) -> str:
    """A few lines for the start of a run."""
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    steps = steps_per_epoch * num_epochs
    gmacs = macs(model, image_size) / 1e9
    points = {1, warmup_epochs * steps_per_epoch, steps // 4, steps // 2, steps} - {0}
    rates = (f"{schedule(step - 1):.4g} at step {step:,}" for step in sorted(points))
    return "\n".join(
        [
            f"devices    {jax.device_count()} {jax.default_backend()}, mesh {axes}",
            f"model      {parameter_count(params):,} parameters, {gmacs:.4g} GMACs at {image_size} "
            f"px, {model.num_classes} classes, depths {tuple(model.depths)}, "
            f"dims {tuple(model.dims)}",
            f"data       {train_size:,} images to train on, {val_size:,} to validate on",
            f"steps      {steps_per_epoch:,} per epoch of {batch_size:,} images, {num_epochs} "
            f"epochs, {steps:,} in all",
            f"rate       {', '.join(rates)}",
        ]
    )
