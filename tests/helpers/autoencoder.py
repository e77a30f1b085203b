"""A small masked autoencoder of the official code's names, with images and masks."""

import math

import jax.numpy as jnp
import numpy as np

from convnext.models.fcmae import FCMAE, Masks

DEPTHS, DIMS, DECODER, SIDE = (1, 2, 1, 1), (6, 8, 10, 12), 16, 96
# Of a grid of 3x3: one that sees a corner alone, one with an isolated patch.
VISIBLE = [[0, 1, 3, 4], [0, 2, 4, 8], [1, 3, 6, 8]]
FIELDS = dict(use_grn=True, layer_scale_init_value=None, decoder_dim=DECODER)
MODEL = FCMAE(DEPTHS, DIMS, **FIELDS)


def images():
    """float64 [3, SIDE, SIDE, 3]."""
    return np.random.default_rng(1).normal(size=(3, SIDE, SIDE, 3))


def masks():
    order = [[*seen, *sorted({*range(9)} - {*seen})] for seen in VISIBLE]
    return Masks(jnp.array(order), jnp.argsort(jnp.array(order), axis=1), 4, (3, 3))


def state():
    """Random parameters in float64, none of which is where training begins."""
    shapes = {"mask_token": (1, DECODER, 1, 1)}
    at = "encoder.downsample_layers"
    shapes |= _conv(f"{at}.0.0", (DIMS[0], 3, 4, 4)) | _norm(f"{at}.0.1", DIMS[0])
    for stage, dim in enumerate(DIMS):
        if stage:
            before = DIMS[stage - 1]
            shapes |= _norm(f"{at}.{stage}.0.ln", before)
            shapes |= {f"{at}.{stage}.1.kernel": (4, before, dim), f"{at}.{stage}.1.bias": (1, dim)}
        for index in range(DEPTHS[stage]):
            name = f"encoder.stages.{stage}.{index}"
            shapes |= {f"{name}.dwconv.kernel": (49, dim), f"{name}.dwconv.bias": (1, dim)}
            shapes |= _norm(f"{name}.norm.ln", dim)
            shapes |= _conv(f"{name}.pwconv1.linear", (4 * dim, dim))
            shapes |= {f"{name}.grn.{leaf}": (1, 4 * dim) for leaf in ("gamma", "beta")}
            shapes |= _conv(f"{name}.pwconv2.linear", (dim, 4 * dim))
    dim = DECODER
    shapes |= _conv("proj", (dim, DIMS[-1], 1, 1)) | _conv("decoder.0.dwconv", (dim, 1, 7, 7))
    shapes |= _norm("decoder.0.norm", dim) | _conv("decoder.0.pwconv1", (4 * dim, dim))
    shapes |= {f"decoder.0.grn.{leaf}": (1, 1, 1, 4 * dim) for leaf in ("gamma", "beta")}
    shapes |= _conv("decoder.0.pwconv2", (dim, 4 * dim)) | _conv("pred", (3 * 32**2, dim, 1, 1))
    rng = np.random.default_rng(0)
    return {name: _random(name, shape, rng) for name, shape in shapes.items()}


def _conv(name, shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name, dim):
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _random(name, shape, rng):
    value = rng.normal(size=shape)
    if len(shape) == 1 and name.endswith("weight"):
        return 1 + 0.2 * value
    if name.endswith(("weight", "kernel")):
        fan_in = math.prod(shape[:-1]) if name.endswith("kernel") else math.prod(shape[1:])
        return value / math.sqrt(49 if name.endswith("dwconv.kernel") else fan_in)
    return 0.5 * value
