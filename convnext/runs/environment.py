"""The environment of a process: versions, platform, devices."""

import importlib.metadata
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

import convnext

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# Of these another version may make other pixels of an image.
OF_PIXELS = ("pillow", "opencv-python-headless", "simplejpeg", "numba", "pillow-heif")


def describe() -> dict[str, Any]:
    """Returns the version of this project and its commit (None: not of a clone), those of PACKAGES
    and OF_PIXELS (None: not installed) and of Python, and the platform, of this process; the kind
    and number of devices and the number of processes, of the whole run."""
    return {
        "convnext-jax": convnext.__version__,
        "commit": commit(Path(convnext.__file__).parent.parent),
        **{name: _version(name) for name in (*PACKAGES, *OF_PIXELS)},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device_kind": jax.devices()[0].device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
    }


def other_pixels(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Says which libraries may make other pixels than they did before. A name that was not noted
    then is not compared."""
    changed = [name for name in OF_PIXELS if name in before and before[name] != now[name]]
    return [f"{name} is {now[name]} and was {before[name]}" for name in changed]


def commit(clone: Path) -> str | None:
    """The commit that is checked out in a clone, as its files say; None where it is none."""
    with suppress(OSError):
        git = clone / ".git"
        if git.is_file():  # of a further work tree
            git = clone / git.read_text().partition("gitdir: ")[2].strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        common = git / "commondir"
        shared = git / common.read_text().strip() if common.is_file() else git
        if (shared / name).is_file():
            return (shared / name).read_text().strip()
        for line in (shared / "packed-refs").read_text().splitlines():
            found, _, packed = line.partition(" ")
            if packed == name:
                return found
    return None


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
