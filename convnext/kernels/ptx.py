"""Kernels of our own on NVIDIA GPUs: PTX text, which XLA launches and the driver compiles.

The text is made by `python -m dev.build_ptx` of the sources in cuda/. XLA's custom call passes
pointers alone, so the sizes of the arrays are written into the text. README.md tells more.
"""

import lzma
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning

FOLDER = Path(__file__).with_name("cuda")
TARGET = "__gpu$xla.gpu.ptx"  # internal to XLA: see usable()


@cache
def read(name: str) -> str:
    """All entries of cuda/NAME.ptx.xz, as they are."""
    return lzma.decompress((FOLDER / f"{name}.ptx.xz").read_bytes()).decode()


@cache
def text(name: str, entry: str, **sizes: int) -> str:
    """PTX of one entry of cuda/NAME.ptx.xz, in which each size has its number."""
    head, *entries = re.split(r"(?=\.visible \.entry )", read(name))
    (ours,) = (each for each in entries if each.startswith(f".visible .entry {entry}("))
    return re.sub(r"\bSIZE_(\w+)", lambda size: str(sizes[size[1]]), head + ours)


def launch(
    entry: str,
    ptx: str,
    operands: Sequence[jax.Array],
    out: jax.ShapeDtypeStruct,
    grid: tuple[int, int],
    block: tuple[int, int],
) -> jax.Array:
    """What the entry writes. It gets the pointers of the operands, then that of the result."""
    lengths = dict(grid_x=grid[0], grid_y=grid[1], grid_z=1, block_x=block[0], block_y=block[1])
    lengths |= dict(block_z=1, shared_mem_bytes=0)
    return jax.ffi.ffi_call(TARGET, out)(
        *operands,
        name=entry,
        kernel_type="ptx",
        kernel_data=ptx,
        **{name: np.int32(length) for name, length in lengths.items()},
    )


def per_device(
    function: Callable[..., jax.Array], rule: str, whole: tuple[str, ...], **factors: int
) -> Callable[..., jax.Array]:
    """The same function, which each device of a mesh computes of its part.

    XLA does not look into a custom call: without this it would gather the operands on every device.
    rule is one of Shardy, such as "n c, c -> n c"; the factors of `whole`, in the order of the
    rule, are not split.
    """
    split = custom_partitioning(function)

    def partition(mesh, operands, result):
        return mesh, function, result.sharding, tuple(each.sharding for each in operands)

    split.def_partition(
        partition=partition, sharding_rule=rule, need_replication_factors=whole, **factors
    )
    return split


@cache
def usable(probe: Callable[[], None]) -> bool:
    """Whether the driver and the GPU at hand take the kernels: whether probe() raises nothing.
    Where it does, a warning says so, once."""

    def on_one_device():
        with jax.default_device(jax.local_devices()[0]):
            probe()

    try:
        # In a thread of its own nothing is being traced.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(on_one_device).result()
    except Exception as error:  # of XLA, of the driver, or of the compiler in it
        reason = " ".join(str(error).split())[:300]
        warnings.warn(
            f"the kernels of convnext/kernels/cuda do not run here, so XLA's convolution is used, "
            f"which is slower: {reason}",
            stacklevel=2,
        )
        return False
    return True
