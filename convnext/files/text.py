"""Text files that are whole at any time, whenever the process ends."""

import os
from pathlib import Path


def replace(path: str | os.PathLike, text: str) -> None:
    """Writes a file beside it, which then takes its place. Raises OSError."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
