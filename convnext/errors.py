"""The exceptions that are not bugs, and how a command says them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """What the user gave cannot be used. The message, one line, says what was given and what is
    accepted; the commands print it without a traceback."""


class RunError(RuntimeError):
    """A run cannot go on, through no fault of what the user gave. The message is one line, too."""


def require(condition: Any, name: str, given: Any, accepted: Any) -> None:
    """Raises InputError where the condition is false."""
    if not condition:
        given = " ".join(repr(given).split())  # an array's has lines
        raise InputError(f"{name} is {given}; accepted: {accepted}")


@contextmanager
def reported() -> Iterator[None]:
    """An InputError or RunError inside ends the command with its message in one line and exit
    status 1."""
    try:
        yield
    except (InputError, RunError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
