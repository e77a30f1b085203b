"""The gradients of LayerNorm by kernels of our own, on NVIDIA GPUs.

x and its gradient are of one dtype, the map's; g, the gradient of the result, is of the branch's.
ptx.DTYPES has the pairs. Each device of a mesh computes its part of the rows.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from convnext.kernels import ptx

AT_ONCE = 8  # numbers that a thread loads at once, as in cuda/layer_norm.cu
CHUNKS = (1, 2, 3, 4, 6, 8, 12)  # of AT_ONCE numbers, that a thread has of a row
CHUNKS_WITH_SUMS = CHUNKS[:3]  # where it has sums for scale and bias, too
THREADS = 128  # of a block
LANES = (4, 8, 16, 32)  # threads of a row
# Blocks, where each has a row of sums: ten turns of the three that a multiprocessor of an H100 has.
BLOCKS = 10 * 3 * 132


def standardize_gradient(x: jax.Array, g: jax.Array, eps: float) -> jax.Array:
    """The gradient of x [..., C], of which the normalised rows have the gradient g."""

    def here(x, g):
        lanes, chunks = lanes_and_chunks(x.shape[-1], CHUNKS)
        rows, tall = x.size // x.shape[-1], THREADS // lanes
        entry, text = _entry("standardize_gradient", x, g, chunks, lanes, rows, eps)
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return ptx.launch(entry, text, (x, g), out, (-(-rows // tall), 1), (lanes, tall))

    axes = _axes(x)
    return ptx.per_device(here, f"{axes} c, {axes} c -> {axes} c", ("c",))(x, g)


def gradients(
    x: jax.Array, g: jax.Array, scale: jax.Array, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradients of x [N, ..., C] and of scale and bias [C], in the scale's dtype, of LayerNorm,
    whose result has the gradient g. The order of the sums is always the same."""
    parts = parts_of_an_image(len(x), math.prod(x.shape[1:-1]))

    def here(x, g, scale):
        lanes, chunks = lanes_and_chunks(x.shape[-1], CHUNKS_WITH_SUMS)
        rows = math.prod(x.shape[1:-1]) // parts
        entry, text = _entry("layer_norm_gradients", x, g, chunks, lanes, rows, eps)
        sums = jax.ShapeDtypeStruct((len(x), parts, 2, x.shape[-1]), jnp.float32)
        out = jax.ShapeDtypeStruct(x.shape, x.dtype), sums
        block = lanes, THREADS // lanes
        return tuple(ptx.launch(entry, text, (x, g, scale), out, (len(x) * parts, 1), block))

    axes = _axes(x)
    rule = f"{axes} c, {axes} c, c -> {axes} c, a p k c"
    whole = (*axes.split()[1:], "c", "p", "k")
    dx, sums = ptx.per_device(here, rule, whole)(x, g, scale.astype(jnp.float32))
    return dx, *sums.sum(axis=(0, 1)).astype(scale.dtype)


def _axes(x):
    return " ".join("abdefg"[: x.ndim - 1])


def _entry(name, x, g, chunks, lanes, rows, eps):
    sizes = dict(C=x.shape[-1], LANES=lanes, ROWS=rows, EPS=int(np.float32(eps).view(np.int32)))
    entry = f"{name}_{chunks}"
    return entry, ptx.text(file_name(x.dtype.name, g.dtype.name), entry, **sizes)


def takes(x: jax.Array, dtype: np.dtype, chunks: tuple[int, ...] = CHUNKS) -> bool:
    """Whether there is a kernel for x and a gradient of dtype, among those of so many chunks."""
    fits = x.shape[-1] % AT_ONCE == 0 and x.shape[-1] <= AT_ONCE * LANES[-1] * chunks[-1]
    return fits and (x.dtype.name, jnp.dtype(dtype).name) in ptx.DTYPES and x.size > 0


def probe() -> None:
    """Runs each kernel on small rows. Raises where one does not run or computes something else."""
    x = jnp.tile(jnp.array([-1, 1], jnp.bfloat16), (3, 16))  # normalised already
    half = jnp.arange(32, dtype=x.dtype) // 16
    dx, dscale, dbias = gradients(x, 2 * x + half, jnp.ones(32), 0.0)
    wanted = half - 0.5, 3 * (2 + half * x[0]), 3 * (2 * x[0] + half)
    found = standardize_gradient(x, 2 * x + half, 0.0), dx, dscale, dbias
    for each, exact in zip(found, (wanted[0], *wanted), strict=True):
        if (np.asarray(each, np.float32) != np.asarray(exact, np.float32)).any():
            raise RuntimeError("a kernel computes something else than it should")


def file_name(map_dtype: str, branch_dtype: str) -> str:
    """Of the PTX."""
    return f"layer_norm_{map_dtype}_{branch_dtype}"


def parts_of_an_image(images: int, rows: int) -> int:
    """As many of the same length that each device has no more than BLOCKS blocks."""
    wanted = max(1, BLOCKS * jax.device_count() // images)
    return max(n for n in range(1, min(rows, wanted) + 1) if rows % n == 0)


def lanes_and_chunks(channels: int, accepted: tuple[int, ...]) -> tuple[int, int]:
    """Threads of a row, and chunks of each, an accepted number: so that few threads have nothing to
    do, and of three chunks, if possible, to load at the same time."""
    wanted = channels // AT_ONCE
    choices = [
        (lanes, next(chunks for chunks in accepted if lanes * chunks >= wanted))
        for lanes in LANES
        if lanes * accepted[-1] >= wanted
    ]
    return min(choices, key=lambda each: (each[0] * each[1] - wanted, abs(each[1] - 3)))
