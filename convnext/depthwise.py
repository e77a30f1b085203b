"""Depthwise convolution: every channel has its own small kernel.

All functions here take x [N, H, W, C] and kernel [k, k, 1, C] with k odd, have stride 1,
pad with zeros and return [N, H, W, C] in x's dtype.
"""

import jax
import jax.numpy as jnp
from jax import lax

from convnext.outline import on_cpu, outline

COLUMNS = 32  # of a row of the map, at most, in one turn of the kernel gradient's loop


def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The implementation that is fastest where the program runs.

    GPU and TPU have kernels for the grouped convolution. XLA on CPU has not: there the shifted
    sum is up to 28 times faster.

    Raises ValueError where the kernel is not square and odd, or not one per channel.
    """
    k, k2, one, channels = kernel.shape
    if k != k2 or k % 2 == 0 or one != 1 or channels != x.shape[-1]:
        raise ValueError(
            f"depthwise kernel is {kernel.shape}; accepted: (k, k, 1, {x.shape[-1]}) with k odd"
        )
    return shifted_sum(x, kernel) if on_cpu() else grouped_conv(x, kernel)


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


@jax.custom_vjp
def shifted_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """k*k shifted copies of x, each times one row of weights, added up in float32.

    Has a gradient of its own, so reverse mode only: `jax.jvp` raises TypeError.
    """
    return _sum_of_shifts(x, kernel)


def _forward(x, kernel):
    return _sum_of_shifts(x, kernel), (x, kernel)


def _backward(residuals, g):
    x, kernel = residuals
    return _sum_of_shifts(g, kernel[::-1, ::-1]), _kernel_gradient(x, kernel, g)


shifted_sum.defvjp(_forward, _backward)


@outline
def _sum_of_shifts(x, kernel):
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


@outline
def _kernel_gradient(x, kernel, g):
    """For each pixel of g, the window of x around it times that pixel; added up over the pixels.

    One turn of the loop adds up a part of a row, unrolled: as a reduction, XLA on CPU would hand
    it to a library whose calls take longer than the sum.
    """
    k = kernel.shape[0]
    batch, height, width, channels = x.shape
    parts = -(-width // COLUMNS)
    columns = -(-width // parts)
    padded = _pad(x, k, columns * parts - width)
    g = jnp.pad(g, ((0, 0), (0, 0), (0, columns * parts - width), (0, 0)))

    def add_part(index, total):
        row, left = index // parts, index % parts * columns
        part = jnp.zeros((), jnp.float32)
        for column in range(columns):
            window = lax.dynamic_slice(padded, (0, row, left + column, 0), (batch, k, k, channels))
            pixel = lax.dynamic_slice(g, (0, row, left + column, 0), (batch, 1, 1, channels))
            part += window.astype(jnp.float32) * pixel.astype(jnp.float32)
        return total + part

    # The batch axis stays until after the loop: with a sharded batch there is one all-reduce
    # then, and not one a turn.
    zeros = jnp.zeros((batch, k, k, channels), jnp.float32)
    total = lax.fori_loop(0, height * parts, add_part, zeros)
    return total.sum(axis=0)[:, :, None].astype(kernel.dtype)


def _pad(x, k, right=0):
    return jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2 + right), (0, 0)))
