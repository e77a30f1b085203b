"""The recipe's optimizer: AdamW, its schedule, what is decayed, and how fast each layer learns."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from convnext.errors import InputError, require

KINDS = ("cosine", "poly", "step")
LAYER_DECAY_TYPES = ("group", "single", "layer_wise", "stage_wise")

# The body that a parameter is in, such as "backbone/" or "", and its part of it.
BODY_PART = re.compile(
    r"(?P<body>(?:.*/)?)"
    r"(?:stem_|downsample_(?P<downsampling>\d+)_|stage_(?P<stage>\d+)_block_(?P<block>\d+)/)"
)


def schedule(
    num_steps: int,
    steps_per_epoch: int,
    *,
    kind: str = "cosine",
    peak_lr: float,
    end_lr: float = 1e-6,
    warmup_epochs: int = 0,
    warmup_steps: int | None = None,
    warmup_ratio: float = 0.0,
    v2: bool = False,
    power: float = 1.0,
    milestone_epochs: Sequence[int] = (),
    milestone_steps: Sequence[int] = (),
    factor: float = 0.1,
) -> optax.Schedule:
    """Learning rate of the update after `step` updates, in a run of num_steps.

    "cosine" is the official schedule: linear from warmup_ratio * peak_lr over the warm-up, both
    ends included, then a cosine towards end_lr, which is not quite reached (`cosine_scheduler` in
    utils.py of the official code). Optax's warm-up to a cosine peaks one step later. So does v2:
    ConvNeXt-V2's, a function of the epochs that are done (`adjust_learning_rate`).

    "poly" is mmsegmentation's: (1 - step / num_steps)**power, from peak_lr to end_lr. "step" is
    mmdetection's: peak_lr times `factor` for each milestone that is passed, at least end_lr. Both
    run from step 0, and the warm-up multiplies them by a line from warmup_ratio to 1
    (`LrUpdaterHook` of mmcv).

    Give the warm-up in epochs or in steps; milestones may be of both. The rates are computed in
    float64 and held as float32. Raises InputError for what is out of range or of another kind.
    """
    require(kind in KINDS, "schedule.kind", kind, " or ".join(KINDS))
    for name, value in dict(peak_lr=peak_lr, end_lr=end_lr, power=power).items():
        require(0 <= value < math.inf, f"schedule.{name}", value, "0 and more")
    require(0 <= warmup_ratio <= 1, "schedule.warmup_ratio", warmup_ratio, "0 to 1")
    require(0 < factor <= 1, "schedule.factor", factor, "above 0, at most 1")
    accepted = "False, where schedule.kind is not cosine"
    require(not v2 or kind == "cosine", "schedule.v2", v2, accepted)
    warmup_steps = _warmup_steps(num_steps, steps_per_epoch, warmup_epochs, warmup_steps)
    milestones = [*milestone_steps, *(epoch * steps_per_epoch for epoch in milestone_epochs)]
    are_numbers = all(isinstance(step, int | float) and step >= 1 for step in milestones)
    require(
        are_numbers and bool(milestones) == (kind == "step"),
        "schedule.milestone_epochs, schedule.milestone_steps",
        (tuple(milestone_epochs), tuple(milestone_steps)),
        "numbers from 1 up where schedule.kind is step, else none",
    )

    steps = np.arange(num_steps)
    match kind:
        case "cosine":
            warmup = np.linspace(warmup_ratio * peak_lr, peak_lr, warmup_steps, endpoint=not v2)
            cosine = _cosine(peak_lr, end_lr, num_steps - warmup_steps)
            return _lookup(np.concatenate([warmup, cosine]))
        case "poly":
            rates = (peak_lr - end_lr) * (1 - steps / num_steps) ** power + end_lr
        case "step":
            passed = np.searchsorted(sorted(milestones), steps, side="right")
            rates = np.maximum(peak_lr * factor**passed, end_lr)
    missing = 1 - steps[:warmup_steps] / warmup_steps
    rates[:warmup_steps] *= 1 - missing * (1 - warmup_ratio)
    return _lookup(rates)


def _warmup_steps(num_steps, steps_per_epoch, warmup_epochs, warmup_steps):
    """Steps of the warm-up, which is given in one of two units and no longer than the run."""
    for name, given in dict(warmup_epochs=warmup_epochs, warmup_steps=warmup_steps).items():
        require(given is None or given >= 0, f"schedule.{name}", given, "0 and more")
    if warmup_steps is None:
        num_epochs = num_steps / steps_per_epoch
        accepted = f"at most num_epochs, which is {num_epochs:g}"
        require(warmup_epochs <= num_epochs, "schedule.warmup_epochs", warmup_epochs, accepted)
        return warmup_epochs * steps_per_epoch
    accepted = f"0 beside schedule.warmup_steps, which is {warmup_steps}"
    require(warmup_epochs == 0, "schedule.warmup_epochs", warmup_epochs, accepted)
    accepted = f"0 to num_steps, which is {num_steps}"
    require(warmup_steps <= num_steps, "schedule.warmup_steps", warmup_steps, accepted)
    return warmup_steps


def _cosine(start, end, num_steps):
    """Half a cosine from start towards end, one value for each step."""
    progress = np.arange(num_steps) / max(num_steps, 1)
    return end + 0.5 * (start - end) * (1 + np.cos(np.pi * progress))


def _lookup(values):
    """The function that looks up the value of a step."""
    table = values.astype(np.float32)

    def value(step: int | jax.Array) -> np.float32 | jax.Array:
        return table[step] if isinstance(step, int) else jnp.asarray(table)[step]

    return value


def decay_mask(params: Any) -> Any:
    """True for kernels; biases, norms and gammas are not decayed (official optim_factory.py)."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_adam, which keeps its state where `is_finite`, an argument of update, is
    False. What is kept is chosen before anything is computed from it: chosen after the update, the
    state is read and computed once more on CPU, and copied, as it is donated."""
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def update(grads, state, params=None, *, is_finite=True, **_):
        _, new = adam.update(grads, state, params)
        kept = jax.tree.map(partial(jnp.where, is_finite), new, state)
        mu = optax.tree.bias_correction(kept.mu, b1, new.count)
        nu = optax.tree.bias_correction(kept.nu, b2, new.count)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), kept

    return optax.GradientTransformationExtraArgs(adam.init, update)


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
    decay_mask: Callable[[Any], Any] = decay_mask,
    layer_scale_rule: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformation:
    """AdamW as in PyTorch: the decay is scaled by the learning rate, and both by the layer's scale.

    The weight decay follows a cosine over num_steps from weight_decay to weight_decay_end, if there
    is one. clip_norm bounds the global norm of the gradients; None leaves clipping out. See
    `layer_scales` for layer_decay, `frozen_mask` for frozen.

    A task may bring rules of its own, which map parameters to a tree of the same names: decay_mask
    to what is decayed, layer_scale_rule to the factors on the learning rate, in place of
    `layer_scales`. Raises InputError for what is out of range.
    """
    for name, value in dict(weight_decay=weight_decay, weight_decay_end=weight_decay_end).items():
        ok = value is None or 0 <= value < math.inf
        require(ok, f"optimizer.{name}", value, "0 and more")
    for name, value in dict(b1=b1, b2=b2).items():
        require(0 <= value < 1, f"optimizer.{name}", value, "from 0 to below 1")
    require(0 < eps < math.inf, "optimizer.eps", eps, "above 0")
    ok = clip_norm is None or 0 < clip_norm < math.inf
    require(ok, "optimizer.clip_norm", clip_norm, "above 0, or None")
    require(0 < layer_decay <= 1, "optimizer.layer_decay", layer_decay, "above 0, at most 1")
    _check_layer_decay_type(layer_decay_type)
    decay = weight_decay
    if weight_decay_end is not None:
        decay = _lookup(_cosine(weight_decay, weight_decay_end, num_steps))
    has_scales = layer_scale_rule is not None or layer_decay != 1
    scales = layer_scale_rule or partial(
        layer_scales, layer_decay=layer_decay, layer_decay_type=layer_decay_type
    )

    def check_layers(params):
        scales(params)  # refuses what has no layers now, and not at the first update
        return optax.EmptyState()

    def scale_layers(updates, state, params):
        return jax.tree.map(jnp.multiply, updates, scales(params)), state

    scale_by_layer = optax.GradientTransformation(check_layers, scale_layers)
    tx = optax.chain(
        optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm),
        scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(decay, mask=decay_mask),
        optax.scale_by_learning_rate(schedule),
        scale_by_layer if has_scales else optax.identity(),
    )
    if frozen is None:
        return tx

    def labels(params):
        return jax.tree.map(lambda at: "frozen" if at else "trained", frozen_mask(params, frozen))

    # Not optax's selective_transform: it needs the mask before there are parameters, and gives the
    # two parts of the state other names than those in checkpoints.
    return optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def frozen_mask(params: Any, pattern: str | None) -> Any:
    """True for the parameters in whose names the regular expression finds something; None: nothing.

    Names are full ones, such as "stage_2_block_0/dwconv/kernel". "^(?!head/)" freezes all but the
    head: a linear probe. Raises InputError where the pattern is no regular expression, or leaves
    all parameters frozen or all trained.
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
    """The parameters, without a gradient for those of `frozen_mask`, which then costs nothing."""
    mask = frozen_mask(params, frozen)
    return jax.tree.map(lambda p, at: jax.lax.stop_gradient(p) if at else p, params, mask)


