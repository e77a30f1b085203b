"""The exceptions that are not bugs, and how a command says them."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """What the user gave cannot be used: the problem, and what is accepted. The message is one
    line; the commands print it without a traceback."""

    def __init__(self, problem: str, accepted: str = ""):
        super().__init__(problem, accepted)  # which pickle hands to it again
        self.problem, self.accepted = _line(problem), _line(accepted)

    def __str__(self) -> str:
        return _line(
            f"{self.problem}; accepted: {self.accepted}" if self.accepted else self.problem
        )


class RunError(RuntimeError):
    """A run cannot go on, through no fault of what the user gave. The message is one line, too."""

    def __init__(self, message: str):
        super().__init__(_line(message))


def _line(message):
    line = " ".join(part.strip() for part in message.splitlines())
    if len(line) > 2000:  # names in a file may be of any length
        line = f"{line[:1000]} ... {line[-1000:]}"
    return printable(line)


def printable(text: str) -> str:
    """The text, in which what a terminal would take for commands, or a new line, is escaped: names
    in files of others are printed."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def require(condition: Any, name: str, given: Any, accepted: Any) -> None:
    """Raises InputError where the condition is false."""
    if not condition:
        try:
            given = " ".join(repr(given).split())  # an array's has lines
        except (RecursionError, ValueError):  # lists in lists, or a number of too many digits
            given = f"a {type(given).__name__} too large to print"
        raise InputError(f"{name} is {given}", f"{accepted}")


def require_range(name: str, given: Any, least: float, most: float) -> None:
    """Raises InputError for anything but two numbers in order, from least (not it) to most."""
    two = isinstance(given, Sequence) and len(given) == 2
    ok = two and least < given[0] <= given[1] <= most
    require(ok, name, given, f"two numbers in order, above {least:g} and at most {most:g}")


@contextmanager
def reported() -> Iterator[None]:
    """An InputError or RunError inside ends the command with its message and exit status 1."""
    try:
        yield
    except (InputError, RunError) as error:
        sys.exit(f"error: {error}")
