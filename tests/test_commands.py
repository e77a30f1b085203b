"""The command `convnext`, and the names of commands."""

import sys

import pytest

from convnext import __main__ as command
from convnext import commands
from convnext.errors import InputError, reported


@pytest.mark.parametrize(
    "in_a_clone, in_a_wheel",
    [
        ("python -m tools.predict IMAGE --model=RUN", "convnext predict IMAGE --model=RUN"),
        ("python train.py --config=configs/folder.py:nano", "convnext train --config=folder:nano"),
        (f"--config={commands.SCRIPTS}/configs/digits.py", "--config=digits"),
        ("few: configs/finetune.py gets further", "few: --config=finetune gets further"),
        ("the same tools.prepare again; or --name of eval.py",
         "the same convnext prepare again; or --name of convnext eval"),
        ("no file photos/train.py", "no file photos/train.py"),
        ("itertools.data my/configs/a.py tools.x", "itertools.data my/configs/a.py tools.x"),
    ],
)  # fmt: skip
def test_commands_are_named_as_one_types_them(in_a_clone, in_a_wheel, monkeypatch):
    assert commands.typed(in_a_clone) == in_a_clone
    monkeypatch.setattr(commands, "IS_WHEEL", True)
    assert commands.typed(in_a_clone) == in_a_wheel


def test_an_error_names_commands_so(monkeypatch):
    monkeypatch.setattr(commands, "IS_WHEEL", True)
    told = "^error: no shards; accepted: those of convnext prepare$"
    with pytest.raises(SystemExit, match=told), reported():
        raise InputError("no shards", "those of tools.prepare")


def test_every_file_of_tools_is_a_command():
    tools = {path.stem for path in (commands.SCRIPTS / "tools").glob("*.py")}
    assert tools == {*commands.TOOLS, "named_images"}


def test_the_command_lists_what_it_runs_and_the_recipes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convnext"])
    command.main()
    told = capsys.readouterr().out
    assert "\n  train     Trains what a config describes.\n" in told
    assert "\n  predict   Names what is in images.\n" in told
    assert " digits, fcmae" in told and " pretrain_folder\n" in told


@pytest.mark.parametrize(
    "name, accepted",
    [("predcit", "convnext predict$"), ("xyzzy", "convnext train, eval, data, linear, predict, ")],
)
def test_a_command_that_there_is_not_names_those_that_are(name, accepted, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convnext", name])
    with pytest.raises(
        SystemExit, match=f"^error: no command convnext {name}; accepted: {accepted}"
    ):
        command.main()


def test_a_tool_is_given_the_arguments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convnext", "variants", "--weights"])
    command.main()
    assert "timm/convnext_atto.d2_in1k" in capsys.readouterr().out


def test_another_module_that_is_not_there_is_not_the_extras(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'mine'", name="mine")

    monkeypatch.setattr(command.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="mine"):
        command.run("data", [])
