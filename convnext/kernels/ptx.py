"""Kernels of our own on NVIDIA GPUs: PTX text, which XLA launches and the driver compiles.

The text is made by `python -m dev.build_ptx` of the sources in cuda/. XLA's custom call passes
pointers alone, so the sizes of the arrays are written into the text. README.md tells more.
"""

import lzma
import os
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from convnext.errors import require
from convnext.kernels.outline import compiling_for, platform

KERNELS = ("auto", "lax")
# The dtypes for which there are kernels, of a map and of the branch beside it.
DTYPES = (("bfloat16", "bfloat16"), ("float32", "float32"), ("float32", "bfloat16"))
FOLDER = Path(__file__).with_name("cuda")
TARGET = "__gpu$xla.gpu.ptx"  # internal to XLA: see usable()


@cache
def read(name: str) -> str:
    """All entries of cuda/NAME.ptx.xz, as they are."""
    return lzma.decompress((FOLDER / f"{name}.ptx.xz").read_bytes()).decode()


@cache
def text(name: str, entry: str, **sizes: int) -> str:
    """PTX of one entry of cuda/NAME.ptx.xz, in which each SIZE_ has its number."""
    head, *entries = re.split(r"(?=\.visible \.entry )", read(name))
    (ours,) = (each for each in entries if each.startswith(f".visible .entry {entry}("))
    return re.sub(r"\bSIZE_(\w+)", lambda size: str(sizes[size[1]]), head + ours)


def launch(
    entry: str,
    ptx: str,
    operands: Sequence[jax.Array],
    out: Any,
    grid: tuple[int, int],
    block: tuple[int, int],
) -> Any:
    """What the entry writes: an array, or several, of the shapes and dtypes of `out`. It gets the
    pointers of the operands, then those of the results."""
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
    function: Callable[..., Any], rule: str, whole: tuple[str, ...], **factors: int
) -> Callable[..., Any]:
    """The same function, which each device of a mesh computes of its part.

    XLA does not look into a custom call: without this it would gather the operands on every device.
    rule is one of Shardy, such as "n c, c -> n c"; the factors of `whole`, in the order of the
    rule, are gathered where they are split.
    """
    split = custom_partitioning(function)
    of_operands, of_results = (side.split(",") for side in rule.split("->"))

    def laid_out(mesh, term, array):
        names = re.findall(r"\([^)]*\)|\w+", term)
        spec = (*array.sharding.spec, *[None] * len(names))
        axes = (None if name in whole else axis for name, axis in zip(names, spec, strict=False))
        return NamedSharding(mesh, PartitionSpec(*axes))

    def partition(mesh, operands, results):
        given = tuple(map(partial(laid_out, mesh), of_operands, operands))
        leaves, structure = jax.tree.flatten(results)
        made = structure.unflatten(map(partial(laid_out, mesh), of_results, leaves))
        return mesh, function, made, given

    split.def_partition(
        partition=partition, sharding_rule=rule, need_replication_factors=whole, **factors
    )
    return split


def chosen(kernels: str, probe: Callable[[], None]) -> bool:
    """Whether kernels of our own are used: on NVIDIA GPUs that take them, unless `kernels`, or the
    environment variable CONVNEXT_KERNELS, is "lax". probe: see `usable`."""
    everywhere = os.environ.get("CONVNEXT_KERNELS", "auto")
    require(everywhere in KERNELS, "CONVNEXT_KERNELS", everywhere, " or ".join(KERNELS))
    if platform() != "cuda" or not kernels == everywhere == "auto":
        return False
    # What is compiled for a GPU that is not at hand cannot be tried.
    return compiling_for.value is not None or usable(probe)


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
            f"the kernels of {probe.__module__} do not run here, so XLA's are used, which are "
            f"slower: {reason}",
            stacklevel=2,
        )
        return False
    return True
