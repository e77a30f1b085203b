"""The log of a run: metrics.jsonl, TensorBoard, W&B, console."""

import json
import math
import os
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from rich import progress
from tensorboardX import SummaryWriter

from convnext.runs import environment, plots, workdirs
from convnext.files.text import replace
from convnext.errors import InputError, RunError, require

STEPS_AHEAD = 8
BAD_IMAGES = "bad_images.json"


class Log:
    """Writes what a run reports; a context manager. Only process 0 writes.

    metrics.jsonl has one JSON object a line: "step", and the values of that step. Lines past
    start_step, left by a run that was killed after its last checkpoint, are cut off first, and are
    not sent to W&B again. Where start_step is 0 and there is a log, or another config, these are
    kept (workdirs.keep_earlier). config.json holds the config, environment.json what the run was
    last started on.

    What a full disk refuses later is said once; lines of metrics.jsonl are kept and tried again.
    Raises RunError where not even the first files can be written, and InputError where those of a
    run that goes on are damaged.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        start_step: int,
        num_steps: int,
        batch_size: int,
        config: Mapping[str, Any],
        every_steps: int,
        wandb_project: str | None = None,
    ):
        require(every_steps >= 1, "log.every_steps", every_steps, "1 and more")
        self.active = jax.process_index() == 0
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.every_steps = every_steps
        self._pending: tuple[int, dict[str, Any]] | None = None  # a line that is not written yet
        self._undue: tuple[int, dict[str, Any]] | None = None  # of the last step, without a line
        self._start_step = self._last = start_step
        self._ahead: deque[Mapping[str, Any]] = deque()  # of steps that may not have been made yet
        self._seconds: dict[str, float] = {}
        self._clock: tuple[float, int] | None = None  # when the rate was last taken, after how many
        self._waited = 0.0  # seconds since then, for data
        self._fetching = False  # the batch of the next step
        self._written: dict[str, float] = {}  # the line of start_step, which may be added to
        self.workdir = Path(workdir)
        # What is wrong with each, and the step that met it: known to all processes.
        self.bad_images: dict[str, int] = self._met_before(start_step)
        if not self.active:
            return
        wandb = _import_wandb() if wandb_project else None
        try:
            self._open(start_step, config)
        except OSError as error:
            raise RunError(f"{workdir} cannot be written: {error}") from error
        self._refused: set[str] = set()  # what could not be written, and was said
        if wandb:
            self._sent = _sent_to_wandb(self.workdir, self._sent)
        self._wandb = wandb and _wandb_run(wandb, wandb_project, self.workdir, config)
        self._progress = progress.Progress(
            progress.TextColumn("{task.fields[loss]}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[rate]}"),
        )
        self._task = self._progress.add_task("", total=num_steps, completed=start_step,
                                             loss="", rate="")  # fmt: skip
        if self._progress.console.is_terminal:
            self._progress.start()

    def _open(self, start_step, config):
        self.workdir.mkdir(parents=True, exist_ok=True)
        path, bad_images = self.workdir / "metrics.jsonl", self.workdir / BAD_IMAGES
        if start_step == 0 and (_has_text(path) or _differs(self.workdir / "config.json", config)):
            workdirs.keep_earlier(self.workdir)
        lines = read(path)
        kept = [line for line in lines if line["step"] <= start_step]
        self._sent = max((line["step"] for line in lines), default=0)
        self._written = {
            name: math.nan if value is None else value
            for name, value in (kept[-1] if kept else {}).items()
            if kept[-1]["step"] == start_step and name != "step"
        }
        replace(self.workdir / "config.json", _json(config))
        replace(self.workdir / "environment.json", _json(environment.describe()))
        replace(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""  # of lines
        if bad_images.exists():
            replace(bad_images, _json(self.bad_images))
        # Its thread takes from a queue, which holds a line: where the thread has died of a full
        # disk, the flush after a line fails before the queue is full.
        self._tensorboard: SummaryWriter | None = SummaryWriter(
            str(self.workdir / "tensorboard"), purge_step=start_step + 1, max_queue=1000
        )

    def _met_before(self, step):
        path = self.workdir / BAD_IMAGES
        met = workdirs.read_json(path, dict) if path.exists() else {}
        return {message: at for message, at in met.items() if at <= step}

    def print(self, text: str) -> None:
        """A text for the console."""
        if self.active:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def bad_image(self, message: str) -> None:
        """What is wrong with an image that is left out. How many these are is logged as
        data/bad_images, and which is in bad_images.json."""
        if message not in self.bad_images:
            self.bad_images[message] = self._last + self._fetching
            self.save(BAD_IMAGES, self.bad_images)
            self.print(f"left out: {message}")

    def save(self, name: str, value: Any) -> None:
        """A JSON file in the workdir."""
        if self.active:
            with self._said(name):
                replace(self.workdir / name, _json(value))

    def save_curves(self) -> None:
        """curves.png in the workdir, of all that was written so far."""
        if self.active:
            lines, path = read(self.workdir / "metrics.jsonl"), self.workdir / "curves.png"
            with self._said("curves.png"):
                plots.save_curves(lines, path)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes the values of an update, logged as train/..., which may be on the device still.

        Those that are due are fetched when the next ones are, so that nothing waits for them. Only
        a host that is more than STEPS_AHEAD updates ahead of its devices waits, as the batches that
        it has sent them fill their memory.
        """
        self._ahead.append(values)
        if len(self._ahead) > STEPS_AHEAD:
            jax.block_until_ready(self._ahead.popleft())
        self._last = step
        if self.active:
            self._progress.update(self._task, completed=step)
        if self._clock is None:  # the first step is mostly compilation
            self._start_clock(time.monotonic(), step)
        if self._is_due(step):
            self.flush()
            self._pending = step, {**self._timings(step), **_prefixed("train/", values)}
        else:
            self._undue = step, _prefixed("train/", values)

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same. The share of the time in which the next one was waited for is logged as
        data/wait_fraction."""
        iterator = iter(batches)
        while True:
            begin = time.monotonic()
            self._fetching = True
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._fetching = False
            self._waited += time.monotonic() - begin
            yield batch

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds to the line of the last step, such as an evaluation after it, also where the run
        goes on from that step and the line is written."""
        if self._pending is None or self._pending[0] != self._last:
            self.flush()
            goes_on = self._last == self._start_step
            self._pending = (self._last, dict(self._written)) if goes_on else self._undue
        self._pending[1].update({**values, **self._beside()})

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Seconds spent inside are no training time; the next line has them as `seconds/<name>`."""
        jax.block_until_ready(list(self._ahead))
        begin = time.monotonic()
        yield
        seconds = time.monotonic() - begin
        self._seconds[f"seconds/{name}"] = self._seconds.get(f"seconds/{name}", 0.0) + seconds
        if self._clock is not None:
            self._clock = self._clock[0] + seconds, self._clock[1]

    def _timings(self, step):
        """The rate since the last line, and what was done beside training."""
        then, before = self._clock
        timings = self._beside()
        if step > before:
            now = time.monotonic()
            timings["train/images_per_second"] = (step - before) * self.batch_size / (now - then)
            timings["data/wait_fraction"] = self._waited / (now - then)
            self._start_clock(now, step)
        return timings

    def _start_clock(self, now, step):
        self._clock, self._waited = (now, step), 0.0

    def _beside(self):
        """And how many images were left out, if any."""
        seconds, self._seconds = self._seconds, {}
        bad = {"data/bad_images": len(self.bad_images)} if self.bad_images else {}
        return {**seconds, **bad}

    def flush(self) -> None:
        """Writes what is pending, if the disk takes it."""
        if self._pending is None:
            return
        step, values = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(values).items()}
        if not values.get("train/skipped"):
            values.pop("train/skipped", None)
        if not self.active:
            return
        self._write(step, values)
        rate = values.get("train/images_per_second")
        self._progress.update(
            self._task,
            **({"loss": f"loss {values['train/loss']:.4f}"} if "train/loss" in values else {}),
            **({"rate": f"{rate:.0f} images/s"} if rate else {}),
        )

    def to_disk(self) -> None:
        """Writes all lines, and waits until the disk has them. Raises OSError where it has not."""
        self.flush()
        if self.active:
            self._append("")
            os.fsync(self._file.fileno())

    def _append(self, text):
        self._unwritten += text.encode()
        while self._unwritten:
            written = self._file.write(self._unwritten)
            self._unwritten = self._unwritten[written:]

    def _replace_last(self, line):
        path = self.workdir / "metrics.jsonl"
        before = [json.dumps(kept) + "\n" for kept in read(path) if kept["step"] < self._start_step]
        replace(path, "".join([*before, line]))
        self._file.close()
        self._file = path.open("ab", buffering=0)

    @contextmanager
    def _said(self, name):
        """An OSError inside is said once. It does not end the run; a checkpoint that fails may."""
        try:
            yield
        except OSError as error:
            if name not in self._refused:
                self._refused.add(name)
                self.print(f"{name} could not be written: {error}")

    def _is_due(self, step):
        return step % self.every_steps == 0 or step == self.num_steps

    def _write(self, step, values):
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, **finite}) + "\n"
        with self._said("metrics.jsonl"):
            if step == self._start_step:
                self._replace_last(line)
                values = {k: v for k, v in values.items() if self._written.get(k) != v}
            else:
                self._append(line)
        if self._tensorboard is not None:
            try:
                for name, value in values.items():
                    self._tensorboard.add_scalar(name, value, step)
                self._tensorboard.flush()
            except OSError as error:
                self._tensorboard = None
                self.print(f"tensorboard/ is left out from step {step} on: {error}")
        if self._wandb is not None and not self._start_step < step <= self._sent:
            self._wandb.log({"step": step, **values})
        if self._progress.console.is_terminal and not any(n.startswith("val") for n in values):
            return  # the bar shows it
        words = " ".join(f"{name} {value:.5g}" for name, value in values.items())
        self.print(f"step {step}/{self.num_steps} {words}")

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        try:
            self.flush()
        finally:
            if self.active:
                with self._said("metrics.jsonl"):
                    self._append("")
                if self._progress.console.is_terminal:
                    self._progress.stop()
                self._file.close()
                if self._tensorboard is not None:
                    with self._said("tensorboard/"):
                        self._tensorboard.close()
                if self._wandb is not None:
                    self._wandb.finish()


def _prefixed(prefix, values):
    return {f"{prefix}{name}": value for name, value in values.items()}


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no such file.

    A last line that a kill cut short is left out. Raises InputError where another is damaged.
    """
    path = Path(path)
    written = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    lines = []
    for number, line in enumerate(written, 1):
        try:
            lines.append(json.loads(line))
            whole = isinstance(lines[-1]["step"], int)
        except (ValueError, LookupError, TypeError, RecursionError):
            whole = False
        require(whole, f"line {number} of {path}", line[:100], "a JSON object with a step, or none")
    return lines


def _has_text(path):
    return path.exists() and path.stat().st_size > 0


def _differs(path, config):
    return path.exists() and path.read_bytes() != _json(config).encode()


def _json(value):
    return json.dumps(value, indent=2) + "\n"


def _import_wandb():
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            f"log.wandb_project is set, but wandb cannot be imported ({error})", f"pip "
            "install wandb, or no log.wandb_project"
        ) from error
    return wandb


def _sent_to_wandb(workdir, step):
    """The last step that W&B has a line of: `step`, whose line is about to be cut off, or a later
    one, whose line was cut off before."""
    path = workdir / "wandb_sent"
    text = path.read_text() if path.exists() else ""
    sent = max(step, int(text) if text.isdecimal() else 0)
    replace(path, str(sent))
    return sent


def _wandb_run(wandb, project, workdir, config):
    """A run that goes on under its id when training resumes. Its axis is our step, as W&B's own
    takes nothing for a step before the last, such as an evaluation after the run goes on."""
    path = workdir / "wandb_id"
    if not path.exists():
        replace(path, uuid.uuid4().hex)
    run = wandb.init(
        project=project,
        id=path.read_text(),
        name=workdir.name,
        dir=str(workdir),
        config=dict(config),
        resume="allow",
    )
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return run
