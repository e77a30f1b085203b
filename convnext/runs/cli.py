"""The beginning of a command: flags, the other processes of a run, errors in one line."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, FieldReference, config_flags

from convnext import hosts
from convnext.commands import typed
from convnext.errors import InputError, RunError, reported, require_local
from convnext.files import open_files
from convnext.runs import config_fields, meant, programs, workdirs

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, such as configs/convnext_tiny.py, or its name.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; runs/<config>, or runs/<config>_<variant>, by default."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, of a run on several hosts."
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the run, over all hosts."
)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")

HELP = {"help", "helpshort", "helpfull", "?"}
RECIPE = "configs/convnext_tiny.py"  # has every field
# What ml_collections raises of a field that there is not, or what a config file does.
MISTAKES = (AttributeError, IndexError, KeyError, TypeError, ValueError)
EXAMPLE = "--config=configs/digits.py, or another file of configs/"
KINDS = {  # by the names of absl
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "multi tuple": "values in brackets",
}


class _OrNone(flags.ArgumentParser):
    """Makes None of "None", and of all else what another parser does."""

    def __init__(self, parser: flags.ArgumentParser):
        self.parser = parser

    def parse(self, argument: Any) -> Any:
        return None if argument == "None" else self.parser.parse(argument)

    def flag_type(self) -> str:
        return self.parser.flag_type()


# Which of the fields may be None is known when they all are parsed (_finish).
for _kind, _parser in (
    (int, flags.IntegerParser()), (float, flags.FloatParser()), (str, flags.ArgumentParser()),
):  # fmt: skip
    config_flags.register_flag_parser_for_type(_kind, _OrNone(_parser))


def run(
    command: Callable[[ConfigDict | None, Path | None], Any], needs_config: bool = True
) -> None:
    """Calls command(config, workdir) with what the command line says: None where it says neither,
    and no config is needed.

    What the user got wrong (InputError) ends in one line and exit status 1.
    """

    def main(argv):
        if not FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax says much
        hosts.connect(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        require_local("--workdir", WORKDIR.value)
        workdir = Path(WORKDIR.value) if WORKDIR.value else None
        if workdir is None and FLAGS["config"].present:
            path, _, variant = config_flags.get_config_filename(FLAGS["config"]).partition(":")
            stem = Path(path).stem
            workdir = Path("runs") / (f"{stem}_{variant}" if variant else stem)
        # Process 0 speaks for all; what is wrong, each says.
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere if jax.process_index() else sys.stdout),
            programs.kept(),
        ):
            try:
                command(CONFIG.value, workdir)
            except Exception as error:
                if jax.process_count() == 1:
                    raise
                if isinstance(error, InputError | RunError):
                    print(typed(f"error: {error}"), file=sys.stderr)
                else:
                    traceback.print_exc()
                hosts.leave()

    open_files.raise_limit()
    for flag in FLAGS.get_key_flags_for_module(__name__):  # so that --help has them, too
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    script = sys.modules["__main__"]
    script.__doc__ = script.__doc__ and typed(script.__doc__)
    with reported():
        app.run(main, flags_parser=partial(parse, needs_config=needs_config))


def parse(argv: Sequence[str], needs_config: bool = True) -> list[str]:
    """Parses the flags of a command, and returns its name.

    Raises InputError for what the user got wrong, with what was meant as far as that can be known.
    """
    given = None
    try:
        args, given = _with_recipe(FLAGS.read_flags_from_files(argv[1:], force_gnu=False))
        argv = [argv[0], *args]
        if given is not None:
            _check_config_file(given)
        rest = FLAGS(argv)
    except SystemExit:
        if not {arg.lstrip("-") for arg in argv} & HELP:
            raise
        _help(given)
        sys.exit()  # absl ends with 1
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(argv, error.flagname, needs_config) from error
    except flags.IllegalFlagValueError as error:
        raise _illegal_value(given, error) from error
    except flags.DuplicateFlagError as error:  # of a field, which each --config defines
        raise InputError("--config is given twice", "one of them") from error
    except config_flags.config_flags.FlagOrderError as error:
        raise InputError(f"{error}", "--config=FILE before its fields") from error
    except flags.Error as error:
        _, has_no_value, flag = str(error).partition("Missing value for flag ")
        accepted = f"{flag}=VALUE" if has_no_value else "the flags in --help"
        raise InputError(f"{error}", accepted) from error
    except MISTAKES as error:
        if isinstance(error, InputError):
            raise
        raise _config_mistake(argv, given, error) from error
    if rest[1:]:
        raise _stray(rest[1])
    if FLAGS["config"].present:
        _finish(CONFIG.value)
    elif needs_config:
        raise InputError("--config is not given", EXAMPLE)
    return rest


def _help(given):
    """Prints the fields of a config, after absl's help."""
    given = given or _configs() / Path(RECIPE).name
    said = config_fields.comments((_configs() / Path(RECIPE).name).read_text())
    print(f"\nfields of {given}:\n{config_fields.listing(recipe(str(given)), said)}")


