"""What the API reference is made of."""

import ast
import re
from pathlib import Path

import convnext

ROOT = Path(convnext.__file__).parents[1]
STORY = {
    "train",
    *(f"convnext.tasks.{path.stem}" for path in ROOT.glob("convnext/tasks/*.py")),
    "convnext.training.steps",
    "convnext.models.convnext",
}


def test_modules_classes_and_the_functions_of_the_interface_and_the_story_have_docstrings():
    missing = [
        name
        for module, name, node, docstring in docstrings()
        if not docstring and (not isinstance(node, ast.FunctionDef) or is_read_first(module, name))
    ]
    assert not missing


def test_no_docstring_loses_what_a_browser_takes_for_a_tag():
    tags = [
        name
        for _, name, _, docstring in docstrings()
        if re.search(r"<\w", re.sub(r"`[^`]*`", "", docstring or ""))
    ]
    assert not tags


def is_read_first(module, name):
    """Whether a function is of the story, or of what the package exports; main has no contract."""
    exported = set(convnext.__all__) & set(name.split("."))
    return bool(exported or module in STORY) and name != "train.main"


def docstrings():
    """Yields modules, public functions and classes, and their public methods: module, name, node
    and docstring."""
    for path in [ROOT / "train.py", *sorted(ROOT.glob("convnext/**/*.py"))]:
        tree = ast.parse(path.read_text())
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield module, module, tree, ast.get_docstring(tree)
        for node in public(tree):
            yield module, f"{module}.{node.name}", node, ast.get_docstring(node)
            for member in public(node) if isinstance(node, ast.ClassDef) else ():
                name = f"{module}.{node.name}.{member.name}"
                yield module, name, member, ast.get_docstring(member)


def public(node):
    definitions = (ast.FunctionDef, ast.ClassDef)
    return [
        child
        for child in node.body
        if isinstance(child, definitions) and not child.name.startswith("_")
    ]
