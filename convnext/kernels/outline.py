"""Functions that XLA on CPU compiles apart from what is around them.

XLA on CPU fuses a chain of elementwise operations into each of its readers, which then compute it
anew, and hands everything around a matrix product to a library that materialises broadcasts. Both
stop at a call that is not inlined. Other backends fuse well and see no call. See README.md.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

# What is traced inside `with compiling_for("tpu"):` is compiled for a platform not at hand.
compiling_for = jax.make_user_context(default_value=None)

FOR_CPU = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


def portable() -> Any:
    """Context of a program for several platforms, or for sizes that are not known: what is traced
    inside takes no kernel and no call of one platform."""
    return compiling_for("portable")


def platform() -> str:
    """Returns where computations run unless told otherwise: "cpu", "cuda", "rocm" or "tpu", or
    "portable"."""
    if compiling_for.value is not None:
        return compiling_for.value
    device = jax.config.jax_default_device or jax.local_devices()[0]
    name = device if isinstance(device, str) else device.platform
    if name != "gpu":
        return name
    return "rocm" if "rocm" in jax.local_devices()[0].client.platform_version else "cuda"


def on_cpu() -> bool:
    """Returns whether `platform()` is "cpu"."""
    return platform() == "cpu"


def compiler_options() -> dict[str, Any]:
    """Returns what XLA is told when it compiles a model for `platform()`.

    For NVIDIA GPUs all products are cuBLAS's. On an H100 a training step of ConvNeXt-T took 4 %
    less time than with XLA's own products, and 50 instead of 80 s to compile.

    For CPUs vectors may be of 512 bits where LLVM prefers 256 (inference 16 % faster, training
    4 %), and products are Eigen's, not YNNPACK's, which adds up only (training some 3 % faster); of
    ConvNeXt-T at batch 8 on an Intel Xeon with AVX-512. With AVX2 alone it takes the same time.
    """
    if platform() == "cuda":
        return {"xla_gpu_enable_triton_gemm": False}
    options = FOR_CPU if on_cpu() else {}
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def _is_known(name, value):
    """Whether this jaxlib has an option: XLA renames them at times."""
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False
    return True


def outline(function: Callable) -> Callable:
    """Returns the same function of arrays, which is a call of its own where it is compiled for CPU.

    Its place is inside the rules of a `jax.custom_vjp`: JAX would derive a gradient, but one that
    keeps all that the derivative reads.
    """
    compiled = jax.jit(function)

    def call(*arrays):
        with set_xla_metadata(inlineable="false"):
            return compiled(*arrays)

    @functools.wraps(function)
    def outlined(*arrays: jax.Array):
        return lax.platform_dependent(*arrays, cpu=call, default=function)

    return outlined
