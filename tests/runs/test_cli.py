"""What is typed, and what the command line makes of it."""

import re
import sys
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

import eval as eval_command
import train as train_command
from configs import convnext_tiny
from convnext.errors import InputError
from convnext.runs import cli, workdirs

ROOT = Path(__file__).parents[2]
DIGITS = "--config=configs/digits.py"
COMMANDS = {"train": train_command, "eval": eval_command}


@pytest.fixture
def parse(monkeypatch):
    """The config of arguments of a command, or what there is `then`."""
    monkeypatch.chdir(ROOT)

    def parsed(*arguments, command="train", then=lambda: flags.FLAGS["config"].value):
        argv = [COMMANDS[command].__name__, *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        with flagsaver.flagsaver():
            assert cli.parse(argv, needs_config=command == "train") == argv[:1]
            return then()

    return parsed


@pytest.mark.parametrize(
    "arguments, message",
    [
        # Of a config file that is not there.
        (["--config=configs/foldr.py", "--config.data.root=x"],
         "no config file configs/foldr.py; accepted: --config=configs/folder.py"),
        (["--config", "foldr"], "no config file foldr; accepted: --config=configs/folder.py"),
        (["-config=configs/convnextv2:base"],
         "no config file configs/convnextv2; accepted: --config=configs/convnextv2.py:base"),
        (["--config=configs"], "no config file configs; accepted: --config=configs/digits.py, or"),
        (["--config="], "no config file ''; accepted: --config=configs/digits.py, or another"),
        ([], "--config is not given; accepted: --config=configs/digits.py, or another file of"),
        (["--config.seed=3"], "--config is not given; accepted: --config=configs/digits.py, or"),
        (["--config.seed=3", DIGITS],
         "Found --config.seed=3 in argv before a value for --config was specified; accepted: "
         "--config=FILE before its fields"),
        ([DIGITS, "--config=configs/folder.py", "--config.seed=3"],
         "--config is given twice; accepted: one of them"),
        (["configs/folder.py", "--config.data.root=x"],
         "unexpected argument 'configs/folder.py'; accepted: --config=configs/folder.py"),
        (["configs/folder.py:base"],
         "unexpected argument 'configs/folder.py:base'; accepted: --config=configs/folder.py:base"),
        (["folder"], "unexpected argument 'folder'; accepted: --config=configs/folder.py"),
        ([DIGITS, "please"], "unexpected argument 'please'; accepted: flags, see --help"),
        # Of a flag that there is not.
        (["--config=configs/folder.py:v3"], "the variant is 'v3'; accepted: atto, femto, "),
        ([DIGITS, "--data.root=x"], "no flag --data.root; accepted: --config.data.root=x"),
        ([DIGITS, "--lr", "0.1"], "no flag --lr; accepted: --config.schedule.peak_lr"),
        ([DIGITS, "-epochs=3"], "no flag -epochs; accepted: --config.num_epochs=3"),
        ([DIGITS, "--dry-run"], "no flag --dry-run; accepted: --dry_run"),
        (["--nodry_run=3"], "--nodry_run=3 does not take an argument; accepted: the flags in"),
        ([DIGITS, "--qqqqqq"], "no flag --qqqqqq; accepted: the flags in --help"),
        ([DIGITS, "--workdir"], "Missing value for flag --workdir; accepted: --workdir=VALUE"),
        # Of a field that there is not.
        ([DIGITS, "--config.lr=0.1"],
         "unknown config field --config.lr; accepted: --config.schedule.peak_lr=0.1"),
        ([DIGITS, "--config.seed=1", "--config.model.dimz=3"],
         "unknown config field --config.model.dimz; accepted: --config.model.dims=3"),
        ([DIGITS, "--config.num_epochs.x=3"],
         "unknown config field --config.num_epochs.x; accepted: --config.num_epochs=3 or "
         "--config.num_steps=3"),
        ([DIGITS, "--noconfig.model.remat_it"],
         "unknown config field --noconfig.model.remat_it; accepted: --config.model.remat"),
        ([DIGITS, "--config.=3"],
         "unknown config field --config.; accepted: those of configs/convnext_tiny.py"),
        # Of a value that the field does not take.
        ([DIGITS, "--config.batch_size=abc"],
         "--config.batch_size is 'abc'; accepted: a whole number, such as 64"),
        ([DIGITS, "--config.accumulation_steps=x"],
         "--config.accumulation_steps is 'x'; accepted: a whole number, such as 1"),
        ([DIGITS, "--config.batch_size=2.5"],
         "--config.batch_size is '2.5'; accepted: a whole number, such as 64"),
        ([DIGITS, "--config.schedule.peak_lr", "1e-3x"],
         "--config.schedule.peak_lr is '1e-3x'; accepted: a number, such as 0.004"),
        ([DIGITS, "--config.optimizer.clip_norm=none"],
         "--config.optimizer.clip_norm is 'none'; accepted: a number, or None"),
        ([DIGITS, "--config.model.remat=a: b"],
         "--config.model.remat is 'a: b'; accepted: true or false"),
        ([DIGITS, "--config.model.dims=(96,"],
         "--config.model.dims is '(96,'; accepted: values in brackets, such as (24, 48, 96)"),
        ([DIGITS, "--config.erase=x"],
         "--config.erase is 'x'; accepted: one of its fields, such as --config.erase.area=("),
        ([DIGITS, "--config.erase={'prob': 0.5}"],
         "--config.erase is a section; accepted: one of its fields, such as --config.erase.area"),
        # None, of a field that is never None.
        ([DIGITS, "--config.batch_size=None"],
         "--config.batch_size is None; accepted: a whole number, such as 64"),
        ([DIGITS, "--config.data.name=None"],
         "--config.data.name is None; accepted: text, such as digits"),
        ([DIGITS, "--config.ema_decays=None"],
         "--config.ema_decays is None; accepted: values in brackets, such as (0.998,)"),
        ([DIGITS, "--config.model.remat=None"],
         "--config.model.remat is 'None'; accepted: true or false"),
    ],
)  # fmt: skip
def test_what_is_mistyped_is_told_with_what_was_meant(parse, arguments, message):
    with pytest.raises(InputError) as caught:
        parse(*arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["configs/digits.py"],
         "unexpected argument 'configs/digits.py'; accepted: --config=configs/digits.py"),
        (["--config=digit"], "no config file digit; accepted: --config=configs/digits.py"),
        (["--config.seed=3"], "--config is not given; accepted: --config=configs/digits.py, or"),
        (["--size=32"], "no flag --size; accepted: --image_size=32"),
        ([DIGITS, "--data_dir=x"], "no flag --data_dir; accepted: --data_root=x"),
        ([DIGITS, "--lr=1"], "no flag --lr; accepted: --config.schedule.peak_lr=1"),
        (["--lr=1"], "no flag --lr; accepted: the flags in --help"),
        (["--dtype=half"], "--dtype is 'half'; accepted: float32 or bfloat16"),
        (["--batch_size=x"], "--batch_size is 'x'; accepted: a whole number"),
    ],
)  # fmt: skip
def test_eval_has_flags_of_its_own(parse, arguments, message):
    with pytest.raises(InputError) as caught:
        parse(*arguments, command="eval")
    assert str(caught.value).startswith(message)


