"""What a run is made of, said before it begins."""

import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from convnext.training import mixup, optimizer
from convnext.kernels import outline
from convnext.models.convnext import ConvNeXt


def parameter_count(params: Any) -> int:
    """Of all arrays together."""
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
    accumulation_steps: int,
    steps_per_epoch: int,
    num_epochs: int,
    warmup_epochs: int,
    schedule: optax.Schedule,
) -> str:
    """A few lines for the start of a run."""
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    rows = batch_size // mesh.size // accumulation_steps
    steps = steps_per_epoch * num_epochs
    gmacs = macs(model, image_size) / 1e9
    peak = warmup_epochs * steps_per_epoch or 3 * steps // 4  # of five points, where it is one
    points = {1, peak, steps // 4, steps // 2, steps} - {0}
    rates = (f"{schedule(step - 1):.4g} at step {step:,}" for step in sorted(points))
    return "\n".join(
        [
            f"devices    {jax.device_count()} {jax.default_backend()}, mesh {axes}",
            f"model      {parameter_count(params):,} parameters, {gmacs:.4g} GMACs at {image_size} "
            f"px, {model.num_classes} classes, depths {tuple(model.depths)}, "
            f"dims {tuple(model.dims)}",
            precision(model),
            f"data       {train_size:,} images to train on, {val_size:,} to validate on",
            f"batch      {batch_size:,} images: devices {mesh.size} x parts {accumulation_steps} x "
            f"images {rows:,}",
            f"steps      {steps_per_epoch:,} per epoch, {num_epochs} epochs, {steps:,} in all",
            f"rate       {', '.join(rates)}",
        ]
    )


# What products of float32 are where nothing else is asked for, by platform.
DEFAULT_PRODUCTS = {
    "cuda": "TF32 on NVIDIA's from Ampere on",
    "rocm": "TF32 on some of AMD's",
    "tpu": "one pass in bfloat16",
}


def precision(model: ConvNeXt) -> str:
    """What training computes in, in one line."""
    dtype, platform = jnp.dtype(model.dtype).name, outline.platform()
    asked = jax.config.jax_default_matmul_precision
    how = "" if model.map_dtype == dtype else f", sums along the blocks in {model.map_dtype.name}"
    if dtype == "float32" and asked:
        how = f", products of precision {asked}, as JAX_DEFAULT_MATMUL_PRECISION says"
    elif dtype == "float32" and platform in DEFAULT_PRODUCTS:
        how = (
            f", products by the device's default, {DEFAULT_PRODUCTS[platform]}; "
            "JAX_DEFAULT_MATMUL_PRECISION=highest is for float32 throughout"
        )
    return f"precision  {dtype}{how}"


def mixing(
    batch_size: int,
    num_devices: int,
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    prob: float,
    switch_prob: float,
    label_smoothing: float,
    mode: str,
    group_size: int,
) -> str:
    """How `mixup.mix` is called."""
    how = "none"
    if mixup_alpha or cutmix_alpha:
        group_size = mixup.capped_group_size(batch_size, group_size)
        rows = batch_size // num_devices
        across = ""
        if rows % group_size:
            # The last start of a group on a device is the most that leaves a common divisor.
            most = -(-(rows - math.gcd(rows, group_size) + group_size) // rows)
            across = f" across up to {most} devices (group_size {rows} moves no image)"
        how = (
            f"groups of {group_size}{across}, mode {mode}, mixup_alpha {mixup_alpha:g}, "
            f"cutmix_alpha {cutmix_alpha:g}, prob {prob:g}, switch_prob {switch_prob:g}"
        )
    return f"mixing     {how}, label_smoothing {label_smoothing:g}"


def averages(ema_decays: Sequence[float], ema_warmup: bool) -> str:
    """The decays of the averages, in one line."""
    decays = ", ".join(f"{decay:g}" for decay in ema_decays)
    return f"averages   {decays or 'none'}{' with a warm-up' if decays and ema_warmup else ''}"


def published(top1: float | None, source: str | None) -> str:
    """The accuracy to expect, in percent; None where there is none. source says more."""
    accuracy = "nothing" if top1 is None else f"{top1:.1f} top-1"
    return f"published  {accuracy}{f' ({source})' if source else ''}"


def updates(
    params: Any,
    *,
    frozen: str | None,
    weight_decay: float,
    weight_decay_end: float | None,
    b1: float,
    b2: float,
    eps: float,
    clip_norm: float | None,
    layer_decay: float,
    layer_decay_type: str,
) -> str:
    """How `optimizer.adamw` updates each parameter.

    A paragraph for those that it treats alike: the factor on the learning rate, the weight decay,
    how many parameters in how many arrays, and their names (`compact`).
    """
    end = "" if weight_decay_end is None else f" to {weight_decay_end:g}"
    marks = zip(
        jax.tree.leaves_with_path(params),
        jax.tree.leaves(optimizer.layer_scales(params, layer_decay, layer_decay_type)),
        jax.tree.leaves(optimizer.decay_mask(params)),
        jax.tree.leaves(optimizer.frozen_mask(params, frozen)),
        strict=True,
    )
    groups = defaultdict(list)
    for (path, leaf), scale, is_decayed, is_frozen in marks:
        rule = f"rate x {scale:.4g}, decay {f'{weight_decay:g}{end}' if is_decayed else 0}"
        order = (is_frozen, not is_frozen and (scale, not is_decayed))
        name = "/".join(entry.key for entry in path)
        groups[order, "frozen" if is_frozen else rule].append((name, leaf.size))

    clipped = "not clipped" if clip_norm is None else f"clipped to a norm of {clip_norm:g}"
    lines = [f"updates    AdamW, b1 {b1:g}, b2 {b2:g}, eps {eps:g}, gradients {clipped}"]
    for (_, rule), members in sorted(groups.items()):
        names, sizes = zip(*members, strict=True)
        head = f"{rule}; {sum(sizes):,} in {len(sizes)}: "
        lines += textwrap.wrap(
            head + " ".join(compact(names)), width=100, break_long_words=False,
            break_on_hyphens=False, initial_indent="  ", subsequent_indent="    ",
        )  # fmt: skip
    return "\n".join(lines)


def compact(names: Iterable[str]) -> list[str]:
    """Names of parameters, in the braces of a shell: what a module holds, and the numbers of those
    that hold the same, as in "stage_2_block_{0..8}/{gamma,norm/scale}"."""
    held = defaultdict(list)
    for name in names:
        module, _, rest = name.partition("/")
        held[module].append(rest)
    alike = defaultdict(list)
    for module, rests in held.items():
        before, number, after = re.fullmatch(r"(.*?)(\d*)(\D*)", module).groups()
        alike[before, after, tuple(rests)].append(number)
    return [
        f"{before}{_numbers(numbers)}{after}/{_braces(rests)}"
        for (before, after, rests), numbers in alike.items()
    ]


def _numbers(texts):
    """A range, where there are no gaps."""
    texts = sorted(texts, key=lambda text: (len(text), text))
    if len(texts) > 2 and int(texts[-1]) - int(texts[0]) == len(texts) - 1:
        return f"{{{texts[0]}..{texts[-1]}}}"
    return _braces(texts)


def _braces(texts):
    return texts[0] if len(texts) == 1 else f"{{{','.join(texts)}}}"