def layer_scales(params: Any, layer_decay: float, layer_decay_type: str = "group") -> Any:
    """Factor on each parameter's learning rate: layer_decay**(layers above its own).

    Layers are those of a ConvNeXt's body, wherever it stands: "backbone/stage_2_block_0/..." counts
    as "stage_2_block_0/..." does. What is in no body is in the head's layer, with a factor of 1.

    * "group" is the rule of the official optim_factory.py: the stem; the first stage; the second;
      every three blocks of the third; the fourth; norms of outputs and the head. A downsampling
      counts to what follows it. With 27 blocks in the third stage there are 13 layers below the
      head, with 9 there are 7: num_layers 12 and 6, as the official code calls them.
    * "layer_wise" is the same rule by its name in the official detection code.
    * "stage_wise", of the official segmentation code, has as many layers, but uses the lowest only:
      the stem and all downsamplings; then each stage.
    * "single", of ConvNeXt-V2, has a layer for each block. The stem is in the first one, a
      downsampling in that of the block after it.

    Raises InputError for another type; and unless layer_decay is 1, for parameters without a body,
    and for all but "single" where there are not four stages.
    """
    _check_layer_decay_type(layer_decay_type)
    if layer_decay == 1:
        return jax.tree.map(lambda _: 1.0, params)
    layers = {body: _layers(depths, layer_decay_type) for body, depths in _depths(params).items()}
    accepted = "1, for parameters that have no stage_0_block_0"
    require(layers, "optimizer.layer_decay", layer_decay, accepted)

    def scale(path, _):
        part = BODY_PART.match(_name(path))
        if part is None or part["body"] not in layers:
            return 1.0
        stem, downsamplings, blocks, head = layers[part["body"]]
        if part["stage"]:
            layer = blocks[int(part["stage"])][int(part["block"])]
        elif part["downsampling"]:
            layer = downsamplings[int(part["downsampling"])]
        else:
            layer = stem
        return layer_decay ** (head - layer)

    return jax.tree.map_with_path(scale, params)


