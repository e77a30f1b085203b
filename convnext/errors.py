"""Exceptions that are not bugs, and how a command prints them."""

import importlib
import math
import numbers
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from convnext.commands import typed


class InputError(ValueError):
    """Input that cannot be used: the problem, and what is accepted. The message is one line.
    Commands print it without a traceback."""

    def __init__(self, problem: str, accepted: str = ""):
        super().__init__(problem, accepted)  # pickle passes these arguments to __init__ again
        self.problem, self.accepted = _line(problem), _line(accepted)

    def __str__(self) -> str:
        return _line(
            f"{self.problem}; accepted: {self.accepted}" if self.accepted else self.problem
        )


class RunError(RuntimeError):
    """Failure of a run that is not the fault of its input. The message is one line, too."""

    def __init__(self, message: str):
        super().__init__(_line(message))


def _line(message):
    line = " ".join(part.strip() for part in message.splitlines())
    if len(line) > 2000:  # names in a file may have any length
        line = f"{line[:1000]} ... {line[-1000:]}"
    return printable(line)


def printable(text: str) -> str:
    """Returns the text with control characters and line breaks escaped, since names in files of
    others are printed and a terminal would take them for commands."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def require(condition: Any, name: str, given: Any, accepted: Any) -> None:
    """Raises InputError if the condition is false."""
    if not condition:
        try:
            given = " ".join(repr(given).split())  # the repr of an array has several lines
        except (RecursionError, ValueError):  # deeply nested lists, or a number of many digits
            given = f"a {type(given).__name__} too large to print"
        raise InputError(f"{name} is {given}", f"{accepted}")


def require_local(name: str, given: Any) -> None:
    """Raises InputError for the address of a store, such as gs://bucket/folder: files are read and
    written as those of a disk, which a store can be mounted as."""
    is_local = not re.match(r"[a-zA-Z][\w+.-]+:/", str(given))
    require(is_local, name, str(given), "a folder of a disk, or a store that is mounted as one")


def require_range(name: str, given: Any, least: float, most: float) -> None:
    """Raises InputError for anything but two finite numbers in order, above least and at most
    most."""
    ok = are_finite(given, 2) and least < given[0] <= given[1] <= most
    above = f"above {least:g}" + (f" and at most {most:g}" if most < math.inf else "")
    require(ok, name, given, f"two numbers in order, {above}")


def are_finite(given: Any, count: int) -> bool:
    """Returns whether this is a sequence of so many finite numbers."""
    if not isinstance(given, Sequence) or len(given) != count:
        return False
    return all(isinstance(each, numbers.Real) and math.isfinite(each) for each in given)


def needed(package: str, what: Any) -> ModuleType:
    """Imports a package that one installs by choice. Raises InputError that says what needs it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InputError(f"{what} needs {error.name}", f"after pip install {error.name}") from error


@contextmanager
def reported() -> Iterator[None]:
    """Ends the command with the message and exit status 1 on an InputError or RunError inside."""
    try:
        yield
    except (InputError, RunError) as error:
        sys.exit(typed(f"error: {error}"))
