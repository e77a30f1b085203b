"""Depthwise convolution: every channel has its own small kernel.

All functions here take x and g, the gradient of the result, [N, H, W, C], and kernel [k, k, 1, C]
with k odd. The convolution has stride 1, pads with zeros and returns [N, H, W, C] in x's dtype.
"""

import json
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from convnext.kernels.outline import outline, platform

COLUMNS = 32  # of a row of the map, at most, in one turn of the kernel gradient's loop

# What `python -m dev.benchmark layers --record` measured: for each platform that it was run on,
# the device, the versions and the milliseconds of each implementation.
TIMINGS: dict[str, Any] = json.loads(Path(__file__).with_name("timings.json").read_text())


def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The implementation that was measured to be fastest on the platform it is compiled for.

    On a platform of TIMINGS it has a gradient of its own, so reverse mode only: `jax.jvp` raises
    TypeError. Elsewhere it is XLA's grouped convolution.

    Raises ValueError where the kernel is not square and odd, or not one per channel.
    """
    k, k2, one, channels = kernel.shape
    if k != k2 or k % 2 == 0 or one != 1 or channels != x.shape[-1]:
        raise ValueError(
            f"depthwise kernel is {kernel.shape}; accepted: (k, k, 1, {x.shape[-1]}) with k odd"
        )
    return _measured_conv(x, kernel) if platform() in TIMINGS else grouped_conv(x, kernel)


@jax.custom_vjp
def _measured_conv(x, kernel):
    return _fastest("forward", x, kernel)


def _forward(x, kernel):
    return _measured_conv(x, kernel), (x, kernel)


def _backward(residuals, g):
    x, kernel = residuals
    return _fastest("input_gradient", g, kernel), _fastest("kernel_gradient", x, kernel, g)


_measured_conv.defvjp(_forward, _backward)


def _fastest(direction, x, *others):
    pixels = x.shape[1] * x.shape[2]
    functions = {name: IMPLEMENTATIONS[fastest(name, direction, pixels)] for name in TIMINGS}
    return lax.platform_dependent(
        x, *others,
        **{name: function[direction] for name, function in functions.items()},
        default=IMPLEMENTATIONS["lax"][direction],
    )  # fmt: skip


@cache
def fastest(platform: str, direction: str, pixels: int) -> str:
    """Of IMPLEMENTATIONS, by the map measured on the platform that is nearest to one of so many
    pixels. direction is "forward", "input_gradient" or "kernel_gradient"."""
    rows = [row for row in TIMINGS[platform]["rows"] if row["direction"] == direction]
    nearest = min(rows, key=lambda row: abs(math.log(pixels / row["pixels"])))
    return min(nearest["ms"], key=nearest["ms"].get)


# By XLA's convolution, the reference.


def grouped_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's own convolution, of the shapes of `depthwise_conv`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _grouped_kernel_gradient(x, kernel, g):
    return jax.linear_transpose(partial(grouped_conv, x), kernel)(g)[0]


# By sums of shifted copies.


@outline
def shifted_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """k*k shifted copies of x, each times one row of weights, added up in float32."""
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
def _shifted_kernel_gradient(x, kernel, g):
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


def _of_flipped(conv):
    """The gradient of the input is the convolution of the result's with the flipped kernel."""
    return lambda g, kernel: conv(g, kernel[::-1, ::-1])


# forward(x, kernel), input_gradient(g, kernel) and kernel_gradient(x, kernel, g).
IMPLEMENTATIONS: dict[str, dict[str, Callable[..., jax.Array]]] = {
    "lax": dict(
        forward=grouped_conv,
        input_gradient=_of_flipped(grouped_conv),
        kernel_gradient=_grouped_kernel_gradient,
    ),
    "shifted_sum": dict(
        forward=shifted_sum,
        input_gradient=_of_flipped(shifted_sum),
        kernel_gradient=_shifted_kernel_gradient,
    ),
}
