"""What a model computes at each position by itself: LayerNorm, linear layers, the exact GELU.

x is [..., C], a kernel [C, D], a scale or bias [C]; results are in x's dtype. On a TPU these are
plain formulas. On a CPU, and LayerNorm on an NVIDIA GPU, they have hand-written gradients, so
reverse mode only: `jax.jvp` raises TypeError there. README.md tells why.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convnext.kernels import layer_norm_ptx, ptx
from convnext.kernels.outline import on_cpu, outline, platform

# On a CPU a kernel that is scaled is memory that is touched for the first time, as a map is.
CPU_MAP_TO_KERNEL = 4


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float, kernels: str = "auto"
) -> jax.Array:
    """Normalises over channels, in float32 and with the exact variance: the fast one (the mean of
    squares less the square of the mean) loses digits.

    kernels: one of ptx.KERNELS. On NVIDIA GPUs the gradients of maps [N, H, W, C] are a kernel of
    our own, unless it is "lax".
    """
    if on_cpu():  # eps is an array because a call compiled apart takes arrays only
        return _on_rows(_layer_norm, x, scale, bias, jnp.float32(eps))
    has_kernel = x.ndim == 4 and layer_norm_ptx.takes(x, x.dtype, layer_norm_ptx.CHUNKS_WITH_SUMS)
    if has_kernel and ptx.chosen(kernels, layer_norm_ptx.probe):
        return _layer_norm_of_maps(x, scale, bias, eps)
    return _normalize(x, scale, bias, eps)[0]


def norm_into(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    eps: float,
    kernel: jax.Array,
    kernel_bias: jax.Array,
    dtype: Any,
    kernels: str = "auto",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises over channels for a linear layer, of kernel [..., C, D]; weights are float32.

    Returns y, w and b, such that y @ w + b is what the layer makes of the normalised x; y and w are
    of dtype. On NVIDIA GPUs, and on CPUs where x has CPU_MAP_TO_KERNEL times the numbers of kernel,
    scale and bias are part of w and b, and b stays float32, which spares passes of a map through
    memory. kernels: see `standardize`.
    """
    if platform() == "cuda":
        y = standardize(x, eps, dtype, kernels)
    elif on_cpu() and x.size >= CPU_MAP_TO_KERNEL * kernel.size:
        y = _on_rows(_standardize_rows, x, jnp.float32(eps)).astype(dtype)
    else:
        y = layer_norm(x, scale, bias, eps).astype(dtype)
        return y, kernel.astype(dtype), kernel_bias.astype(dtype)
    # A sum and not a product, which might be computed in less than float32.
    axes = tuple(range(kernel.ndim - 1))
    kernel_bias = (bias[:, None] * kernel).sum(axes) + kernel_bias
    return y, (scale[:, None] * kernel).astype(dtype), kernel_bias


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def standardize(x: jax.Array, eps: float, dtype: Any, kernels: str = "auto") -> jax.Array:
    """LayerNorm without scale and bias, in dtype. On NVIDIA GPUs its gradient is a kernel of our
    own, unless `kernels` is "lax" (one of ptx.KERNELS)."""
    centred, _, rstd = _centred(x, eps)
    return (centred * rstd).astype(dtype)


def _standardize_forward(x, eps, dtype, kernels):
    return standardize(x, eps, dtype, kernels), x


def _standardize_backward(eps, dtype, kernels, x, g):
    def by_xla(x, g):
        centred, _, rstd = _centred(x, eps)
        return _input_gradient(centred * rstd, rstd, g.astype(jnp.float32)).astype(x.dtype)

    if not (ptx.chosen(kernels, layer_norm_ptx.probe) and layer_norm_ptx.takes(x, dtype)):
        return (by_xla(x, g),)
    by_ptx = partial(layer_norm_ptx.standardize_gradient, eps=eps)
    return (lax.platform_dependent(x, g, cuda=by_ptx, default=by_xla),)


standardize.defvjp(_standardize_forward, _standardize_backward)


def _input_gradient(normalized, rstd, g):
    """Of LayerNorm without scale and bias; all float32."""
    along = normalized * (g * normalized).mean(axis=-1, keepdims=True)
    return rstd * (g - g.mean(axis=-1, keepdims=True) - along)


