"""Save and restore a run's state, through Orbax, and tell whether what was saved is whole."""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from convnext import hosts
from convnext.errors import InputError, RunError, require
from convnext.files import text
from convnext.task import Variables

MANIFEST = "manifest.json"
SCORES = "scores.json"  # beside the manifest: those of an evaluation that came after the save
LAST_SAVED = "last_saved_step"  # in the workdir: that there has been a sound checkpoint
SMALL = 2**20  # bytes of a file; arrays are larger
# Of an array that all devices have, each writes a part, but none of fewer bytes: to cut a state of
# 500 small arrays in eight takes 6 s at the first save, and 0.6 s at each further one.
SMALLEST_PART = 2**20
ON_SAVE_ERROR = ("stop", "continue")


def check(keep: int, on_save_error: str) -> None:
    """Raises InputError for what `Checkpoints` cannot have."""
    # One is removed before the next is known to be sound.
    require(keep >= 2, "keep_checkpoints", keep, "2 and more")
    accepted = " or ".join(ON_SAVE_ERROR)
    require(on_save_error in ON_SAVE_ERROR, "on_save_error", on_save_error, accepted)


class Checkpoints:
    """The checkpoints of a run: its latest `keep`, 2 and more, and the one with the highest score
    `best`, "val/top1", or the lowest, "-val/loss". A context manager: a save continues in the
    background, and leaving waits for it, in all processes.

    latest_step is that of the newest sound one, 0 where there is none, and latest_has_scores
    whether it was evaluated. What is damaged or was not finished is moved to WORKDIR/damaged and
    reported when this is opened. Of those that are older than the newest sound one, arrays are not
    read.

    on_save_error: "stop" raises a save that failed as a RunError, by the next save at the latest;
    "continue" reports it. Earlier checkpoints stay as they are.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        keep: int,
        best: str,
        on_save_error: str = "stop",
        *,
        report: Callable[[str], None] = print,
    ):
        check(keep, on_save_error)
        self.workdir, self.on_save_error, self.report = Path(workdir), on_save_error, report
        self.latest_step = hosts.agreed(self._move_damaged() if jax.process_index() == 0 else 0)
        self._added = _added_scores(self.workdir)
        self._best = best.removeprefix("-")
        self._open = partial(_open, workdir, keep, best, self._added)
        self._orbax = self._open()
        has_scores = {known.step for known in self._orbax.checkpoints if known.metrics}
        self.latest_has_scores = bool(
            hosts.agreed(self.latest_step in has_scores | self._added.keys())
        )
        self._thread = ThreadPoolExecutor(1)
        self._saving: tuple[int, Future] | None = None

    def _move_damaged(self):
        """Moves what is damaged to damaged/. Returns the newest sound step, or 0."""
        newest = 0
        for step in reversed(_steps(self.workdir)):
            damage = _damage(_folder(self.workdir) / str(step), SMALL if newest else math.inf)
            if damage is None:
                newest = newest or step
                continue
            place = self.workdir / "damaged" / str(step)
            while place.exists():
                place = place.with_name(f"{place.name}_again")
            place.parent.mkdir(exist_ok=True)
            (_folder(self.workdir) / str(step)).rename(place)
            self.report(f"the checkpoint of step {step} is moved to {place}: {damage}")
        saved = self.workdir / LAST_SAVED
        if newest and not saved.exists():
            text.replace(saved, f"{newest}\n")
        elif not newest:
            saved.unlink(missing_ok=True)
        return newest

    def _check(self, scores):
        if scores:
            accepted = f"one of {', '.join(scores)}"
            require(self._best in scores, "the best score", self._best, accepted)

    def restore(self, abstract_state: Any, state_sharding: Any) -> Any:
        """The state of latest_step, with the shapes of abstract_state and the given shardings.

        Raises InputError where there is no checkpoint, or it is another model's.
        """
        step = self.latest_step or sound_step(self.workdir)
        return _load(self.workdir, step, abstract_state, state_sharding)

    def save(
        self,
        step: int,
        state: Any,
        metrics: Mapping[str, float] | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Begins to save the state after update `step`, when the save before is done and `before`
        has written what belongs to it; a save fails where that raises an OSError. Returns when the
        state has been copied and may be donated. To be called by all processes.

        Raises InputError where there are scores without that of `best`.
        """
        self._check(metrics)
        self._finish()
        try:
            self._try_to_write(before)
            response = self._begin(step, state, metrics)
        except Exception as error:
            self._failed(step, error)
        else:
            self._saving = step, self._thread.submit(self._complete, step, response)

    def add_scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Adds scores to the checkpoint of a step that was saved without. To be called by all
        processes. Raises as `save` does."""
        self._check(scores)
        self._added[step] = scores
        if jax.process_index() == 0:
            try:
                text.replace(_folder(self.workdir) / str(step) / SCORES, json.dumps(scores))
            except OSError as error:
                self.report(f"the scores of step {step} could not be saved: {error}")

    def _try_to_write(self, before):
        """Orbax waits for 20 minutes for a folder that it cannot make."""
        error = None
        try:
            before()
            with tempfile.TemporaryFile(dir=_folder(self.workdir)):
                pass
        except OSError as raised:
            error = raised
        hosts.raise_together(error)

    def _begin(self, step, state, metrics):
        """Fails in all processes where it does in one. The others wait for that one in Orbax, at
        multihost_utils.sync_global_devices, which compares what all are at and raises an
        AssertionError for any_process."""
        error = response = None
        try:
            response = self._orbax.save_async(step, state, metrics=metrics)
        except Exception as raised:
            error = raised
        if isinstance(error, AssertionError) and "name mismatch" in str(error):
            hosts.raise_all(None)
        hosts.raise_together(error)
        return response

    def _complete(self, step, response):
        response.result()
        if jax.process_index() == 0:
            _write_manifest(_folder(self.workdir) / str(step))
            text.replace(self.workdir / LAST_SAVED, f"{step}\n")

    def _finish(self, together=True):
        if self._saving is None:
            return
        (step, future), self._saving = self._saving, None
        error = future.exception()
        try:
            # A process that ended before the manifest is written would take process 0 with it.
            if together:
                hosts.raise_together(error)
            elif error is not None:
                raise error
        except Exception as raised:
            self._failed(step, raised)

    def _failed(self, step, error):
        message = f"the checkpoint of step {step} could not be saved: {hosts.reason(error)}"
        if self.on_save_error == "stop":
            raise RunError(message) from error
        self.report(f"{message}; the run continues, as on_save_error says")
        self._close()  # the next save would raise the same again
        half_saved = _folder(self.workdir) / str(step)
        if jax.process_index() == 0 and not (half_saved / MANIFEST).exists():
            shutil.rmtree(half_saved, ignore_errors=True)  # it would count as one to keep
        self._orbax = self._open()

    def _close(self):
        with suppress(Exception):  # that of a save, which was said
            self._orbax.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, raised: type | None, *_) -> None:
        try:
            self._finish(together=raised is None)
        finally:
            self._thread.shutdown()
            self._close()


def _open(workdir, keep, best, added):
    policies = ocp.training.preservation_policies
    score, lowest = best.removeprefix("-"), best.startswith("-")
    context = ocp.Context()
    context.array.saving.min_slice_bytes_for_replica_parallel = SMALLEST_PART

    def value_of(metrics: Mapping[str, float]) -> float:
        value = metrics.get(score, math.nan)
        worst = math.inf if lowest else -math.inf
        return worst if math.isnan(value) else value

    return ocp.training.Checkpointer(
        _folder(workdir),
        save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep),
                # reverse=False keeps the largest, True the smallest.
                _BestN(
                    policies.BestN(
                        get_metric_fn=value_of,
                        reverse=lowest,
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                    added,
                ),
            ]
        ),
        cleanup_tmp_directories=True,
        context=context,
    )


class _BestN:
    """Orbax's policy, which also knows the scores that were added to a checkpoint."""

    def __init__(self, policy, added):
        self.policy, self.added = policy, added

    def should_preserve(self, checkpoints, *, context):
        scored = [
            SimpleNamespace(step=known.step, metrics=known.metrics or self.added.get(known.step))
            for known in checkpoints
        ]
        return self.policy.should_preserve(scored, context=context)


