"""Functions that XLA compiles apart from what is around them, on CPU.

XLA on CPU fuses a chain of elementwise operations into each of its readers, which then compute it
anew, and hands everything around a matrix product to a library that materialises broadcasts. Both
stop at a call that is not inlined. Other backends fuse well and see no call.
"""

import functools
from collections.abc import Callable

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

# compiling_for("tpu"): what is traced in this context is compiled for a platform not at hand.
compiling_for = jax.make_user_context(default_value=None)


def platform() -> str:
    """Where computations run unless told otherwise: "cpu", "cuda", "rocm" or "tpu"."""
    if compiling_for.value is not None:
        return compiling_for.value
    device = jax.config.jax_default_device or jax.local_devices()[0]
    name = device if isinstance(device, str) else device.platform
    if name != "gpu":
        return name
    return "rocm" if "rocm" in jax.local_devices()[0].client.platform_version else "cuda"


def on_cpu() -> bool:
    """Whether `platform()` is "cpu"."""
    return platform() == "cpu"


def outline(function: Callable) -> Callable:
    """The same function of arrays. Where it is compiled for CPU, it is a call of its own.

    It has no gradient of its own: to be used in the rules of a `jax.custom_vjp`.
    """
    compiled = jax.jit(function)

    def call(*arrays):
        with set_xla_metadata(inlineable="false"):
            return compiled(*arrays)

    @functools.wraps(function)
    def outlined(*arrays: jax.Array):
        return lax.platform_dependent(*arrays, cpu=call, default=function)

    return outlined