def _check_layer_decay_type(given):
    accepted = " or ".join(LAYER_DECAY_TYPES)
    require(given in LAYER_DECAY_TYPES, "optimizer.layer_decay_type", given, accepted)


def _depths(params):
    """Blocks of each stage of each body: {"backbone/": [3, 3, 9, 3]}."""
    # By the names in the dicts, not by the arrays: optax.partition takes away those of the frozen.
    parts = [BODY_PART.match(name) for name in flatten_dict(params, sep="/")]
    stages = defaultdict(list)  # the stage of each block
    for body, stage, _ in {part.group("body", "stage", "block") for part in parts if part}:
        if stage:
            stages[body].append(int(stage))
    return {body: [s.count(i) for i in range(max(s) + 1)] for body, s in stages.items()}


def _layers(depths, layer_decay_type):
    """Layers of the stem, of each downsampling, of the blocks of each stage, and of the head."""
    if layer_decay_type == "single":
        firsts = [1 + sum(depths[:stage]) for stage in range(len(depths))]
        blocks = [range(first, first + depth) for first, depth in zip(firsts, depths, strict=True)]
        return 1, firsts, blocks, 1 + sum(depths)
    given = f"{layer_decay_type}, of {len(depths)} stages"
    accepted = "single, or a model of 4 stages"
    require(len(depths) == 4, "optimizer.layer_decay_type", given, accepted)
    last = 3 + -(-depths[2] // 3)
    if layer_decay_type == "stage_wise":
        blocks = [[1 + stage] * depth for stage, depth in enumerate(depths)]
        return 0, (None, 0, 0, 0), blocks, last + 1
    third = [3 + block // 3 for block in range(depths[2])]
    blocks = [[1] * depths[0], [2] * depths[1], third, [last] * depths[3]]
    return 0, (None, 2, 3, last), blocks, last + 1


def _name(path):
    return "/".join(entry.key for entry in path)
