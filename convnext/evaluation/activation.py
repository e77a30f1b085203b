"""Maps of where a class is seen in an image: Grad-CAM (https://arxiv.org/abs/1610.02391)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convnext.models.convnext import ConvNeXt


def class_activation(
    params: Any, images: jax.Array, classes: jax.Array, *, model: ConvNeXt
) -> jax.Array:
    """Returns maps of the last stage, float32 [N, h, w], scaled to a maximum of 1. A map is 0
    everywhere if no place speaks for the class. images: normalised, [N, H, W, C]; classes: int
    [N]."""
    # There is no memory to save, and remat could not recompute a block whose output is shifted.
    model = model.clone(remat=False)
    last = f"stage_{len(model.depths) - 1}_block_{model.depths[-1] - 1}"

    def class_logits(shift):
        maps = []

        def shifted(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.module.name != last:
                return out
            maps.append(out + shift)
            return maps[-1]

        with nn.intercept_methods(shifted):
            logits = model.apply({"params": params}, images)
        picked = jnp.take_along_axis(logits, classes[:, None], axis=1)
        return picked.sum(), maps[-1]

    maps = jax.eval_shape(class_logits, jnp.zeros((), model.dtype))[1]
    gradients, maps = jax.grad(class_logits, has_aux=True)(jnp.zeros(maps.shape, maps.dtype))
    weights = gradients.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
    heat = jax.nn.relu((weights * maps.astype(jnp.float32)).sum(axis=-1))
    highest = heat.max(axis=(1, 2), keepdims=True)
    return heat / jnp.where(highest > 0, highest, 1)


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """Returns the image, uint8 [H, W, 3], with the map [h, w] over it as colours, the stronger the
    higher it is."""
    import matplotlib
    from PIL import Image

    height, width = image.shape[:2]
    smooth = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.BICUBIC)
    heat = np.clip(np.asarray(smooth), 0, 1)[..., None]
    colours = matplotlib.colormaps["inferno"](heat[..., 0])[..., :3] * 255
    share = strength * heat
    return np.rint(image * (1 - share) + colours * share).astype(np.uint8)
