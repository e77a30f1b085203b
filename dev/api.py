"""Writes the API reference: a page for each module of convnext, of its docstrings, by pdoc.

    python -m dev.api [--out=build/api]

The comments on fields and constants are shown as their descriptions. A warning of pdoc, as of a
name that cannot be found, is an error.
"""

import argparse
import ast
import copy
import dataclasses
import inspect
import pkgutil
import re
import warnings
from pathlib import Path
from types import ModuleType

import flax.linen as nn
import jax
import pdoc
from pdoc import doc_ast

import convnext

TEMPLATES = Path(__file__).parent / "api_templates"


def write(out: Path) -> None:
    """The pages of every module into `out`, index.html first."""
    names = [module.name for module in pkgutil.walk_packages(convnext.__path__, "convnext.")]
    modules = [convnext, *(pkgutil.resolve_name(name) for name in names)]
    for name in convnext.__all__:  # which pdoc looks for without calling __getattr__
        setattr(convnext, name, getattr(convnext, name))
    jax.Array.__module__, jax.Array.__qualname__ = "jax", "Array"  # as it is written in signatures
    for module in modules:
        describe(module)
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__:
                describe(cls)
                if issubclass(cls, nn.Module):
                    unwrap(cls)
    docstrings(convnext)["VARIANTS"] = docstrings(convnext.models.convnext)["VARIANTS"]
    pdoc.render.configure(template_directory=TEMPLATES, docformat="markdown", search=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        children = [name for name in names if name.count(".") == 1]  # __all__ does not have them
        pdoc.pdoc("convnext", *children, output_directory=out)


def describe(namespace: ModuleType | type) -> None:
    """Makes the comment on, or just above, an assignment the docstring of its name."""
    lines = inspect.getsource(namespace).splitlines()
    tree = doc_ast.parse(namespace)
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        comment = trailing(lines[node.end_lineno - 1], node) or above(lines[: node.lineno - 1])
        if isinstance(target, ast.Name) and comment:
            docstrings(namespace).setdefault(target.id, comment)


def docstrings(namespace: ModuleType | type) -> dict[str, str]:
    """Of its variables, by name: what pdoc shows."""
    return doc_ast.walk_tree(namespace).var_docstrings


def trailing(line: str, node: ast.stmt) -> str:
    rest = line.encode()[node.end_col_offset :].decode()
    return comment_text([rest])


def above(lines: list[str]) -> str:
    comments = []
    while lines and lines[-1].lstrip().startswith("# "):
        comments.insert(0, lines.pop())
    return comment_text(comments)


def comment_text(lines: list[str]) -> str:
    """Without what is for a tool."""
    texts = [match[1] for line in lines if (match := re.fullmatch(r"\s*#\s?(.*)", line))]
    return " ".join(text for text in texts if not re.match(r"(noqa|fmt|type):", text))


def unwrap(module: type[nn.Module]) -> None:
    """Shows a module of Flax as it is written, without what Flax adds to it."""
    for name, value in list(vars(module).items()):
        if hasattr(value, "wrapped"):  # a property, in a descriptor that has no docstring
            type.__setattr__(module, name, value.wrapped)
    fields = [f for f in dataclasses.fields(module) if f.name not in ("parent", "name")]
    written = dataclasses.make_dataclass(
        module.__name__, [(f.name, f.type, copy.copy(f)) for f in fields]
    )
    written.__init__.__qualname__ = f"{module.__qualname__}.__init__"
    written.__init__.__module__ = module.__module__
    type.__setattr__(module, "__init__", written.__init__)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.api", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/api"), help="folder to write")
    out = parser.parse_args().out
    write(out)
    print(f"wrote {out}/index.html")


if __name__ == "__main__":
    main()
