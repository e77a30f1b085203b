"""Depthwise convolution: every channel has its own small kernel.

x, and g, the gradient of the result, are [N, H, W, C]; kernel is [k, k, 1, C] with k odd. The
convolution has stride 1, pads with zeros and returns [N, H, W, C] in x's dtype.
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

from convnext.kernels import depthwise_ptx, ptx
from convnext.kernels.outline import outline, platform

DIRECTIONS = ("forward", "input_gradient", "kernel_gradient")
COLUMNS = 32  # one turn of the kernel gradient's loop adds up at most so many pixels of a row

# What `python -m dev.benchmark layers --record` measured on each platform that it was run on: the
# device, the versions and the milliseconds of each implementation.
TIMINGS: dict[str, Any] = json.loads(Path(__file__).with_name("timings.json").read_text())


def depthwise_conv(x: jax.Array, kernel: jax.Array, kernels: str = "auto") -> jax.Array:
    """Convolves with the implementation that was measured to be fastest on the platform.

    kernels: one of ptx.KERNELS. "lax" leaves out those for NVIDIA GPUs, "auto" does so where the
    environment variable CONVNEXT_KERNELS is "lax".

    On a platform of TIMINGS it has a hand-written gradient, so reverse mode only: `jax.jvp` raises
    TypeError. Elsewhere it is XLA's grouped convolution.

    Raises ValueError where the kernel is not square and odd, or not one per channel.
    """
    k, k2, one, channels = kernel.shape
    if k != k2 or k % 2 == 0 or one != 1 or channels != x.shape[-1]:
        raise ValueError(
            f"depthwise kernel is {kernel.shape}; accepted: (k, k, 1, {x.shape[-1]}) with k odd"
        )
    if platform() not in TIMINGS:
        return grouped_conv(x, kernel)
    return _measured_conv(x, kernel, _without(x, kernel, kernels))


def conv_and_shortcut(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, dtype: Any, kernels: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Convolves in `dtype`, adds a bias [C], and returns the result and x, for a shortcut past it.

    x, kernel and bias may be wider than `dtype`. Where the kernels for NVIDIA GPUs are chosen, the
    gradient of the shortcut is added where that of the convolution is computed, and the gradients
    of kernel and bias are float32 sums.
    """
    narrow = kernel.astype(dtype)
    pixels, has_kernels = x.shape[1] * x.shape[2], not _without(x, narrow, kernels)
    if has_kernels and all(fastest("cuda", each, pixels) == "ptx" for each in DIRECTIONS):
        return _ptx_and_shortcut(x, kernel, bias, dtype)
    return depthwise_conv(x.astype(dtype), narrow, kernels) + bias.astype(dtype), x


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _ptx_and_shortcut(x, kernel, bias, dtype):
    def by_lax(x, kernel, bias):
        return grouped_conv(x, kernel) + bias.astype(dtype)

    by_ptx = depthwise_ptx.forward
    # The copy in dtype is less to keep and to read than x, though the kernels would read that too.
    narrow = x.astype(dtype), kernel.astype(dtype)
    return lax.platform_dependent(*narrow, bias, cuda=by_ptx, default=by_lax), x


def _ptx_and_shortcut_forward(x, kernel, bias, dtype):
    return _ptx_and_shortcut(x, kernel, bias, dtype), (x.astype(dtype), kernel, bias)


def _ptx_and_shortcut_backward(dtype, residuals, gradients):
    (x, kernel, bias), (g, shortcut) = residuals, gradients

    def by_lax(g, kernel, shortcut):
        return shortcut + _by_flipped(grouped_conv)(g, kernel).astype(shortcut.dtype)

    def sums_by_lax(x, g):
        taps = _grouped_kernel_gradient(x, kernel.astype(dtype), g)
        taps = taps.reshape(-1, taps.shape[-1]).astype(jnp.float32)
        return jnp.vstack([taps, g.astype(jnp.float32).sum(axis=(0, 1, 2))])

    def sums(x, g):
        return depthwise_ptx.sums(x, g).sum(axis=0)

    by_ptx = depthwise_ptx.input_gradient
    dx = lax.platform_dependent(g, kernel.astype(dtype), shortcut, cuda=by_ptx, default=by_lax)
    total = lax.platform_dependent(x, g, cuda=sums, default=sums_by_lax)
    dkernel = total[:-1].reshape(kernel.shape).astype(kernel.dtype)
    return dx, dkernel, total[-1].astype(bias.dtype)


_ptx_and_shortcut.defvjp(_ptx_and_shortcut_forward, _ptx_and_shortcut_backward)


def _without(x, kernel, kernels):
    """The implementations that are not to be used."""
    chosen = ptx.chosen(kernels, depthwise_ptx.probe) and depthwise_ptx.takes(x, kernel)
    return () if chosen else ("ptx",)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _measured_conv(x, kernel, without):
    return _fastest("forward", without, x, kernel)


def _forward(x, kernel, without):
    return _measured_conv(x, kernel, without), (x, kernel)


def _backward(without, residuals, g):
    x, kernel = residuals
    dx = _fastest("input_gradient", without, g, kernel)
    return dx, _fastest("kernel_gradient", without, x, kernel, g)


_measured_conv.defvjp(_forward, _backward)


