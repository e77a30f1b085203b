"""Mixup (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899).

As timm's `Mixup`, with which ConvNeXt was trained in batch mode, where one call is the micro-batch
of one GPU. Here that is a group of `group_size` consecutive rows of the global batch, so the result
does not depend on the number of devices. The images of a group are mixed with those of the same
group in reverse order.
"""

import math

import jax
import jax.numpy as jnp

from convnext import sharding
from convnext.errors import InputError, require
from convnext.training import losses

MODES = ("batch", "pair", "elem")


def mix(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    problem_type: str = losses.SINGLE_LABEL,
    mixup_alpha: float = 0.8,
    cutmix_alpha: float = 1.0,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    label_smoothing: float = 0.1,
    mode: str = "batch",
    group_size: int = 128,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mixes images [N, H, W, C] and labels int [N] or [N, K]; returns images and targets [N, K].

    K is num_classes; see losses.targets.

    An alpha of 0 leaves that kind out, otherwise lambda ~ Beta(alpha, alpha). With probability
    `prob` there is mixing, and then by CutMix with probability `switch_prob` if both kinds are on.
    mode says what draws for itself: each group ("batch"), each two images that are mixed with each
    other ("pair"), or each image ("elem").

    On the devices of `mesh` each draws everything for itself, so that none waits for the turns of
    another's sampler, and makes its own rows of the result, also of groups across devices.

    group_size is capped at N; raises InputError where it does not divide N, for another mode, for
    pairs in groups of an odd size, and for what is out of range.
    """
    require(mode in MODES, "mix.mode", mode, ", ".join(MODES))
    for name, alpha in dict(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha).items():
        require(0 <= alpha < math.inf, f"mix.{name}", alpha, "0 and more")
    for name, share in dict(prob=prob, switch_prob=switch_prob).items():
        require(0 <= share <= 1, f"mix.{name}", share, "0 to 1")
    require(0 <= label_smoothing < 1, "mix.label_smoothing", label_smoothing, "from 0 to below 1")
    targets = losses.targets(
        labels,
        num_classes=num_classes,
        problem_type=problem_type,
        label_smoothing=label_smoothing,
    )
    if mixup_alpha == cutmix_alpha == 0:
        return images, targets

    batch_size, height, width, _ = images.shape
    group_size = capped_group_size(batch_size, group_size)
    is_even = group_size % 2 == 0
    require(mode != "pair" or is_even, "mix.group_size", group_size, "even numbers, for pairs")
    groups = batch_size // group_size
    draws = {"batch": 1, "pair": group_size // 2, "elem": group_size}[mode]
    if mixup_alpha == 0 or cutmix_alpha == 0:
        switch_prob = float(cutmix_alpha > 0)

    mix_key, switch_key, mixup_key, cutmix_key, box_key = jax.random.split(key, 5)
    shape = (groups, draws)
    use_mix = jax.random.bernoulli(mix_key, prob, shape)
    use_cutmix = jax.random.bernoulli(switch_key, switch_prob, shape)
    mixup_lam = _beta(mixup_key, mixup_alpha, shape)
    cutmix_lam = _beta(cutmix_key, cutmix_alpha, shape)
    if mesh is not None:
        mixup_lam, cutmix_lam = jax.lax.with_sharding_constraint(
            (mixup_lam, cutmix_lam), sharding.replicated(mesh)
        )
    inside = _boxes(box_key, cutmix_lam, height, width)
    # Clipped at the border, so count the pixels.
    lam = jnp.where(use_cutmix, 1 - inside.mean(axis=(2, 3)), mixup_lam)
    lam = jnp.where(use_mix, lam, 1.0)

    # Share of an image that stays its own, pixel by pixel [groups, draws, H, W].
    own = jnp.where(use_cutmix[..., None, None], 1 - inside, mixup_lam[..., None, None])
    own = jnp.where(use_mix[..., None, None], own, 1.0)
    if mode == "pair":  # the second half of a group holds the partners, in reverse
        lam, own = (jnp.concatenate([x, x[:, ::-1]], axis=1) for x in (lam, own))
    own = own[..., None].astype(images.dtype)
    mixed = (
        _blend(images.reshape(groups, group_size, *images.shape[1:]), own).reshape(images.shape),
        _blend(targets.reshape(groups, group_size, -1), lam[..., None]).reshape(targets.shape),
    )
    if mesh is not None:
        mixed = jax.lax.with_sharding_constraint(mixed, sharding.batch_sharding(mesh))
    return mixed


def capped_group_size(batch_size: int, group_size: int) -> int:
    """At most the batch. Raises InputError where the batch is not whole groups."""
    require(batch_size > 0, "batch_size", batch_size, "1 and more")
    group_size = min(group_size, batch_size)
    if group_size < 1 or batch_size % group_size:
        raise InputError(
            f"mix.group_size is {group_size}",
            f"divisors of the batch of {batch_size} and anything larger than it",
        )
    return group_size


def _beta(key, alpha, shape):
    return jax.random.beta(key, alpha, alpha, shape) if alpha > 0 else jnp.ones(shape)


def _boxes(key, lam, height, width):
    """[...] -> [..., H, W]: 1 inside a box of 1 - lam of the image, uniform centre, clipped."""
    row_key, column_key = jax.random.split(key)
    ratio = jnp.sqrt(1 - lam)

    def inside(key, size):
        centre = jax.random.randint(key, lam.shape, 0, size)[..., None]
        half = (size * ratio).astype(jnp.int32)[..., None] // 2
        position = jnp.arange(size)
        return (position >= centre - half) & (position < centre + half)

    rows, columns = inside(row_key, height), inside(column_key, width)
    return (rows[..., :, None] & columns[..., None, :]).astype(jnp.float32)


def _blend(x, own):
    """x [G, rows, ...] with its own reversed rows."""
    return own * x + (1 - own) * x[:, ::-1]