def gelu(x: jax.Array) -> jax.Array:
    """0.5 x (1 + erf(x / sqrt 2)), computed in float32, as PyTorch does.

    The erfc of `jax.nn.gelu` takes twice as long on CPU.
    """
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def dense(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel."""
    return _on_rows(_dense if on_cpu() else jnp.matmul, x, kernel)


def linear_gelu(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """gelu(x @ kernel + bias), where bias may be wider than x."""
    return gelu(dense(x, kernel) + bias).astype(x.dtype)


def mlp(
    x: jax.Array,
    kernel1: jax.Array,
    bias1: jax.Array,
    kernel2: jax.Array,
    bias2: jax.Array,
    gamma: jax.Array | None = None,
) -> jax.Array:
    """The MLP of a block: gamma * (gelu(x @ kernel1 + bias1) @ kernel2 + bias2).

    x is [N, H, W, C], gamma [C]; None stands for a gamma of ones. bias1 may be wider than x. It is
    one function because what is kept for the backward pass, and on CPU when things are computed, is
    decided for all of it.
    """
    if on_cpu():
        return _mlp(x, kernel1, bias1, kernel2, bias2, gamma)
    # gamma scales the weights and not the activations, so that its gradient needs none of these.
    return linear_gelu(x, kernel1, bias1) @ _scaled(kernel2, gamma) + _scaled(bias2, gamma)


def _scaled(x, gamma):
    return x if gamma is None else x * gamma


def _on_rows(function, x, *weights):
    """Applies a function to x as a matrix: XLA on CPU is faster with a product of two matrices than
    with one over the last axis of a map."""
    y = function(_flat(x), *weights)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def _flat(x):
    return x.reshape(-1, x.shape[-1])


def _normalize(x, scale, bias, eps):
    """Returns the result, and the mean and the reciprocal deviation of each position."""
    centred, mean, rstd = _centred(x, eps)
    return (centred * rstd * scale + bias).astype(x.dtype), mean, rstd


def _centred(x, eps):
    """x without its mean over the channels, that mean, and the reciprocal deviation; float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    return wide - mean, mean, lax.rsqrt(jnp.square(wide - mean).mean(axis=-1, keepdims=True) + eps)


_normalize_apart = outline(_normalize)


# The rules keep the input and two numbers a position. JAX would keep each map that the derivative
# of the formula reads, and memory that is touched for the first time is dear on CPU: dearer than
# computing the normalised map again.
@jax.custom_vjp
def _layer_norm(x, scale, bias, eps):
    return _normalize_apart(x, scale, bias, eps)[0]


def _layer_norm_forward(x, scale, bias, eps):
    y, mean, rstd = _normalize_apart(x, scale, bias, eps)
    return y, (x, scale, mean, rstd)


def _layer_norm_backward(residuals, g):
    return *_normalize_gradients(*residuals, g), None


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm_of_maps(x, scale, bias, eps):
    return _normalize(x, scale, bias, eps)[0]


def _layer_norm_of_maps_forward(x, scale, bias, eps):
    return _layer_norm_of_maps(x, scale, bias, eps), (x, scale)


def _layer_norm_of_maps_backward(eps, residuals, g):
    def by_xla(x, g, scale):
        return _normalize_gradients(x, scale, *_centred(x, eps)[1:], g)

    x, scale = residuals
    by_ptx = partial(layer_norm_ptx.gradients, eps=eps)
    return lax.platform_dependent(x, g, scale, cuda=by_ptx, default=by_xla)


_layer_norm_of_maps.defvjp(_layer_norm_of_maps_forward, _layer_norm_of_maps_backward)


# Without scale and bias the result is enough to keep. The layer that follows keeps it anyway.
@jax.custom_vjp
def _standardize_rows(x, eps):
    return _standardize_apart(x, eps)[0]


@outline
def _standardize_apart(x, eps):
    centred, _, rstd = _centred(x, eps)
    return (centred * rstd).astype(x.dtype), rstd


def _standardize_rows_forward(x, eps):
    y, rstd = _standardize_apart(x, eps)
    return y, (y, rstd)


def _standardize_rows_backward(residuals, g):
    return _standardize_rows_gradient(*residuals, g), None


@outline
def _standardize_rows_gradient(y, rstd, g):
    return _input_gradient(y.astype(jnp.float32), rstd, g.astype(jnp.float32)).astype(y.dtype)


_standardize_rows.defvjp(_standardize_rows_forward, _standardize_rows_backward)


@outline
def _normalize_gradients(x, scale, mean, rstd, g):
    normalized = (x.astype(jnp.float32) - mean) * rstd
    g = g.astype(jnp.float32)
    dx = _input_gradient(normalized, rstd, g * scale)
    axes = tuple(range(x.ndim - 1))
    dscale, dbias = (g * normalized).sum(axes), g.sum(axes)
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(scale.dtype)


@outline
def _matmul(a, b):
    return a @ b


@outline
def _matmul_nt(a, b):
    return a @ b.T


@outline
def _matmul_tn(a, b):
    """a.T @ b, the gradient of a kernel: as many rows as there are positions, few columns."""
    # XLA on CPU is faster with the narrower of the two on the left, by a sixth in the first stage.
    # The transpose of the result costs nothing beside it: a kernel is small.
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


HIDDEN_BYTES = 6 * 2**20  # the hidden layer in one turn of the loop has about so many


# This is inference: custom_vjp calls _mlp_forward instead where there will be a backward pass. A
# few rows of the maps pass through both layers at a time, so that the hidden layer, four times the
# size of the map, stays in the cache; in training it has to be kept whole anyway.
@jax.custom_vjp
def _mlp(x, kernel1, bias1, kernel2, bias2, gamma):
    height, row_bytes = x.shape[1], x[:, 0, :, 0].size * kernel1.shape[1] * x.dtype.itemsize
    size = min(height, max(1, HIDDEN_BYTES // row_bytes))

    def through(y, start, size):
        rows = lax.dynamic_slice_in_dim(y, start, size, axis=1)
        out, _ = _rows_through(_flat(rows), kernel1, bias1, kernel2, bias2, gamma)
        return lax.dynamic_update_slice_in_dim(y, out.reshape(rows.shape), start, axis=1)

    # What comes out takes the place of what went in: each turn reads its own rows only, and a
    # second map would be memory that is touched for the first time.
    turns, rest = divmod(height, size)
    y = lax.fori_loop(0, turns, lambda i, y: through(y, i * size, size), x)
    return through(y, turns * size, rest) if rest else y


def _mlp_forward(x, kernel1, bias1, kernel2, bias2, gamma):
    y, hidden = _rows_through(_flat(x), kernel1, bias1, kernel2, bias2, gamma)
    return y.reshape(x.shape), (x, kernel1, bias1, kernel2, bias2, gamma, hidden)


def _mlp_backward(residuals, g):
    x, kernel1, bias1, kernel2, bias2, gamma, hidden = residuals
    g = _flat(g)
    dactivation = _matmul_nt(_scaled(g, gamma), kernel2)
    # Of the hidden layer its product alone was kept. The GELU is computed again, in the same pass
    # over memory as its gradient: to keep it would have been to write and read one map more.
    activation, dhidden, dbias1 = _biased_gelu_again(hidden, bias1, dactivation)
    dx, dkernel1 = _matmul_nt(dhidden, kernel1), _matmul_tn(_flat(x), dhidden)
    # gamma's gradient is the sum over positions of g * (activation @ kernel2 + bias2). Summed over
    # positions first it needs nothing but what the gradients of kernel2 and bias2 need, and not
    # what gamma was multiplied with, which would be another map to keep.
    product, total = _matmul_tn(activation, g), g.sum(axis=0)
    dgamma = None if gamma is None else (product * kernel2).sum(axis=0) + total * bias2
    dkernel2, dbias2 = _scaled(product, gamma), _scaled(total, gamma)
    return dx.reshape(x.shape), dkernel1, dbias1, dkernel2, dbias2, dgamma


_mlp.defvjp(_mlp_forward, _mlp_backward)


def _rows_through(x, kernel1, bias1, kernel2, bias2, gamma):
    hidden = _matmul(x, kernel1)
    return _scaled(_matmul(_biased_gelu(hidden, bias1), kernel2) + bias2, gamma), hidden


@outline
def _biased_gelu(x, bias):
    return gelu(x + bias).astype(x.dtype)


@outline
def _biased_gelu_again(x, bias, g):
    """Returns the activation, and the gradients of x and bias."""
    wide = (x + bias).astype(jnp.float32)
    cdf = _normal_cdf(wide)
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    dx = g.astype(jnp.float32) * (cdf + wide * density)
    dbias = dx.sum(axis=0)
    return (wide * cdf).astype(x.dtype), dx.astype(x.dtype), dbias.astype(bias.dtype)


def _normal_cdf(x):
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))
