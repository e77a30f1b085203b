"""What the API reference is made of."""

import ast
import re
from pathlib import Path

import convnext

ROOT = Path(convnext.__file__).parent


def test_every_public_name_has_a_docstring():
    missing = [name for name, docstring in docstrings() if not docstring]
    assert not missing


def test_no_docstring_loses_what_a_browser_takes_for_a_tag():
    tags = [
        name
        for name, docstring in docstrings()
        if re.search(r"<\w", re.sub(r"`[^`]*`", "", docstring or ""))
    ]
    assert not tags


def docstrings():
    """Of modules, public functions and classes, and the public methods of these, by name."""
    for path in sorted(ROOT.rglob("*.py")):
        module = ast.parse(path.read_text())
        name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
        yield name, ast.get_docstring(module)
        for node in public(module):
            yield f"{name}.{node.name}", ast.get_docstring(node)
            for member in public(node) if isinstance(node, ast.ClassDef) else ():
                yield f"{name}.{node.name}.{member.name}", ast.get_docstring(member)


def public(node):
    definitions = (ast.FunctionDef, ast.ClassDef)
    return [
        child
        for child in node.body
        if isinstance(child, definitions) and not child.name.startswith("_")
    ]
