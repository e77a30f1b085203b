"""The two pointwise layers of a block, and the exact GELU between them.

x is [..., C], a kernel [C, D], a bias [C]; results are in x's dtype.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from convnext.outline import on_cpu, outline


def gelu(x: jax.Array) -> jax.Array:
    """0.5 x (1 + erf(x / sqrt 2)), computed in float32, as PyTorch does."""
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel."""
    return _on_rows(_dense if on_cpu() else jnp.matmul, x, kernel)


def gelu_dense(x: jax.Array, bias: jax.Array, kernel: jax.Array) -> jax.Array:
    """gelu(x + bias) @ kernel.

    On CPU the backward pass computes the GELU again instead of keeping it, as memory that is
    touched for the first time costs more there than erf.
    """
    if on_cpu():
        return _on_rows(_gelu_dense, x, bias, kernel)
    return gelu(x + bias) @ kernel


def _on_rows(function, x, *weights):
    """Of x as a matrix: XLA on CPU is faster with it."""
    y = function(x.reshape(-1, x.shape[-1]), *weights)
    return y.reshape(*x.shape[:-1], y.shape[-1])


_matmul = outline(lambda a, b: a @ b)
_matmul_nt = outline(lambda a, b: a @ b.T)
_matmul_tn = outline(lambda a, b: a.T @ b)


@jax.custom_vjp
def _dense(x, kernel):
    return _matmul(x, kernel)


def _dense_forward(x, kernel):
    return _matmul(x, kernel), (x, kernel)


def _dense_backward(residuals, g):
    x, kernel = residuals
    return _matmul_nt(g, kernel), _matmul_tn(x, g)


_dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def _gelu_dense(x, bias, kernel):
    return _matmul(_biased_gelu(x, bias), kernel)


def _gelu_dense_forward(x, bias, kernel):
    return _gelu_dense(x, bias, kernel), (x, bias, kernel)


def _gelu_dense_backward(residuals, g):
    x, bias, kernel = residuals
    activation, dx, dbias = _biased_gelu_again(x, bias, _matmul_nt(g, kernel))
    return dx, dbias, _matmul_tn(activation, g)


_gelu_dense.defvjp(_gelu_dense_forward, _gelu_dense_backward)


@outline
def _biased_gelu(x, bias):
    return gelu(x + bias)


@outline
def _biased_gelu_again(x, bias, g):
    """The activation, and the gradients of x and bias."""
    wide = (x + bias).astype(jnp.float32)
    cdf = _normal_cdf(wide)
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    dx = g.astype(jnp.float32) * (cdf + wide * density)
    dbias = dx.sum(axis=0)
    return (wide * cdf).astype(x.dtype), dx.astype(x.dtype), dbias.astype(bias.dtype)


def _normal_cdf(x):
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))
