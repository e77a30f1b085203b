"""The order in which rooms may import each other, as CONTRIBUTING.md has it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each may import those of the lines before it, and itself.
ORDER = """
commands
errors
task
kernels images files sharding
hosts
models
training data
runs
weights
tasks
evaluation classifier export
transformers
train eval tools __main__ dev
"""
RANKS = {room: rank for rank, line in enumerate(ORDER.split("\n")) for room in line.split()}
MODULES = [
    path
    for top in ("convnext", "tools", "dev", "train.py", "eval.py")
    for path in ([ROOT / top] if top.endswith(".py") else sorted((ROOT / top).rglob("*.py")))
    if path != ROOT / "convnext" / "__init__.py"  # the public names, imported when asked for
]


def room(name):
    parts = name.split(".")
    return parts[1] if parts[0] == "convnext" and len(parts) > 1 else parts[0]


def imports(path):
    """Names of all modules that a file imports, also inside of functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # "from convnext import hosts" imports the module convnext.hosts.
            is_top = node.module == "convnext"
            yield from (f"convnext.{a.name}" for a in node.names) if is_top else [node.module]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_comes_before_it(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    ours = room(name)
    for module in imports(path):
        theirs = room(module)
        if theirs in RANKS and theirs != ours:
            assert RANKS[theirs] < RANKS[ours], f"{name} imports {module}"


def test_no_test_module_imports_another():
    for path in (ROOT / "tests").rglob("*.py"):
        assert not [name for name in imports(path) if ".test_" in name], path


def test_every_folder_and_file_is_in_the_order():
    found = {path.stem for path in (ROOT / "convnext").iterdir() if path.suffix in ("", ".py")}
    assert found - {"__init__", "__pycache__"} <= RANKS.keys()


@pytest.mark.parametrize("room", ["images", "data"])
def test_what_runs_on_the_host_leaves_the_devices_alone(room):
    for path in (ROOT / "convnext" / room).rglob("*.py"):
        assert "jax.numpy" not in set(imports(path)), path


def test_a_config_is_known_to_few():
    """Elsewhere it is a Mapping."""
    few = {"tasks", "train", "eval", "runs/cli", "runs/plan"}
    for path in MODULES:
        if "ml_collections" in set(imports(path)):
            name = path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("convnext/")
            assert name in few or name.split("/")[0] in few, path
