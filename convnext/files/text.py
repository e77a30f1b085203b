"""Text files that are whole whenever the process ends, and JSON files that may be damaged."""

import json
import os
from pathlib import Path
from typing import Any

from convnext.errors import InputError


def replace(path: str | os.PathLike, text: str) -> None:
    """Replaces a file: writes another one beside it, which then takes its place. Raises OSError."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def of_json(value: Any) -> str:
    """Returns the text of a JSON file that people may read. Raises ValueError for NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, kind: type = dict, accepted: str = "a JSON object") -> Any:
    """Reads a value of this kind, dict or list. Raises InputError with what is accepted if the file
    cannot be read or holds another kind."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}", accepted) from error
    if not isinstance(value, kind):
        given = type(value).__name__
        raise InputError(f"{path} holds a value of type {given}, not {kind.__name__}", accepted)
    return value
