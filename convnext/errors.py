"""The one exception that is not a bug, and how a command says it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """What the user gave cannot be used. The message, one line, says what was given and what is
    accepted; the commands print it without a traceback."""


def require(condition: Any, name: str, given: Any, accepted: Any) -> None:
    """Raises InputError where the condition is false."""
    if not condition:
        given = " ".join(repr(given).split())  # an array's has lines
        raise InputError(f"{name} is {given}; accepted: {accepted}")


@contextmanager
def reported() -> Iterator[None]:
    """An InputError inside ends the command with its message in one line and exit status 1."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