def _fastest(direction, without, x, *others):
    """Where the program is lowered for another platform than it was traced for, XLA's."""
    name = fastest(platform(), direction, x.shape[1] * x.shape[2], without)
    return lax.platform_dependent(
        x,
        *others,
        **{platform(): IMPLEMENTATIONS[name][direction]},
        default=IMPLEMENTATIONS["lax"][direction],
    )


@cache
def fastest(platform: str, direction: str, pixels: int, without: tuple[str, ...] = ()) -> str:
    """Name of the fastest of IMPLEMENTATIONS on the measured map that is nearest in pixels.

    direction is "forward", "input_gradient" or "kernel_gradient".
    """
    rows = [row for row in TIMINGS[platform]["rows"] if row["direction"] == direction]
    nearest = min(rows, key=lambda row: abs(math.log(pixels / row["pixels"])))
    ms = {name: ms for name, ms in nearest["ms"].items() if name not in without}
    return min(ms, key=ms.get)


# By XLA's convolution, the reference.


def grouped_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """XLA's own convolution, for the shapes of `depthwise_conv`."""
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
    """Adds up k*k shifted copies of x, each times one row of weights, in float32."""
    return _sum_inside(_pad(x, kernel.shape[0]), kernel)


def _sum_inside(padded, kernel):
    """The convolution of what has its neighbours around it, for all but these neighbours."""
    k = kernel.shape[0]
    height, width = (side - k + 1 for side in padded.shape[1:3])
    weights = kernel.astype(jnp.float32)
    total = jnp.zeros((), jnp.float32)
    for i in range(k):
        for j in range(k):
            shifted = padded[:, i : i + height, j : j + width].astype(jnp.float32)
            total += shifted * weights[i, j, 0]
    return total.astype(padded.dtype)


@outline
def _shifted_kernel_gradient(x, kernel, g):
    """Adds up, over the pixels of g, the window of x around each times that pixel."""
    k, width = kernel.shape[0], x.shape[2]
    columns = _columns(width)
    return _kernel_gradient_inside(_pad(x, k, -(-width // columns) * columns - width), kernel, g)


def _columns(width):
    """Pixels of a row that one turn of the loop adds up."""
    return -(-width // -(-width // COLUMNS))


def _kernel_gradient_inside(padded, kernel, g):
    """The same of what has its neighbours around it.

    One turn of the loop adds up a part of a row, unrolled: as a reduction, XLA on CPU would hand
    it to a library whose calls take longer than the sum.
    """
    k = kernel.shape[0]
    batch, height, width, channels = g.shape
    columns = _columns(width)
    parts = -(-width // columns)
    missing = columns * parts + k - 1 - padded.shape[2]
    if missing > 0:
        padded = jnp.pad(padded, ((0, 0), (0, 0), (0, missing), (0, 0)))
    g = jnp.pad(g, ((0, 0), (0, 0), (0, columns * parts - width), (0, 0)))

    def add_part(index, total):
        row, left = index // parts, index % parts * columns
        part = jnp.zeros((), jnp.float32)
        for column in range(columns):
            window = lax.dynamic_slice(padded, (0, row, left + column, 0), (batch, k, k, channels))
            pixel = lax.dynamic_slice(g, (0, row, left + column, 0), (batch, 1, 1, channels))
            part += window.astype(jnp.float32) * pixel.astype(jnp.float32)
        return total + part

    # The batch axis stays until after the loop: with a sharded batch there is then one all-reduce,
    # and not one in each turn.
    zeros = jnp.zeros((batch, k, k, channels), jnp.float32)
    total = lax.fori_loop(0, height * parts, add_part, zeros)
    return total.sum(axis=0)[:, :, None].astype(kernel.dtype)


# The same of tiles [N, h + k - 1, w + k - 1, C], which have their neighbours around them. The
# result, and its gradient g, are [N, h, w, C].
tile_sum = outline(_sum_inside)
tile_kernel_gradient = outline(_kernel_gradient_inside)


def _pad(x, k, right=0):
    return jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2 + right), (0, 0)))


def _by_flipped(conv):
    """The gradient of the input, which is g convolved with the flipped kernel."""
    return lambda g, kernel: conv(g, kernel[::-1, ::-1])


def implementations() -> dict[str, dict[str, Callable[..., jax.Array]]]:
    """Those of IMPLEMENTATIONS that run on `platform()`."""
    return {
        name: functions
        for name, functions in IMPLEMENTATIONS.items()
        if name != "ptx" or platform() == "cuda"
    }


# forward(x, kernel), input_gradient(g, kernel) and kernel_gradient(x, kernel, g).
IMPLEMENTATIONS: dict[str, dict[str, Callable[..., jax.Array]]] = {
    "lax": dict(
        forward=grouped_conv,
        input_gradient=_by_flipped(grouped_conv),
        kernel_gradient=_grouped_kernel_gradient,
    ),
    "shifted_sum": dict(
        forward=shifted_sum,
        input_gradient=_by_flipped(shifted_sum),
        kernel_gradient=_shifted_kernel_gradient,
    ),
    # On NVIDIA GPUs only, and for what depthwise_ptx.takes().
    "ptx": dict(
        forward=depthwise_ptx.forward,
        input_gradient=depthwise_ptx.input_gradient,
        kernel_gradient=depthwise_ptx.kernel_gradient,
    ),
}
