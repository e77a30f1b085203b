"""The environment of a process: versions, platform, devices."""

import importlib.metadata
import platform
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def describe() -> dict[str, Any]:
    """Returns versions of PACKAGES (None: not installed) and of Python, and the platform, of this
    process; the kind and number of devices and the number of processes, of the whole run."""
    return {
        **{name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
