"""Parameters of which no leaf is 0 or 1, as biases, gamma and GRN are where training begins."""

from typing import Any

import jax
import numpy as np

from convnext.models.convnext import ConvNeXt, smallest_image


def random_params(model: ConvNeXt, scale: float = 0.05) -> Any:
    """Returns the parameters of a model, normal with this deviation, always the same."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), smallest_image(model))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(scale=scale, size=leaf.shape).astype(np.float32), shapes
    )
