"""Files that only save time: they may be gone, damaged, or impossible to write."""

import os
from pathlib import Path


def place(*parts: str) -> Path:
    """The path of such a file, in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache.joinpath("convnext", *parts)
