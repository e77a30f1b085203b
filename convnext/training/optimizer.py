"""The recipe's optimizer: AdamW, its schedule, what is decayed, and how fast each layer learns."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from convnext.errors import InputError, require

LAYER_DECAY_TYPES = ("group", "single")


def warmup_cosine(
    steps_per_epoch: int,
    num_epochs: int,
    *,
    peak_lr: float,
    end_lr: float = 1e-6,
    warmup_epochs: int = 20,
    v2: bool = False,
) -> optax.Schedule:
    """The official schedule: learning rate of the update after `step` updates.

    Linear from 0 over the steps of `warmup_epochs`, both ends included, then a cosine towards
    end_lr, which is not quite reached (`cosine_scheduler` in utils.py of the official code).
    Optax's schedule of this name peaks one step later, as does v2: ConvNeXt-V2's, a function of
    the epochs that are done (`adjust_learning_rate`). Computed in float64, held as float32.
    """
    require(peak_lr >= 0, "peak_lr", peak_lr, "0 and more")
    require(end_lr >= 0, "end_lr", end_lr, "0 and more")
    require(warmup_epochs >= 0, "warmup_epochs", warmup_epochs, "0 and more")
    num_steps = num_epochs * steps_per_epoch
    warmup_steps = warmup_epochs * steps_per_epoch
    if warmup_steps > num_steps:
        raise InputError(
            f"warmup_epochs is {warmup_epochs}", f"at most num_epochs, which is {num_epochs}"
        )
    warmup = np.linspace(0, peak_lr, warmup_steps, endpoint=not v2)
    progress = np.arange(num_steps - warmup_steps) / max(num_steps - warmup_steps, 1)
    cosine = end_lr + 0.5 * (peak_lr - end_lr) * (1 + np.cos(np.pi * progress))
    table = np.concatenate([warmup, cosine]).astype(np.float32)

    def schedule(step: int | jax.Array) -> np.float32 | jax.Array:
        return table[step] if isinstance(step, int) else jnp.asarray(table)[step]

    return schedule


def adamw(
    schedule: optax.Schedule,
    *,
    num_steps: int | None = None,
    weight_decay: float = 0.05,
    weight_decay_end: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float | None = None,
    layer_decay: float = 1.0,
    layer_decay_type: str = "group",
    frozen: str | None = None,
) -> optax.GradientTransformation:
    """AdamW as in PyTorch: the decay is scaled by the learning rate, and both by the layer's scale.

    The weight decay follows a cosine over num_steps from weight_decay to weight_decay_end, if there
    is one. clip_norm bounds the global norm of the gradients; None leaves clipping out. See
    `layer_scales` for layer_decay, `frozen_mask` for frozen. Raises InputError for what is out of
    range.
    """
    for name, value in dict(weight_decay=weight_decay, weight_decay_end=weight_decay_end).items():
        require(value is None or value >= 0, name, value, "0 and more")
    for name, value in dict(b1=b1, b2=b2).items():
        require(0 <= value < 1, name, value, "from 0 to below 1")
    require(eps > 0, "eps", eps, "above 0")
    require(clip_norm is None or clip_norm > 0, "clip_norm", clip_norm, "above 0, or None")
    require(0 < layer_decay <= 1, "layer_decay", layer_decay, "above 0, at most 1")
    decay = weight_decay
    if weight_decay_end is not None:
        decay = warmup_cosine(
            num_steps, 1, peak_lr=weight_decay, end_lr=weight_decay_end, warmup_epochs=0
        )

    def scale_layers(updates, params):
        return jax.tree.map(
            jnp.multiply, updates, layer_scales(params, layer_decay, layer_decay_type)
        )

    tx = optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(decay, mask=decay_mask),
        optax.scale_by_learning_rate(schedule),
        optax.identity() if layer_decay == 1 else optax.stateless(scale_layers),
    )
    if frozen is None:
        return tx

    def labels(params):
        return jax.tree.map(lambda at: "frozen" if at else "trained", frozen_mask(params, frozen))

    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def decay_mask(params: Any) -> Any:
    """True for kernels; biases, norms and gammas are not decayed (official optim_factory.py)."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def frozen_mask(params: Any, pattern: str | None) -> Any:
    """True for the parameters that the regular expression finds in, by names such as
    "stage_2_block_0/dwconv/kernel"; None finds none.

    "^(?!head/)" freezes all but the head: a linear probe. Raises InputError where the pattern is
    no regular expression, or leaves all parameters frozen or all trained.
    """
    if pattern is None:
        return jax.tree.map(lambda _: False, params)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"frozen is {pattern!r}: {error}", "a regular expression") from None
    mask = jax.tree.map_with_path(lambda path, _: bool(expression.search(_name(path))), params)
    found = jax.tree.leaves(mask)
    accepted = "a regular expression that finds some of the parameters, not all and not none"
    require(any(found) and not all(found), "frozen", pattern, accepted)
    return mask


def stop_gradients(params: Any, frozen: str | None) -> Any:
    """The same, but those of `frozen_mask` have a gradient of 0, which costs nothing."""
    mask = frozen_mask(params, frozen)
    return jax.tree.map(lambda p, at: jax.lax.stop_gradient(p) if at else p, params, mask)


def layer_scales(params: Any, layer_decay: float, layer_decay_type: str = "group") -> Any:
    """The factor on each parameter's learning rate: layer_decay**(layers above its own).

    "group" is the grouping of the official optim_factory.py: the stem; the first stage; the second;
    every three blocks of the third; the fourth; norm and head. That makes 12 groups below the head
    where the third stage has 27 blocks, and the 6 of the official detection code where it has 9.
    "single", of ConvNeXt-V2, has a layer for each block; the stem is in the first. In both, a
    downsampling counts to what follows it.

    Raises InputError for another type, and for "group" where there are not four stages and
    layer_decay is not 1.
    """
    require(layer_decay_type in LAYER_DECAY_TYPES, "layer_decay_type", layer_decay_type,
            " or ".join(LAYER_DECAY_TYPES))  # fmt: skip
    if layer_decay == 1:
        return jax.tree.map(lambda _: 1.0, params)
    depths = _depths(params)
    if layer_decay_type == "single":
        firsts = [1 + sum(depths[:stage]) for stage in range(len(depths))]
        stem, head, downsample = 1, 1 + sum(depths), firsts

        def block_layer(stage, block):
            return firsts[stage] + block

    else:
        require(len(depths) == 4, "layer_decay_type", f"group, of {len(depths)} stages",
                "single, or a model of 4 stages")  # fmt: skip
        last = 3 + -(-depths[2] // 3)
        stem, head, downsample = 0, last + 1, (None, 2, 3, last)

        def block_layer(stage, block):
            return (1, 2, 3 + block // 3, last)[stage]

    def scale(path, _):
        kind, *rest = path[0].key.split("_")
        match kind:
            case "stem":
                layer = stem
            case "downsample":
                layer = downsample[int(rest[0])]
            case "stage":
                layer = block_layer(int(rest[0]), int(rest[2]))
            case _:
                layer = head
        return layer_decay ** (head - layer)

    return jax.tree.map_with_path(scale, params)


def _depths(params) -> Sequence[int]:
    blocks = [re.match(r"stage_(\d+)_block_", name) for name in params]
    stages = [int(block[1]) for block in blocks if block]
    return [stages.count(stage) for stage in range(max(stages) + 1)]


def _name(path):
    return "/".join(entry.key for entry in path)
