"""Depthwise convolution: every channel has its own small kernel.

All functions here take x [N, H, W, C] and kernel [k, k, 1, C] with k odd, have stride 1,
pad with zeros and return [N, H, W, C] in x's dtype.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SMALL_MAP = 64  # pixels; up to here the matrix product is the fastest on CPU


def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The implementation that is fastest on the default backend.

    GPU and TPU have kernels for the grouped convolution. XLA on CPU has not: there the shifted
    sum is up to 28 times faster, and on maps of a few pixels a matrix product faster still.

    Raises ValueError where the kernel is not square and odd, or not one per channel.
    """
    k, k2, one, channels = kernel.shape
    if k != k2 or k % 2 == 0 or one != 1 or channels != x.shape[-1]:
        raise ValueError(
            f"depthwise kernel is {kernel.shape}; accepted: (k, k, 1, {x.shape[-1]}) with k odd"
        )
    if jax.default_backend() != "cpu":
        return grouped_conv(x, kernel)
    if x.shape[1] * x.shape[2] <= SMALL_MAP:
        return toeplitz_product(x, kernel)
    return shifted_sum(x, kernel)


def grouped_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's grouped convolution: the reference."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def toeplitz_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution as one [H*W, H*W] matrix per channel: memory grows with (H*W)**2."""
    k = kernel.shape[0]
    batch, height, width, channels = x.shape

    def taps(size):
        """[size in, size out]: which row of the kernel joins them; k where none does."""
        offset = np.arange(size)[:, None] - np.arange(size) + k // 2
        return np.where((offset >= 0) & (offset < k), offset, k)

    rows, columns = taps(height)[:, None, :, None], taps(width)[None, :, None, :]
    weights = jnp.asarray(kernel[:, :, 0], jnp.float32)
    matrix = weights.at[rows, columns].get(mode="fill", fill_value=0)
    matrix = matrix.reshape(height * width, height * width, channels)
    pixels = x.astype(jnp.float32).reshape(batch, height * width, channels)
    return jnp.einsum("nac,abc->nbc", pixels, matrix).reshape(x.shape).astype(x.dtype)


@jax.custom_vjp
def shifted_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """k*k shifted copies of x, each times one row of weights, added up in float32.

    Has a gradient of its own, so reverse mode only: `jax.jvp` raises TypeError.
    """
    k = kernel.shape[0]
    height, width = x.shape[1:3]
    padded = _pad(x, k)
    weights = kernel.astype(jnp.float32)
    total = jnp.zeros((), jnp.float32)
    for i in range(k):
        for j in range(k):
            shifted = padded[:, i : i + height, j : j + width].astype(jnp.float32)
            total += shifted * weights[i, j, 0]
    return total.astype(x.dtype)


def _forward(x, kernel):
    return shifted_sum(x, kernel), (x, kernel)


def _backward(residuals, g):
    x, kernel = residuals
    return shifted_sum(g, kernel[::-1, ::-1]), _kernel_gradient(x, kernel, g)


def _kernel_gradient(x, kernel, g):
    k = kernel.shape[0]
    batch, height, width, channels = x.shape
    padded = _pad(x, k)

    def add_row(row, total):
        rows = lax.dynamic_slice_in_dim(padded, row, k, axis=1).astype(jnp.float32)
        g_row = lax.dynamic_slice_in_dim(g, row, 1, axis=1).astype(jnp.float32)
        columns = [(rows[:, :, j : j + width] * g_row).sum(axis=2) for j in range(k)]
        return total + jnp.stack(columns, axis=2)

    # The batch axis stays until after the loop: with a sharded batch there is one all-reduce
    # then, and not one a row.
    total = lax.fori_loop(0, height, add_row, jnp.zeros((batch, k, k, channels), jnp.float32))
    return total.sum(axis=0)[:, :, None].astype(kernel.dtype)


def _pad(x, k):
    return jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))


shifted_sum.defvjp(_forward, _backward)
