"""What a masked autoencoder makes of images: beside the originals, and what it saw of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convnext.models import fcmae
from convnext.models.convnext import smallest_side
from convnext.models.fcmae import FCMAE, Masks
from convnext.training import steps

GREY = 127.5  # level of what is masked


def pictures(
    variables: Mapping[str, Any],
    images: jax.Array,
    masks: Masks,
    *,
    model: FCMAE,
    mean: Sequence[float],
    std: Sequence[float],
    norm_pix: bool = True,
) -> jax.Array:
    """Returns uint8 [N, 3, H, W, C] of images uint8 [N, H, W, C]: each as it is, as the model sees
    it, and with its masked patches as they are predicted.

    The loss asks nothing of the visible patches, so they are shown as they are. norm_pix: whether
    the model predicts patches of mean 0 and deviation 1; a patch gets back its own.
    """
    size = smallest_side(model)
    normalized = steps.normalize(images, mean=mean, std=std)
    predicted = model.apply(variables, normalized, masks)
    if norm_pix:
        plain = fcmae.targets(normalized, masks, size, norm_pix=False)
        variance = plain.var(-1, ddof=1, keepdims=True) + fcmae.EPS
        predicted = predicted * jnp.sqrt(variance) + plain.mean(-1, keepdims=True)
    levels = predicted.reshape(*predicted.shape[:2], size, size, -1)
    levels = 255 * (levels * jnp.array(std) + jnp.array(mean))
    patches = fcmae.patched(images.astype(jnp.float32), size)
    is_masked = masks.is_masked[..., None, None, None]
    seen = jnp.where(is_masked, GREY, patches)
    made = jnp.where(is_masked, masks.place_masked(levels), patches)
    shown = (patches, seen, made)
    whole = jnp.stack([fcmae.unpatched(each, masks.grid) for each in shown], axis=1)
    return jnp.clip(jnp.round(whole), 0, 255).astype(jnp.uint8)


def strip(shown: np.ndarray, scale: int = 1, gap: int = 4) -> np.ndarray:
    """Joins pictures [N, 3, H, W, C] to one, uint8 [3 H + gaps, N W + gaps, C]: a column each, the
    original at the top. scale: how many pixels a side one of them becomes."""
    shown = np.asarray(shown).repeat(scale, axis=2).repeat(scale, axis=3)
    count, rows, height, width, channels = shown.shape
    whole = np.full(
        (rows * (height + gap) - gap, count * (width + gap) - gap, channels), 255, np.uint8
    )
    for column in range(count):
        for row in range(rows):
            top, left = row * (height + gap), column * (width + gap)
            whole[top : top + height, left : left + width] = shown[column, row]
    return whole
