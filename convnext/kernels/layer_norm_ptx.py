"""The gradient of LayerNorm without scale and bias by a kernel of our own, on NVIDIA GPUs.

x and its gradient are of one dtype, the map's; g, the gradient of the result, is of the branch's.
ptx.DTYPES has the pairs. Each device of a mesh computes its part of the rows.
"""

import jax
import jax.numpy as jnp
import numpy as np

from convnext.kernels import ptx

AT_ONCE = 8  # numbers that a thread loads at once, as in cuda/layer_norm.cu
CHUNKS = (1, 2, 3, 4, 6, 8, 12)  # of AT_ONCE numbers, that a thread has of a row
THREADS = 128  # of a block
LANES = (4, 8, 16, 32)  # threads of a row


def standardize_gradient(x: jax.Array, g: jax.Array, eps: float) -> jax.Array:
    """The gradient of x [..., C], of which the normalised rows have the gradient g."""

    def here(x, g):
        lanes, chunks = lanes_and_chunks(x.shape[-1])
        rows, tall = x.size // x.shape[-1], THREADS // lanes
        entry, name = f"standardize_gradient_{chunks}", file_name(x.dtype.name, g.dtype.name)
        sizes = dict(ROWS=rows, C=x.shape[-1], LANES=lanes)
        bits = int(np.float32(eps).view(np.int32))
        text = ptx.text(name, entry, **sizes, EPS=bits)
        out = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return ptx.launch(entry, text, (x, g), out, (-(-rows // tall), 1), (lanes, tall))

    axes = " ".join("abdefg"[: x.ndim - 1])
    return ptx.per_device(here, f"{axes} c, {axes} c -> {axes} c", ("c",))(x, g)


def takes(x: jax.Array, dtype: np.dtype) -> bool:
    """Whether there is a kernel for x and a gradient of dtype."""
    fits = x.shape[-1] % AT_ONCE == 0 and x.shape[-1] <= AT_ONCE * LANES[-1] * CHUNKS[-1]
    return fits and (x.dtype.name, jnp.dtype(dtype).name) in ptx.DTYPES and x.size > 0


def probe() -> None:
    """Runs the kernel on a small map. Raises where it does not run, or computes something else."""
    x = jnp.tile(jnp.array([-1, 1], jnp.bfloat16), (3, 16))  # normalised already
    found = standardize_gradient(x, 2 * x + jnp.arange(32, dtype=x.dtype) // 16, 0.0)
    wanted = np.where(np.arange(32) < 16, -0.5, 0.5)
    if (np.asarray(found, np.float32) != wanted).any():
        raise RuntimeError("a kernel computes something else than it should")


def file_name(map_dtype: str, branch_dtype: str) -> str:
    """Of the PTX."""
    return f"layer_norm_{map_dtype}_{branch_dtype}"


def lanes_and_chunks(channels: int) -> tuple[int, int]:
    """Threads of a row, and chunks of each: so that few threads have nothing to do, and of three
    chunks, if possible, to load at the same time."""
    wanted = channels // AT_ONCE
    choices = [
        (lanes, next(chunks for chunks in CHUNKS if lanes * chunks >= wanted))
        for lanes in LANES
        if lanes * CHUNKS[-1] >= wanted
    ]
    return min(choices, key=lambda each: (each[0] * each[1] - wanted, abs(each[1] - 3)))
