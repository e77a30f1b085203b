"""What a model computes at each position by itself: LayerNorm, linear layers, the exact GELU.

x is [..., C], a kernel [C, D], a scale or bias [C]; results are in x's dtype. On CPU the functions
have gradients of their own, so reverse mode only: `jax.jvp` raises TypeError there.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from convnext.kernels.outline import on_cpu, outline


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    """Over channels. In float32, and with the exact variance: the fast one loses digits."""
    if on_cpu():
        return _on_rows(_layer_norm, x, scale, bias, jnp.float32(eps))
    return _normalize(x, scale, bias, eps)[0]


def gelu(x: jax.Array) -> jax.Array:
    """0.5 x (1 + erf(x / sqrt 2)), computed in float32, as PyTorch does."""
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel."""
    return _on_rows(_dense if on_cpu() else jnp.matmul, x, kernel)


def mlp(
    x: jax.Array,
    kernel1: jax.Array,
    bias1: jax.Array,
    kernel2: jax.Array,
    bias2: jax.Array,
    gamma: jax.Array,
) -> jax.Array:
    """gamma * (gelu(x @ kernel1 + bias1) @ kernel2 + bias2), x [N, H, W, C], gamma [C].

    No activation is kept to find gamma's gradient. Memory that is touched for the first time is
    dear on CPU: there inference takes a few rows of the maps at a time, and a backward pass
    computes the GELU again.
    """
    if on_cpu():
        return _mlp(x, kernel1, bias1, kernel2, bias2, gamma)
    return gelu(x @ kernel1 + bias1) @ (kernel2 * gamma) + bias2 * gamma


def _on_rows(function, x, *weights):
    """Of x as a matrix: XLA on CPU is faster with it."""
    y = function(_flat(x), *weights)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _flat(x):
    return x.reshape(-1, x.shape[-1])


def _normalize(x, scale, bias, eps):
    """The result, and the mean and the reciprocal deviation of each position."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    rstd = lax.rsqrt(jnp.square(wide - mean).mean(axis=-1, keepdims=True) + eps)
    return ((wide - mean) * rstd * scale + bias).astype(x.dtype), mean, rstd


_normalize_apart = outline(_normalize)


@jax.custom_vjp
def _layer_norm(x, scale, bias, eps):
    return _normalize_apart(x, scale, bias, eps)[0]


def _layer_norm_forward(x, scale, bias, eps):
    y, mean, rstd = _normalize_apart(x, scale, bias, eps)
    return y, (x, scale, mean, rstd)


def _layer_norm_backward(residuals, g):
    return *_normalize_gradients(*residuals, g), None


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@outline
def _normalize_gradients(x, scale, mean, rstd, g):
    normalized = (x.astype(jnp.float32) - mean) * rstd
    g = g.astype(jnp.float32)
    inner = g * scale
    along = normalized * (inner * normalized).mean(axis=-1, keepdims=True)
    dx = rstd * (inner - inner.mean(axis=-1, keepdims=True) - along)
    dscale, dbias = (g * normalized).sum(axis=0), g.sum(axis=0)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


@outline
def _matmul(a, b):
    return a @ b


@outline
def _matmul_nt(a, b):
    return a @ b.T


@outline
def _matmul_tn(a, b):
    """a.T @ b. XLA on CPU is faster with the narrower of the two on the left."""
    return a.T @ b if a.shape[1] <= b.shape[1] else (b.T @ a).T


@jax.custom_vjp
def _dense(x, kernel):
    return _matmul(x, kernel)


def _dense_forward(x, kernel):
    return _matmul(x, kernel), (x, kernel)


def _dense_backward(residuals, g):
    x, kernel = residuals
    return _matmul_nt(g, kernel), _matmul_tn(x, g)


_dense.defvjp(_dense_forward, _dense_backward)


HIDDEN_BYTES = 6 * 2**20  # of the hidden layer in one turn of a loop, about


@jax.custom_vjp
def _mlp(x, kernel1, bias1, kernel2, bias2, gamma):
    height, row_bytes = x.shape[1], x[:, 0, :, 0].size * kernel1.shape[1] * x.dtype.itemsize
    size = min(height, max(1, HIDDEN_BYTES // row_bytes))

    def through(y, start, size):
        rows = lax.dynamic_slice_in_dim(y, start, size, axis=1)
        out, _ = _rows_through(_flat(rows), kernel1, bias1, kernel2, bias2, gamma)
        return lax.dynamic_update_slice_in_dim(y, out.reshape(rows.shape), start, axis=1)

    # What comes out takes the place of what went in.
    turns, rest = divmod(height, size)
    y = lax.fori_loop(0, turns, lambda i, y: through(y, i * size, size), x)
    return through(y, turns * size, rest) if rest else y


def _mlp_forward(x, kernel1, bias1, kernel2, bias2, gamma):
    y, hidden = _rows_through(_flat(x), kernel1, bias1, kernel2, bias2, gamma)
    return y.reshape(x.shape), (x, kernel1, bias1, kernel2, bias2, gamma, hidden)


def _mlp_backward(residuals, g):
    x, kernel1, bias1, kernel2, bias2, gamma, hidden = residuals
    g = _flat(g)
    dactivation = _matmul_nt(g * gamma, kernel2)
    activation, dhidden, dbias1 = _biased_gelu_again(hidden, bias1, dactivation)
    dx, dkernel1 = _matmul_nt(dhidden, kernel1), _matmul_tn(_flat(x), dhidden)
    product, total = _matmul_tn(activation, g), g.sum(axis=0)
    dgamma = (product * kernel2).sum(axis=0) + total * bias2
    return dx.reshape(x.shape), dkernel1, dbias1, product * gamma, total * gamma, dgamma


_mlp.defvjp(_mlp_forward, _mlp_backward)


def _rows_through(x, kernel1, bias1, kernel2, bias2, gamma):
    hidden = _matmul(x, kernel1)
    return (_matmul(_biased_gelu(hidden, bias1), kernel2) + bias2) * gamma, hidden


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