def _with_recipe(args):
    """The arguments, with the file of a recipe in place of its name, and what --config is."""
    args, given = list(args), None
    for at, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag not in ("-config", "--config"):
            continue
        if equals:
            given = _file(value)
            args[at] = f"{flag}={given}"
        elif at + 1 < len(args):
            given = args[at + 1] = _file(args[at + 1])
        break
    return args, given


def _file(given):
    name, colon, variant = given.partition(":")
    file = _configs() / f"{name}.py"
    is_name = name.isidentifier() and file.is_file() and not Path(name).is_file()
    return f"{file}{colon}{variant}" if is_name else given


def _check_config_file(given):
    path, colon, variant = given.partition(":")
    if not Path(path).is_file():
        near = meant.config_files(Path(path), _configs())
        accepted = " or ".join(f"--config={file}{colon}{variant}" for file in near)
        raise InputError(f"no config file {path or repr(path)}", accepted or EXAMPLE)


def _configs():
    """The folder of the configs, which lies beside the command."""
    return Path(sys.argv[0]).parent / "configs"


def _stray(arg):
    """What was meant by an argument that is no flag."""
    path, colon, variant = arg.partition(":")
    found = [Path(path)] if path.endswith(".py") else meant.config_files(Path(path), _configs())
    accepted = " or ".join(f"--config={file}{colon}{variant}" for file in found)
    if (Path(arg) / "config.json").is_file():
        accepted = f"--workdir={arg}"
    return InputError(f"unexpected argument {arg!r}", accepted or "flags, see --help")


def _unknown_flag(argv, name, needs_config):
    is_present, fields = FLAGS["config"].present, ()
    if is_present:
        fields = workdirs.fields(FLAGS["config"].value.to_dict())
    else:
        for arg in argv[1:]:
            if not arg.startswith("-") and arg.partition(":")[0].endswith(".py"):
                return _stray(arg)
        if needs_config or name.startswith("config."):
            return InputError("--config is not given", EXAMPLE)
    modules = (sys.argv[0], __name__)
    own = [flag.name for module in modules for flag in FLAGS.get_key_flags_for_module(module)]
    flag, value = _typed(argv, name)
    near = meant.flags(name, [*own, "help"], fields)
    accepted = " or ".join(f"--{each}{value}" for each in near)
    return InputError(f"no flag {flag}", accepted or "the flags in --help")


def _typed(argv, name):
    """A flag as it was typed, and what follows it in the same argument: "=value"."""
    same = (arg for arg in argv if arg.partition("=")[0].lstrip("-") == name)
    flag, equals, value = next(same, f"--{name}").partition("=")
    return flag, equals + value


def _illegal_value(given, error):
    cause, message = error.__context__, str(error)
    match = re.match(r"flag --([\w.]+)=", message)
    if match is None or cause is None:
        return InputError(message, "the flags in --help")
    name = match[1]
    if name == "config":  # config_flags puts what the file raises into another exception
        return _mistake_in(given, cause.__context__ or cause)
    value = message.removeprefix(f"flag --{name}=").removesuffix(f": {cause}")
    return InputError(f"--{name} is {value!r}", _takes(FLAGS[name]))


