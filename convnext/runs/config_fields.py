"""The fields of a config: as flags, and what the file of the recipe says of each."""

import ast
import io
import shlex
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

COLUMN = 46  # where a comment begins
WIDTH = 120


def flag(name: str, value: Any) -> str:
    """A field as one types it: "--config.seed=0"."""
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"--config.{name}={shlex.quote(shown)}"


def listing(values: Mapping[str, Any], said: Mapping[str, str]) -> str:
    """A line for each field by its full name, with what is said of it, in the order of that."""
    lines = []
    places = {name: place for place, name in enumerate(said)}
    for name in sorted(values, key=lambda name: places.get(name, len(said))):
        given = f"  {flag(name, values[name])}"
        comment = textwrap.wrap(said.get(name, ""), WIDTH - COLUMN)
        if comment and len(given) < COLUMN - 1:
            given = given.ljust(COLUMN) + comment.pop(0)
        lines += [given, *(" " * COLUMN + line for line in comment)]
    return "\n".join(lines)


def comments(source: str) -> dict[str, str]:
    """What a config file says of the fields that its get_config sets, by their full names, in its
    order: the comment at the end of the line, or else the one above it, or nothing."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokens
        if token.type == tokenize.COMMENT
    }
    return {
        name: _comment(found, node.lineno, node.end_lineno)
        for name, node in _fields(ast.parse(source))
    }


def _comment(found, first, last):
    text, is_alone = found.get(last, ("", True))
    if not is_alone:
        return text
    above = []
    while found.get(first - 1, ("", False))[1]:
        first -= 1
        above.insert(0, found[first][0])
    return " ".join(above)


def _fields(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """The full name of each field that is assigned to `config`, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            root, _, name = ast.unparse(node.targets[0]).partition(".")
            if root == "config":
                yield from _inside(name, node, node.value)


def _inside(name, node, value):
    """The fields in ConfigDict(dict(...)) and dict(...), or else this one."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("ConfigDict", "dict"):
        for argument in value.args:
            yield from _inside(name, argument, argument)
        for keyword in value.keywords:
            if keyword.arg:
                yield from _inside(f"{name}.{keyword.arg}", keyword, keyword.value)
    elif not isinstance(node, ast.Dict):
        yield name, node