def _added_scores(workdir):
    """{step: scores}"""
    added = {}
    for step in _steps(workdir):
        with suppress(OSError, TypeError, ValueError):  # none, or it is damaged
            added[step] = dict(json.loads((_folder(workdir) / str(step) / SCORES).read_text()))
    return added


def scores(workdir: str | os.PathLike) -> dict[int, dict[str, float]]:
    """The scores of each checkpoint, by its step; none of one that was not evaluated."""
    if not _steps(workdir):
        return {}
    added = _added_scores(workdir)
    with ocp.training.Checkpointer(_folder(workdir)) as checkpoints:
        known = {each.step: each.metrics for each in checkpoints.checkpoints}
    return {step: dict(found or added.get(step) or {}) for step, found in known.items()}


def start_step(workdir: str | os.PathLike, start_anew: bool = False) -> int:
    """The step from which a run in this folder resumes; 0 where it begins, also again, as where it
    was killed before its first checkpoint. To be called by all processes; process 0 looks.

    Raises InputError where there have been sound checkpoints and none is left, unless it may start
    anew.
    """
    step, damage = 0, ""
    if jax.process_index() == 0:
        step = latest_step(workdir)
        if not step and (Path(workdir) / LAST_SAVED).exists():
            found = _steps(workdir)[-1:]
            damage = "".join(f" ({n}: {_damage(_folder(workdir) / str(n))})" for n in found)
            step = -1
    step = hosts.agreed(step)
    if step < 0 and not start_anew:
        raise InputError(
            f"the run in {workdir} has had checkpoints, and no sound one is left{damage}",
            "one that is put back, another --workdir, or --start_anew, with which it begins at "
            "step 0 and keeps the old log",
        )
    return max(step, 0)


