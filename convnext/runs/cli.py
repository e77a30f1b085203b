"""The beginning of a command: flags, the other processes of a run, errors in one line."""

import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from convnext import hosts
from convnext.errors import InputError, RunError, reported
from convnext.files import open_files

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, such as configs/convnext_tiny.py.", lock_config=True
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


def run(
    command: Callable[[ConfigDict | None, Path | None], Any], needs_config: bool = True
) -> None:
    """Calls command(config, workdir) with what the command line says: None where it says neither,
    and no config is needed.

    What the user got wrong (InputError) ends in one line and exit status 1.
    """

    def main(argv):
        if len(argv) > 1:
            raise InputError(f"unexpected argument {argv[1]!r}", "flags, see --help")
        if not FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax says much
        hosts.connect(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
        workdir = Path(WORKDIR.value) if WORKDIR.value else None
        if workdir is None and FLAGS["config"].present:
            path, variant = _config_file()
            workdir = Path("runs") / (f"{path.stem}_{variant}" if variant else path.stem)
        # Process 0 speaks for all; what is wrong, each says.
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere if jax.process_index() else sys.stdout),
        ):
            try:
                command(CONFIG.value, workdir)
            except Exception as error:
                if jax.process_count() == 1:
                    raise
                if isinstance(error, InputError | RunError):
                    print(f"error: {error}", file=sys.stderr)
                else:
                    traceback.print_exc()
                hosts.leave()

    open_files.raise_limit()
    with reported():
        app.run(main, flags_parser=partial(_parse, needs_config=needs_config))


def _parse(argv, needs_config):
    try:
        rest = FLAGS(argv)
    except flags.Error as error:
        # What a config file raises comes as the text of a traceback.
        _, raised, message = str(error).rpartition("convnext.errors.InputError: ")
        if raised:
            raise InputError(message.strip()) from error
        raise InputError(f"{error}", "the flags in --help") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise _config_mistake(argv, error) from error
    if not FLAGS["config"].present:
        if not needs_config:
            return rest
        raise InputError("--config is not given", "a file such as configs/digits.py")
    path, _ = _config_file()
    if not path.is_file():
        raise InputError(f"no config file {path}", "a file such as configs/digits.py")
    return rest


def _config_file():
    """The file, and what follows a colon: the argument of its get_config."""
    path, _, argument = config_flags.get_config_filename(FLAGS["config"]).partition(":")
    return Path(path), argument


def _config_mistake(argv, error):
    """ml_collections names only the last part of an unknown field, between quotes."""
    for override in (arg.split("=")[0] for arg in argv if arg.startswith("--config.")):
        if f"'{override.rpartition('.')[2]}" in str(error).replace("\\", ""):
            near = re.search(r'Did you mean "(\w+)"', str(error))
            hint = f"; did you mean {near[1]}?" if near else ""
            return InputError(f"unknown config field {override}", f"the fields of the config{hint}")
    return InputError(str(error), "values of the fields' types")