def test_a_workdir_without_its_flag_is_told(parse, finished_run):
    with pytest.raises(
        InputError, match=f"unexpected argument '.*'; accepted: --workdir={finished_run}"
    ):
        parse(str(finished_run), command="eval")


def test_none_is_a_value_of_every_field_that_may_be_none(parse):
    config = parse(
        DIGITS, "--config.init_from=None", "--config.num_steps", "None", "-config.frozen=None",
        "-config.optimizer.clip_norm", "None", "--config.model.num_classes=None",
        "--config.model.layer_scale_init_value=None", "--config.augment.crop_scale=None",
        "--config.data.root=None", "--config.published.scores.top1=None", "--config.seed=1",
    )  # fmt: skip
    assert config.augment.crop_scale is config.model.layer_scale_init_value is None
    nones = (config.init_from, config.num_steps, config.frozen, config.optimizer.clip_norm,
             config.model.num_classes, config.data.root, config.published.scores.top1)  # fmt: skip
    assert nones == (None,) * 7 and config.seed == 1


def test_what_is_changed_is_what_differs_from_the_file(parse):
    arguments = [DIGITS, "--config.seed=0", "--config.num_epochs=3", "--config.ema_decays=0.998",
                 "--config.model.dims=(8, 16, 32)", "--config.optimizer.clip_norm=1",
                 "--config.optimizer.clip_norm=None", "--config.log.every_steps=7",
                 "--config.model.layer_scale_init_value=None"]  # fmt: skip
    assert sorted(parse(*arguments, then=cli.changed)) == [
        "log.every_steps", "model.dims", "model.layer_scale_init_value", "num_epochs"
    ]  # fmt: skip
    assert parse(DIGITS, then=cli.changed) == []
    variant = "--config=configs/convnextv2.py:base"
    assert parse(variant, "--config.num_epochs=3", then=cli.changed) == ["num_epochs"]
    assert parse(then=cli.changed, command="eval") == []


