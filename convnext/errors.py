"""The one exception that is not a bug, and how a command says it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """What the user gave cannot be used. The message, one line, says what was given and what is
    accepted; the commands print it without a traceback."""


@contextmanager
def reported() -> Iterator[None]:
    """An InputError inside ends the command with its message in one line and exit status 1."""
    try:
        yield
    except InputError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
