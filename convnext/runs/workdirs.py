"""The folder of a run, in which one run at a time is at work, with one recipe."""

import errno
import json
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

import filelock
import jax

from convnext import hosts
from convnext.errors import InputError
from convnext.files import text

# Fields that do not change the updates, but for how sums are rounded, or that say where the same
# data lies: a run may resume with others.
FREE = (
    "checkpoint_every_epochs", "checkpoint_every_steps", "data.root", "eval_every_epochs",
    "eval_every_steps", "init_from", "keep_checkpoints", "log", "max_bad_images", "max_skipped",
    "mesh", "model.kernels", "model.remat", "num_workers", "on_save_error", "patience",
    "published",
)  # fmt: skip

# What runs had before there was the field.
EARLIER = {"augment_on": "host", "data.exif_orientation": False}

# What a run records of its images.
DATA = ("train_size", "val_size", "train_hash", "val_hash")

ACCEPTED = "what the run wrote, or no such file"  # of a file that cannot be read
SEEN_WITHIN = 30  # seconds in which all processes see what one wrote
# What flock answers where the file system has no locks, or their server does not.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)


@contextmanager
def locked(workdir: Path, report: Callable[[str], None] = print) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it as long as this process lives. Reports where
    its file system has no locks, and so nothing keeps them out.

    Raises InputError where another one is at work in it, it cannot be written, or one of several
    processes does not see it.
    """
    # A file in place of a lock would outlive a process that is killed.
    lock = filelock.FileLock(workdir / "lock", timeout=0, fallback_to_soft=False)
    taken, error = False, None
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            taken = True
        except OSError as raised:
            if raised.errno in NO_LOCKS:
                report(
                    f"{workdir} cannot be locked ({raised.strerror}): the run continues, and "
                    "nothing keeps a second one out of it"
                )
            else:
                error = raised
    if hosts.agreed(taken):
        raise InputError(
            f"another run is at work in {workdir}",
            "another --workdir, or the same command when that run has ended",
        )
    if hosts.agreed(error is not None):
        raise InputError(
            f"--workdir is {workdir}: {error or 'process 0 cannot write there'}",
            "a folder that can be written",
        ) from error
    try:
        _require_seen(workdir)
        yield
    finally:
        lock.release()


def _require_seen(workdir, now=time.monotonic, sleep=time.sleep):
    """Raises InputError in all processes where one does not see a file that process 0 makes, or
    cannot write."""
    if jax.process_count() == 1:
        return
    number, error = secrets.randbits(31), None
    try:
        if jax.process_index() == 0:
            (workdir / f".seen_{number}").touch()
    except OSError as raised:
        error = raised
    path = workdir / f".seen_{hosts.agreed(number)}"
    try:
        _look_for(path, now, sleep)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as raised:
        error = error or raised
    try:
        hosts.raise_together(error)
    except OSError as raised:
        raise InputError(
            f"--workdir is {workdir}: {raised}", "a folder that all processes see and can write"
        ) from raised
    finally:
        if jax.process_index() == 0:
            path.unlink(missing_ok=True)


def _look_for(path, now, sleep):
    # NFS keeps what it knows of a folder for a while: a file that another host made may not be seen
    # for as long as that. Waiting for it once, before the run begins, tells a slow folder from one
    # that is on another disk.
    until = now() + SEEN_WITHIN
    while not path.exists():
        if now() >= until:
            raise FileNotFoundError(f"what process 0 wrote is not in {path.parent.absolute()}")
        sleep(1)


def check_config(
    workdir: Path,
    config: Mapping[str, Any],
    class_names: Sequence[str] | None,
    report: Callable[[str], None] = print,
    *,
    stand_in: bool = False,
) -> None:
    """Compares a run with config.json and classes.json, with which that of the folder was begun.

    Reports fields that may change, and those that another version of the code had or has not.
    stand_in: the data is not at hand, so classes and sizes are not compared. Raises InputError for
    fields that may not change, for other classes, and where one of the files is damaged.
    """
    if class_names is not None and not stand_in:
        _check_classes(workdir, list(class_names))
    path = workdir / "config.json"
    if not path.is_file():
        return
    now = fields(json.loads(json.dumps(config)))
    earlier = {name: value for name, value in EARLIER.items() if name in now}
    before = earlier | fields(text.read_json(path, dict, ACCEPTED))
    for name in DATA if stand_in else ():
        now.pop(name, None), before.pop(name, None)
    changed = [name for name in now if name in before and now[name] != before[name]]
    changed = [name for name in changed if name not in DATA]
    free = [name for name in changed if is_free(name)]
    refused = [
        f"{name} is {now[name]!r} and was {before[name]!r}" for name in changed if name not in free
    ]
    if refused:
        accepted = (
            f"the values of {path}, another --workdir, or where no checkpoint is left --start_anew"
        )
        if {"num_epochs", "num_steps"} & set(changed):
            accepted = (
                f"the values of {path}; to train on from its weights another --workdir with "
                f"--config.init_from={workdir}"
            )
        raise InputError(f"{workdir} is of another recipe: {', '.join(refused)}", accepted)
    other = [name for name in DATA if now.get(name) != before.get(name, now.get(name))]
    if other:
        listed = ", ".join(f"{name} is {now[name]!r} and was {before[name]!r}" for name in other)
        raise InputError(
            f"{workdir} is of other images: {listed}",
            f"the images as they were, or another --workdir with --config.init_from={workdir}",
        )
    for name in free:
        report(f"changed since the run began: {name} is {now[name]!r} and was {before[name]!r}")
    for name in sorted(before.keys() - now.keys()):
        report(f"gone since the run began: {name}, which was {before[name]!r}")
    for name in sorted(now.keys() - before.keys()):
        report(f"new since the run began: {name}, which is {now[name]!r}")


def with_decided(config: Mapping[str, Any], workdir: Path | None) -> Mapping[str, Any]:
    """Returns the config with what the run in the folder decided, in the place of what is open in
    it, None; as it is where there is no such run. Raises InputError for a damaged config.json."""
    path = workdir and workdir / "config.json"
    if config.get("rule") is None or not (path and path.is_file()):
        return config
    before = fields(text.read_json(path, dict, ACCEPTED))
    now = fields(config.to_dict())
    names = [*(before.get("decided") or ()), "decided", "given"]
    open_ones = [name for name in names if now.get(name) is None and before.get(name) is not None]
    config = config.copy_and_resolve_references()
    values = {name: before[name] for name in open_ones}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    with config.unlocked():
        config.update_from_flattened_dict({**values, **lists})
    return config


def is_free(field: str) -> bool:
    """Returns whether a run may resume with another value of a field."""
    return any(f"{field}.".startswith(f"{name}.") for name in FREE)


def _check_classes(workdir, class_names):
    path = workdir / "classes.json"
    before = text.read_json(path, list, ACCEPTED) if path.is_file() else class_names
    if before != class_names:
        pairs = zip_longest(class_names, before)
        index, (name, was) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"{workdir} is of other data: class {index} is {name!r} and was {was!r}",
            f"the classes of {path}, another --workdir, or where no checkpoint is left "
            "--start_anew",
        )


# The config last: as long as it is there, another one is refused.
OF_A_RUN = ("metrics.jsonl", "bad_images.json", "tensorboard", "wandb_id", "wandb_sent",
            "classes.json", "config.json")  # fmt: skip


def keep_earlier(workdir: Path) -> None:
    """Renames what a run has left in the folder, as another one begins there: metrics.jsonl becomes
    metrics.jsonl.1, or takes the first number that is free. Raises OSError."""
    number = next(n for n in count(1) if not any(workdir.glob(f"*.{n}")))
    for name in OF_A_RUN:
        if (workdir / name).exists():
            (workdir / name).rename(workdir / f"{name}.{number}")


def fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a config by their full names: {"model.depths": [3, 3, 9, 3], ...}"""
    flat = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        flat |= fields(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return flat
