"""The kinds of training: each makes a Task of a config."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from convnext.errors import require
from convnext.files import text
from convnext.runs import workdirs
from convnext.task import Task

NAMES = ("classification", "fcmae")


def make(config: ConfigDict, mesh: jax.sharding.Mesh, stand_in: bool = False) -> Task:
    """Makes the task that config.task names. stand_in: where the data is not at hand, blank
    examples stand for it, of as many as are published: for a dry run.

    Raises InputError for another name, and for what the task finds wrong in its part of the config.
    """
    # Imported where it is needed: a task brings its models and data with it.
    match config.task:
        case "classification":
            from convnext.tasks import classification as task
        case "fcmae":
            from convnext.tasks import fcmae as task
        case _:
            require(False, "task", config.task, ", ".join(NAMES))
    return task.make(config, mesh, stand_in)


def restored(path: Path) -> ConfigDict:
    """Reads the config.json of a run; the tuples of a config, which are lists there, again as
    tuples. Raises InputError where it cannot be read."""
    return ConfigDict(_with_tuples(text.read_json(path, dict, workdirs.ACCEPTED)))


def _with_tuples(value):
    match value:
        case dict():
            return {name: _with_tuples(each) for name, each in value.items()}
        case list():
            return tuple(map(_with_tuples, value))
    return value
