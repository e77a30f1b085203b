"""dev.mutants, on a small project and on its own table."""

import dataclasses
import re
import subprocess

import pytest

from convnext.errors import RunError
from dev import mutants
from dev.mutants import Mutant
from tests.helpers.inputs import refused

SUM = Mutant("difference", "adding.py", "a + b", "a - b", ("test_adding.py",))
TEST = """
import pytest
from adding import add

@pytest.mark.parametrize("of", ["two and two"])
def test_a_sum(of):
    assert add(2, 2) == 4
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two files that are not committed, and one that git ignores."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # it has no use for them
    root = tmp_path / "project"
    root.mkdir()
    (root / "adding.py").write_text("def add(a, b):\n    return a + b\n")
    (root / "test_adding.py").write_text(TEST)
    (root / ".gitignore").write_text("build\n")
    (root / "build").touch()
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return root


def test_each_change_is_tried_in_a_copy(project, capsys):
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    tried = [
        SUM,
        Mutant("product", "adding.py", "a + b", "a * b", ("test_adding.py",)),
        Mutant("syntax", "adding.py", "a + b", "a +", ("test_adding.py",)),
        Mutant("order", "adding.py", "a + b", "b + a", equivalent="a sum has no order"),
    ]
    counts = mutants.run(project, tried, jobs=2, limit=300)
    assert counts == {"killed": 1, "survived": 1, "broken": 1, "equivalent": 1}
    said = capsys.readouterr().out
    assert re.search(
        r"killed +difference \(\d+ s\) by test_adding.py::test_a_sum\[two and two\]\n", said
    )
    assert re.search(r"survived +product ", said) and "SyntaxError" in said
    assert "equivalent  order: a sum has no order\n" in said
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


def test_tests_without_an_end_are_ended(project):
    endless = dataclasses.replace(SUM, limit=0.01)
    assert mutants.run(project, [endless], jobs=1, limit=300) == {"timed out": 1}


def test_tests_that_fail_without_a_change_try_nothing(project):
    (project / "test_adding.py").write_text(TEST.replace("== 4", "== 5"))
    with pytest.raises(RunError, match="without a change, pytest ends with status 1"):
        mutants.run(project, [SUM], jobs=1, limit=300)


def test_a_copy_has_what_git_does_not_ignore(project, tmp_path):
    subprocess.run(["git", "add", "."], cwd=project, check=True)
    (project / "test_adding.py").unlink()
    copy = mutants.copy_tree(project, tmp_path / "copy")
    assert sorted(path.name for path in copy.iterdir()) == [".gitignore", "adding.py"]


@pytest.mark.parametrize("times, text", [(0, "a - b"), (2, "a + b, a + b")])
def test_a_change_that_is_out_of_date_is_named(project, times, text):
    (project / "adding.py").write_text(f"def add(a, b):\n    return {text}\n")
    message = f"how often adding.py has the text of difference is {times}; accepted: once"
    refused(message, mutants.run, project, [SUM], jobs=1, limit=300)


@pytest.mark.parametrize(
    "entries, message",
    [
        (("a", "a"), "the number of mutants with the name a is 2; accepted: 1"),
        (("a", "b", "c"), "the mutant is 'd'; accepted: a name that --list prints"),
    ],
)
def test_names_are_those_of_one_change_each(tmp_path, entries, message):
    lines = "before = 'x'\nafter = 'y'\ntests = ['t']\n"
    table = "".join(f"[['f.py']]\nname = '{name}'\n{lines}" for name in entries)
    (tmp_path / "table.toml").write_text(table)
    refused(message, lambda: mutants.selected(mutants.read(tmp_path / "table.toml"), ["d"]))


def test_a_change_has_tests_or_a_reason_to_have_none(tmp_path):
    table = "[['f.py']]\nname = 'a'\nbefore = 'x'\nafter = 'y'\n"
    (tmp_path / "table.toml").write_text(table)
    refused("what a has is .*; accepted: tests, or why", mutants.read, tmp_path / "table.toml")


# If this fails, the code that a change is made in was changed: dev/mutants.toml follows it.
@pytest.mark.parametrize("mutant", mutants.read(mutants.TABLE), ids=lambda mutant: mutant.name)
def test_a_change_of_the_table_can_be_made_and_its_tests_are_there(mutant):
    changed = mutants.changed(mutants.ROOT, mutant)
    if mutant.file.endswith(".py"):
        compile(changed, mutant.file, "exec")
    for test in mutant.tests:
        file, _, name = test.partition("::")
        text = (mutants.ROOT / file).read_text()
        assert not name or f"\ndef {name.partition('[')[0]}(" in text
