"""Where a class is seen in an image: Grad-CAM (https://arxiv.org/abs/1610.02391)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convnext.models.convnext import ConvNeXt


def class_activation(
    params: Any, images: jax.Array, classes: jax.Array, *, model: ConvNeXt
) -> jax.Array:
    """float32 [N, h, w], of the last stage, from 0 to 1 at the highest place (0 where none speaks
    for the class). images: normalised, [N, H, W, C]; classes: int [N]."""
    model = model.clone(remat=False)  # nothing is to be saved, and a shift cannot be recomputed
    last = f"stage_{len(model.depths) - 1}_block_{model.depths[-1] - 1}"

    def class_logits(shift):
        def shifted(call, args, kwargs, context):
            out = call(*args, **kwargs)
            return out + shift if context.module.name == last else out

        with nn.intercept_methods(shifted):
            logits, features = model.apply({"params": params}, images, with_features=True)
        picked = jnp.take_along_axis(logits, classes[:, None], axis=1)
        return picked.sum(), features["last_hidden_state"]

    maps = jax.eval_shape(class_logits, jnp.zeros((), model.dtype))[1]
    gradients, maps = jax.grad(class_logits, has_aux=True)(jnp.zeros(maps.shape, maps.dtype))
    weights = gradients.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
    heat = jax.nn.relu((weights * maps.astype(jnp.float32)).sum(axis=-1))
    highest = heat.max(axis=(1, 2), keepdims=True)
    return heat / jnp.where(highest > 0, highest, 1)


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.5) -> np.ndarray:
    """uint8 [H, W, 3]: the image with the map [h, w] over it, where it is high, as colours."""
    import matplotlib
    from PIL import Image

    height, width = image.shape[:2]
    smooth = Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.BICUBIC)
    heat = np.clip(np.asarray(smooth), 0, 1)[..., None]
    colours = matplotlib.colormaps["inferno"](heat[..., 0])[..., :3] * 255
    share = strength * heat
    return np.rint(image * (1 - share) + colours * share).astype(np.uint8)
