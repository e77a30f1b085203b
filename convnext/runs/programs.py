"""Compiled programs, which a command keeps for the next one."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from convnext.files import cache
from convnext.kernels import outline

MAX_BYTES = 2 * 10**9  # of all that are kept; those that were used last stay


def may_hang_once_loaded() -> bool:
    """Whether programs must be compiled anew: those of several CPU devices. Once loaded, the
    devices no longer communicate in one order, and wait for each other (jax 0.10.2 to 0.12.0)."""
    return outline.on_cpu() and jax.device_count() > 1


def place() -> str | None:
    """The folder where programs are kept; None where they are not."""
    config = jax.config
    return config.jax_compilation_cache_dir if config.jax_enable_compilation_cache else None


@contextmanager
def kept() -> Iterator[None]:
    """Keeps the programs that are compiled inside, and loads those that were kept: in the user's
    cache folder, or the one that JAX_COMPILATION_CACHE_DIR names. Not those that may hang."""
    options = {}
    if may_hang_once_loaded():
        options = {"jax_enable_compilation_cache": False}
    elif jax.config.jax_compilation_cache_dir is None:
        options = {
            "jax_compilation_cache_dir": str(cache.place("programs")),
            "jax_compilation_cache_max_size": MAX_BYTES,
            "jax_persistent_cache_min_compile_time_secs": 0.1,
        }
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