def test_values_are_those_of_the_fields_types(parse):
    config = parse(
        DIGITS, "--config.init_from=None.pth", "--config.num_steps=7", "--config.batch_size=8",
        "--config.optimizer.clip_norm=1", "--config.augment.crop_scale=(0.5, 1)",
        "--config.ema_decays=0.9", "--config.model.remat", "--config.mix.mode=pair",
    )  # fmt: skip
    assert (config.init_from, config.num_steps, config.batch_size) == ("None.pth", 7, 8)
    assert (config.optimizer.clip_norm, config.augment.crop_scale) == (1.0, (0.5, 1))
    assert (config.ema_decays, config.model.remat, config.mix.mode) == ((0.9,), True, "pair")


@pytest.mark.parametrize(
    "line, message",
    [
        ("config.batch_size = 'many'", "Could not override field 'batch_size'.*"),
        ("config.lr = 0.1", '.*"lr".*'),
        ("config.model.update(size=3)", '.*"size".*'),
    ],
)
def test_a_mistake_in_a_config_file_is_told_with_its_line(parse, tmp_path, line, message):
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import digits\n\n"
        f"def get_config():\n    config = digits.get_config()\n    {line}\n    return config\n"
    )
    for more in ([], ["--config.seed=1"]):
        with pytest.raises(InputError, match=f"^{path}, line 5: {message}; accepted: the fields"):
            parse(f"--config={path}", *more)


def test_a_config_file_that_ends_the_command_has_its_own_status(parse, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("import sys\n\ndef get_config():\n    sys.exit(1)\n")
    with pytest.raises(SystemExit) as ended:
        parse(f"--config={path}")
    assert ended.value.code == 1


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "--helpshort", "--helpfull"])
def test_help_is_no_failure(parse, capsys, command, flag):
    cli.app.define_help_flags()
    with pytest.raises(SystemExit) as ended:
        parse(flag, command=command)
    assert not ended.value.code
    _, fields = capsys.readouterr().out.split("\nfields of configs/convnext_tiny.py:\n")
    names = re.findall(r"^  --config\.([\w.]+)=", fields, re.MULTILINE)
    assert sorted(names) == sorted(workdirs.fields(convnext_tiny.get_config().to_dict()))
    assert "  --config.image_size=224                     pixels\n" in fields


@pytest.mark.parametrize(
    "arguments", [["--config=folder:nano"], ["-config", "folder:nano"], ["--flagfile={file}"]]
)
def test_a_recipe_is_known_by_its_name(parse, arguments, tmp_path):
    file = tmp_path / "flags"
    file.write_text("--config=folder:nano\n")
    named = parse(*(argument.format(file=file) for argument in arguments))
    assert named == parse("--config=configs/folder.py:nano")
    assert named.model.depths == (2, 2, 8, 2)


def test_help_has_the_values_of_the_config_that_is_given(parse, capsys):
    cli.app.define_help_flags()
    with pytest.raises(SystemExit):
        parse(DIGITS, "--help")
    fields = capsys.readouterr().out
    assert "fields of configs/digits.py:" in fields and "--config.image_size=16 " in fields


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--config.num_epochs=3"], 1),
        (["--config.num_epochs=4", "--config.schedule.warmup_steps=2"], 5),
        (["--config.num_epochs=3", "--config.schedule.warmup_epochs=4"], 4),  # is refused later
        (["--config.num_epochs=5"], 5),
        (["--config.num_epochs=0"], 5),
        (["--config.seed=1"], 5),
    ],
)
def test_a_warm_up_is_not_longer_than_the_epochs_that_are_given(parse, capsys, arguments, expected):
    """Unless it is given, too. That of the digits has 5 epochs."""

    def then():
        config = flags.FLAGS["config"].value
        cli.shorten_warmup(config, cli.changed())
        return config.schedule.warmup_epochs

    assert parse(DIGITS, *arguments, then=then) == expected
    said = "warm-up    --config.schedule.warmup_epochs=1, not 5: --config.num_epochs=3 is less "
    assert capsys.readouterr().out == (f"{said}than that\n" if expected == 1 else "")
