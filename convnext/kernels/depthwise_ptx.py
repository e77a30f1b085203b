"""The depthwise 7x7 convolution by kernels of our own, on NVIDIA GPUs.

x, its gradient and an addend are maps [N, H, W, C] of one dtype, the map's. The kernel
[7, 7, 1, C], the result and its gradient g are of another, the branch's. ptx.DTYPES has the pairs.
Each device of a mesh computes its part of the batch.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from convnext.kernels import ptx

STRIPS = (7, 8, 4)  # columns of a strip
SIDE = 7  # of the kernel
TAPS = SIDE**2
THREADS = 128  # of a block, as in cuda/depthwise.cu
TOGETHER = 8  # channels at most, of which a thread loads some pixels
# Blocks of the kernel's gradient: two turns of the three that each multiprocessor of an H100 holds.
BLOCKS = 2 * 3 * 132


def forward(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x convolved with the kernel, plus a bias [C], in the kernel's dtype."""
    bias = jnp.zeros(x.shape[-1:]) if bias is None else bias

    def here(x, kernel, bias):
        return _convolve("depthwise_forward", x.dtype, kernel.dtype, kernel.dtype, x, kernel, bias)

    rule = "n h w c, i j o c, c -> n h w c"
    return _per_device(here, rule)(x, kernel, bias.astype(jnp.float32))


def input_gradient(g: jax.Array, kernel: jax.Array, addend: jax.Array | None = None) -> jax.Array:
    """The gradient of x, in the dtype of the addend, to which it is added; without one in g's."""
    if addend is None:

        def here(g, kernel):
            return _convolve("depthwise_input_gradient", g.dtype, g.dtype, g.dtype, g, kernel)

        return _per_device(here, "n h w c, i j o c -> n h w c")(g, kernel)

    def plus(g, kernel, addend):
        dtypes = addend.dtype, g.dtype, addend.dtype
        return _convolve("depthwise_input_gradient_plus", *dtypes, g, kernel, addend)

    return _per_device(plus, "n h w c, i j o c, n h w c -> n h w c")(g, kernel, addend)


def sums(x: jax.Array, g: jax.Array) -> jax.Array:
    """float32 [rows, 50, C], whose sum over the rows is the gradient of the kernel's 49 taps, and
    of a bias, the sum of g. A row is of as many images as any other."""
    images = images_of_a_row(x.shape)

    def here(x, g):
        n, *_, channels = x.shape
        rows, block = n // images, block_of(channels, narrow=True)
        out = jax.ShapeDtypeStruct((rows, TAPS + 1, channels), jnp.float32)
        grid = rows, -(-channels // block[0])
        entry = "depthwise_kernel_gradient"
        text = _text(entry, x.shape, x.dtype, g.dtype)
        return ptx.launch(entry, text, (x, g), out, grid, block)

    # A row of one image, or of all, is no product of two factors.
    if images == 1:
        return _per_device(here, "r h w c, r h w c -> r t c")(x, g)
    if images == len(x):
        return _per_device(here, "q h w c, q h w c -> r t c")(x, g)
    return _per_device(here, "(r q) h w c, (r q) h w c -> r t c", q=images)(x, g)


def kernel_gradient(x: jax.Array, kernel: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of the kernel. The order of its sums is always the same."""
    total = sums(x, g).sum(axis=0)
    return total[:TAPS].reshape(kernel.shape).astype(kernel.dtype)


def takes(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether there are kernels for these."""
    fits = kernel.shape[0] == SIDE and x.size > 0
    return fits and (x.dtype.name, kernel.dtype.name) in ptx.DTYPES


def probe() -> None:
    """Runs each of the kernels on a small map of ones. Raises where one does not run, or does not
    count the pixels that lie under a kernel of ones."""
    x, kernel = jnp.ones((1, 7, 7, 32), jnp.bfloat16), jnp.ones((7, 7, 1, 32), jnp.bfloat16)
    taps = sums(x, x).sum(axis=0)[:TAPS].reshape(7, 7, 32)
    count = np.array([4, 5, 6, 7, 6, 5, 4])
    wanted = np.outer(count, count)[..., None]
    for found in (forward(x, kernel)[0], input_gradient(x, kernel, x)[0] - 1, taps):
        if (np.asarray(found, np.float32) != wanted).any():
            raise RuntimeError("a kernel computes something else than it should")


def file_name(map_dtype: str, branch_dtype: str, columns: int) -> str:
    """Of the PTX for strips of STRIPS."""
    return f"depthwise_{map_dtype}_{branch_dtype}_{columns}"


def block_of(channels: int, narrow: bool = False) -> tuple[int, int]:
    """Threads of a block: channels, and strips."""
    if narrow and channels % 32 == 0:
        wide = 32
    else:
        step = math.gcd(channels, TOGETHER)
        divisors = [n for n in range(step, THREADS + 1, step) if channels % n == 0]
        wide = max([n for n in divisors if n % 32 == 0] or divisors)
        wide = wide if wide >= 32 or wide == channels else 32  # the last ones have nothing to do
    return wide, max(1, THREADS // wide)


def columns_of(width: int) -> int:
    """Of a strip, for maps of this width: that which divides it, or the first."""
    return next((columns for columns in STRIPS if width % columns == 0), STRIPS[0])


def images_of_a_row(shape: tuple[int, ...]) -> int:
    """As many that there are about BLOCKS blocks, and so few that each device has whole rows."""
    n, *_, channels = shape
    parts = -(-channels // block_of(channels, narrow=True)[0])
    on_device = n // jax.device_count() if n % jax.device_count() == 0 else n
    wanted = n * parts / BLOCKS
    return min(
        (q for q in range(1, on_device + 1) if on_device % q == 0 and q >= wanted),
        default=on_device,
    )


def _convolve(entry, map_dtype, branch_dtype, out_dtype, x, *operands):
    n, _, width, channels = x.shape
    wide, tall = block = block_of(channels)
    grid = -(-n * -(-width // columns_of(width)) // tall), -(-channels // wide)
    text = _text(entry, x.shape, map_dtype, branch_dtype)
    out = jax.ShapeDtypeStruct(x.shape, out_dtype)
    return ptx.launch(entry, text, (x, *operands), out, grid, block)


def _text(entry, shape, map_dtype, branch_dtype):
    name = file_name(map_dtype.name, branch_dtype.name, columns_of(shape[2]))
    return ptx.text(name, entry, **dict(zip("NHWC", shape, strict=True)))


def _per_device(here, rule, **factors):
    whole = [factor for factor in "hwijoqt" if factor in rule]
    return ptx.per_device(here, rule, tuple(sorted(whole, key=rule.index)), **factors)