def latest_step(workdir: str | os.PathLike) -> int:
    """Updates made at the newest sound checkpoint; 0 where there is none."""
    folder = _folder(workdir)
    steps = reversed(_steps(workdir))
    return next((step for step in steps if _damage(folder / str(step)) is None), 0)


def _steps(workdir):
    """The steps of all checkpoints that Orbax finished, in order."""
    folder = _folder(workdir)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def _folder(workdir):
    return Path(workdir).absolute() / "checkpoints"  # Orbax refuses relative paths


def _write_manifest(folder):
    """Sizes and checksums of the files of a checkpoint, as Orbax keeps none of them. Names that
    begin with a dot are none of its own: they come from file systems and file managers."""
    manifest = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in _files(folder)
        if not _is_hidden(path.relative_to(folder))
    }
    text.replace(folder / MANIFEST, json.dumps(manifest, indent=1))


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _is_hidden(path):
    return any(part.startswith(".") for part in path.parts)


def _sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _sha256_of_version(path, *version):
    return _sha256(path)


def _sha256_once(path):
    """Read once by a process, and again where it has been written since."""
    stat = path.stat()
    version = stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    return _sha256_of_version(path, *version)


def _damage(folder, read_bytes=math.inf):
    """Returns what is wrong with a checkpoint, or None. Files above read_bytes are not read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        paths = [path.relative_to(folder) for path in _files(folder)]
        if missing := sorted(manifest.keys() - {path.as_posix() for path in paths}):
            return f"{missing[0]} is missing"
        found = {path.as_posix() for path in paths if not _is_hidden(path)}
        if unknown := sorted(found - manifest.keys() - {MANIFEST, SCORES, f"{SCORES}.tmp"}):
            return f"{unknown[0]} is not in {MANIFEST}"
        for name, expected in manifest.items():
            path = folder / name
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, not {expected['bytes']}"
            if expected["bytes"] <= read_bytes and _sha256_once(path) != expected["sha256"]:
                return f"{name} has another checksum"
    except FileNotFoundError:
        return "it was not finished"
    except OSError as error:
        return str(error)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def sound_step(workdir: str | os.PathLike, step: int | None = None) -> int:
    """The step, or the newest sound one. Raises InputError where it has no sound checkpoint."""
    if step is None:
        step = latest_step(workdir)
        if not step:
            raise InputError(f"no checkpoint in {workdir}", "the workdir of a training run")
        return step
    steps = _steps(workdir)
    accepted = f"one of {', '.join(map(str, steps))}" if steps else "none: there is no checkpoint"
    require(step in steps, f"the step of {workdir}", step, accepted)
    damage = _damage(_folder(workdir) / str(step))
    require(not damage, f"the checkpoint of step {step} in {workdir}", damage, "a sound one")
    return step


def restore_variables(
    workdir: str | os.PathLike,
    step: int,
    abstract: Variables,
    sharding: jax.sharding.Sharding,
    ema_decay: float | None = None,
) -> Variables:
    """Restores the variables of the state after update `step` (sound_step), and nothing else;
    of the parameters their average of this decay, if there is one.

    Raises InputError where they are another model's.
    """
    others = {name: value for name, value in abstract.items() if name != "params"}
    if ema_decay is None:
        stored, roots = {"params": abstract["params"]}, ["params/"]
    else:
        decay = str(ema_decay)
        stored, roots = {"ema_params": {decay: abstract["params"]}}, [f"ema_params/{decay}/"]
    if others:
        stored, roots = {**stored, "others": others}, [*roots, "others/"]
    loaded = _load(workdir, step, stored, jax.tree.map(lambda _: sharding, stored), roots)
    params = loaded["params"] if ema_decay is None else loaded["ema_params"][str(ema_decay)]
    return {"params": params, **loaded.get("others", {})}


def _load(workdir, step, abstract, sharding, roots=("",)):
    """A part of the state of a step: all that lies at these roots."""
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with ocp.training.Checkpointer(_folder(workdir), context=context) as checkpoints:
        stored = checkpoints.metadata(step).metadata
        target = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, sharding
        )
        # Orbax's own error names neither the parameter nor the shapes.
        ours, theirs = _shapes(target), _shapes(stored)
        extra = [name for name in theirs if name.startswith(tuple(roots)) and name not in ours]
        for name in [*ours, *sorted(extra, key=lambda name: not name.startswith("params/"))]:
            there, here = theirs.get(name, "missing"), ours.get(name, "missing")
            if there != here:
                raise InputError(
                    f"{workdir} holds another model: {name} is {there} there and {here} here",
                    "the config that it was trained with, or a new workdir",
                )
        return checkpoints.load(step, target)


def _shapes(tree):
    """{"params/head/bias": (1000,), ...}"""
    leaves = jax.tree.leaves_with_path(tree)
    name = partial(jax.tree_util.keystr, simple=True, separator="/")
    return {name(path): tuple(leaf.shape) for path, leaf in leaves}