def _mistake_in(given, error):
    """What a config file raised, with its line."""
    if isinstance(error, InputError):
        return error
    path = given.partition(":")[0]
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == path]
    where = f"{path}, line {lines[-1]}" if lines else path
    return InputError(f"{where}: {error}", f"the fields of {RECIPE}, of their types")


def _config_mistake(argv, given, error):
    """What a config file raised, or else a field that the config does not have."""
    try:
        fields = recipe(given) if given else {}
    except MISTAKES as raised:
        return _mistake_in(given, raised)
    sections = {name[:at] for name in fields for at, letter in enumerate(name) if letter == "."}
    for arg in argv:
        name = arg.partition("=")[0].lstrip("-")
        field = name.removeprefix("no").removeprefix("config.")
        if name.endswith(f"config.{field}") and field not in fields.keys() | sections:
            flag, value = _typed(argv, name)
            near = meant.flags(name, (), fields)
            accepted = " or ".join(f"--{each}{value}" for each in near)
            return InputError(f"unknown config field {flag}", accepted or f"those of {RECIPE}")
    return InputError(f"{error}", f"the flags in --help, and the fields of {RECIPE}")


def recipe(given: str) -> dict[str, Any]:
    """The fields of a config file as it is, by their full names. given: see --config."""
    return workdirs.fields(FLAGS["config"].parser.parse(given).to_dict())


def changed() -> list[str]:
    """The fields to which the command line gives another value than the config file has."""
    if not FLAGS["config"].present:
        return []
    of_file = recipe(config_flags.get_config_filename(FLAGS["config"]))
    here = workdirs.fields(CONFIG.value.to_dict())
    return [name for name, value in here.items() if value != of_file[name]]


def shorten_warmup(config: ConfigDict, changed: Sequence[str]) -> None:
    """Makes the warm-up of a recipe a tenth of the epochs that the command line gives instead of
    the recipe's, where it would be longer than the run, and says so. changed: see there."""
    is_given = "schedule.warmup_epochs" in changed or "schedule.warmup_steps" in changed
    before = config.schedule.warmup_epochs
    if "num_epochs" in changed and not is_given and 0 < (config.num_epochs or 0) < before:
        config.schedule.warmup_epochs = max(config.num_epochs // 10, 1)
        print(
            f"warm-up    --config.schedule.warmup_epochs={config.schedule.warmup_epochs}, not "
            f"{before}: --config.num_epochs={config.num_epochs} is less than that"
        )


def _finish(config):
    """Sets to None the fields that were given as such, and refuses what no field may be."""
    for name, value in config_flags.get_override_values(FLAGS["config"]).items():
        flag = FLAGS[f"config.{name}"]
        if isinstance(value, ConfigDict):
            raise InputError(f"--config.{name} is a section", _takes(flag))
        if value in (None, (None,)):
            if not _may_be_none(config, name):
                raise InputError(f"--config.{name} is None", _takes(flag))
            config.update_from_flattened_dict({name: None})


def _may_be_none(config, name):
    *sections, last = name.split(".")
    for section in sections:
        config = config[section]
    return isinstance(dict(config.items(preserve_field_references=True))[last], FieldReference)


def _takes(flag):
    """The values that a flag takes, with its default for an example."""
    if hasattr(flag.parser, "enum_values"):
        return " or ".join(flag.parser.enum_values)
    field, none = flag.name.removeprefix("config."), ""
    if field != flag.name:
        fields = recipe(FLAGS["config"].config_filename)
        inside = [name for name in fields if name.startswith(f"{field}.")]
        if inside:
            return f"one of its fields, such as --config.{inside[0]}={fields[inside[0]]}"
        none = ", or None" if _may_be_none(FLAGS["config"].value, field) else ""
    default = tuple(flag.default) if isinstance(flag.default, list) else flag.default
    has_example = default not in (None, "") and not isinstance(default, bool)
    example = f", such as {default}" if has_example else ""
    return f"{KINDS.get(flag.flag_type(), flag.flag_type())}{example}{none}"
