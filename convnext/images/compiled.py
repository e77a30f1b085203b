"""Python loops over pixels as machine code."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable], Callable]:
    """Decorates with numba.njit. The compiled code is cached beside the function's file or in the
    user's cache folder. If neither can be written, it lives as long as the process."""

    def decorated(function):
        try:
            return numba.njit(function, nogil=True, cache=True, **options)
        except RuntimeError:
            # No folder can be written. Any other might belong to other users as well, and numba
            # executes what it finds in its cache.
            return numba.njit(function, nogil=True, **options)

    return decorated
