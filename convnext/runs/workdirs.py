"""The folder of a run: one run at a time is at work in it, and with one recipe."""

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
from convnext.errors import InputError, require

# Fields that do not change the updates, but for how sums are rounded, or that say where the same
# data lies: a run may go on with others.
FREE = ("checkpoint_every_epochs", "data.root", "eval_every_epochs", "init_from",
        "keep_checkpoints", "log", "max_bad_images", "max_skipped", "mesh", "model.remat",
        "num_workers", "on_save_error", "published")  # fmt: skip

SEEN_WITHIN = 30  # seconds in which all processes see what one wrote


# What flock answers where the file system has no locks, or their server does not.
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)


@contextmanager
def locked(workdir: Path, report: Callable[[str], None] = print) -> Iterator[None]:
    """Makes the folder, and keeps other runs out of it as long as this process lives; where its
    file system has no locks, reports that it does not.

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
                report(f"{workdir} cannot be locked ({raised.strerror}): the run goes on, and "
                       "nothing keeps a second one out of it")  # fmt: skip
            else:
                error = raised
    if hosts.agreed(taken):
        raise InputError(
            f"another run is at work in {workdir}", f"another --workdir, or the same "
            "command when that run has ended"
        )
    if hosts.agreed(error is not None):
        raise InputError(
            f"--workdir is {workdir}: {error or 'process 0 cannot write there'}", f"a "
            "folder that can be written"
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
            f"--workdir is {workdir}: {raised}", f"a folder that all processes see and can "
            "write"
        ) from raised
    finally:
        if jax.process_index() == 0:
            path.unlink(missing_ok=True)


def _look_for(path, now, sleep):
    """NFS keeps what it knows of a folder for a while."""
    until = now() + SEEN_WITHIN
    while not path.exists():
        if now() >= until:
            raise FileNotFoundError(f"what process 0 wrote is not in {path.parent.absolute()}")
        sleep(1)


def check_config(
    workdir: Path,
    config: Mapping[str, Any],
    class_names: Sequence[str],
    report: Callable[[str], None] = print,
) -> None:
    """Compares with config.json and classes.json, with which the run of the folder was begun.

    Reports fields that may change, and those that another version of the code had or has not.
    Raises InputError for fields that may not change, for other classes, and where one of the files
    is damaged.
    """
    classes = workdir / "classes.json"
    if classes.is_file() and (before := read_json(classes, list)) != list(class_names):
        pairs = zip_longest(class_names, before)
        index, (name, was) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise InputError(
            f"{workdir} is of other data: class {index} is {name!r} and was {was!r}", f"the "
            f"classes of {classes}, another --workdir, or where no checkpoint is left --start_anew"
        )
    path = workdir / "config.json"
    if not path.is_file():
        return
    before = _fields(read_json(path, dict))
    now = _fields(json.loads(json.dumps(config)))
    changed = [name for name in now if name in before and now[name] != before[name]]
    free = [name for name in changed if any(f"{name}.".startswith(f"{f}.") for f in FREE)]
    refused = [
        f"{name} is {now[name]!r} and was {before[name]!r}" for name in changed if name not in free
    ]
    if refused:
        raise InputError(
            f"{workdir} is of another recipe: {', '.join(refused)}", f"the values of "
            f"{path}, another --workdir, or where no checkpoint is left --start_anew"
        )
    for name in free:
        report(f"changed since the run began: {name} is {now[name]!r} and was {before[name]!r}")
    for name in sorted(before.keys() - now.keys()):
        report(f"gone since the run began: {name}, which was {before[name]!r}")
    for name in sorted(now.keys() - before.keys()):
        report(f"new since the run began: {name}, which is {now[name]!r}")


# The config last: as long as it is there, another one is refused.
OF_A_RUN = ("metrics.jsonl", "bad_images.json", "tensorboard", "wandb_id", "wandb_sent",
            "classes.json", "config.json")  # fmt: skip


def keep_earlier(workdir: Path) -> None:
    """Renames what a run has left in the folder, as another one begins there: metrics.jsonl to
    metrics.jsonl.1, or to the first number that is free. Raises OSError."""
    number = next(n for n in count(1) if not any(workdir.glob(f"*.{n}")))
    for name in OF_A_RUN:
        if (workdir / name).exists():
            (workdir / name).rename(workdir / f"{name}.{number}")


def _fields(config, prefix=""):
    """{"model.depths": [3, 3, 9, 3], ...}"""
    fields = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        fields |= _fields(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return fields


def read_json(path: Path, kind: type) -> Any:
    """What a run wrote into its folder. Raises InputError where it cannot be read, or is of another
    kind: dict or list."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}", f"what the run wrote, or no such "
                         "file") from error  # fmt: skip
    require(isinstance(value, kind), str(path), type(value).__name__, f"a {kind.__name__}, in JSON")
    return value
