"""The log of a run: what is reported of its steps, and how long they take."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from convnext import hosts
from convnext.commands import typed
from convnext.data.epochs import Epochs
from convnext.errors import InputError, RunError, require
from convnext.files import text
from convnext.runs import console, environment, plots, programs, workdirs, writers

BAD_IMAGES = "bad_images.json"


class Log:
    """Writes what a run reports; a context manager. Only process 0 writes.

    A line of metrics.jsonl has the values of a step (writers.Lines). Lines past start_step, left by
    a run that was killed after its last checkpoint, are cut off first and are not sent to W&B
    again. A run that starts at step 0 in a workdir with a log, or with another config, keeps those
    (workdirs.keep_earlier). config.json holds the config, environment.json what the run was last
    started on. curves.png has the score of `best`, such as "val/top1".

    If the disk fills up later, each file is reported once, and lines of metrics.jsonl are kept and
    retried. Raises RunError where not even the first files can be written, and InputError where
    those of a run that resumes are damaged.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        start_step: int,
        epochs: Epochs,
        config: Mapping[str, Any],
        best: str,
        *,
        every_steps: int,
        wandb_project: str | None = None,
    ):
        require(every_steps >= 1, "log.every_steps", every_steps, "1 and more")
        self.workdir, self.every_steps = Path(workdir), every_steps
        self.num_steps = epochs.num_steps
        self.active, self._score = jax.process_index() == 0, console.Score(best)
        self._clock, self._unmade = Clock(epochs.batch_size), hosts.Behind()
        self._last = Line(start_step)
        self._pending: Line | None = None  # due, and not written yet
        self._is_fetching = False  # the batch of the next step
        self._began: float | None = None  # when the step began to be compiled
        # What is wrong with each, and the step that met it: known to all processes.
        self.bad_images: dict[str, int] = self._met_before(start_step)
        self._console = console.Console(
            self.num_steps, start_step, epochs.batches_per_epoch, self._score, quiet=not self.active
        )
        self._disk = writers.Disk(self.print)
        self._lines: writers.Lines | None = None
        self._writers: list[Any] = []
        if self.active:
            self._open(start_step, config, wandb_project)

    def _open(self, start_step, config, wandb_project):
        # First, as nothing is written where it is not installed.
        wandb = writers.import_wandb() if wandb_project else None
        path, bad_images = self.workdir / "metrics.jsonl", self.workdir / BAD_IMAGES
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            if start_step == 0 and self._is_of_another_run(config):
                workdirs.keep_earlier(self.workdir)
            lines = read(path)
            text.replace(self.workdir / "config.json", _json(config))
            self._note_environment(is_first=start_step == 0)
            self._lines = writers.Lines(path, lines, start_step, self._disk)
            for line in self._lines.before:
                self._score.add(line["step"], line)
            if bad_images.exists():
                text.replace(bad_images, _json(self.bad_images))
            tensorboard = writers.TensorBoard(self.workdir / "tensorboard", start_step, self._disk)
        except OSError as error:
            raise RunError(f"{self.workdir} cannot be written: {error}") from error
        self._writers = [self._lines, self._console, tensorboard]
        if wandb:
            last_step = max((line["step"] for line in lines), default=0)
            self._writers.append(
                writers.WandB(wandb, wandb_project, self.workdir, config, start_step, last_step)
            )

    def _note_environment(self, is_first):
        path, now = self.workdir / "environment.json", environment.describe()
        with suppress(InputError):  # what it was is not known
            before = {} if is_first else text.read_json(path)
            for change in environment.other_pixels(before, now):
                self.print(f"changed since the last start, and so may be pixels: {change}")
        text.replace(path, _json(now))

    def _is_of_another_run(self, config):
        lines, before = self.workdir / "metrics.jsonl", self.workdir / "config.json"
        has_lines = lines.exists() and lines.stat().st_size > 0
        return has_lines or (before.exists() and before.read_bytes() != _json(config).encode())

    def _met_before(self, step):
        path = self.workdir / BAD_IMAGES
        met = text.read_json(path, dict, workdirs.ACCEPTED) if path.exists() else {}
        return {message: at for message, at in met.items() if at <= step}

    def begin(self, description: str, class_names: Sequence[str] | None) -> None:
        """Prints what runs and where it resumes, and keeps the names of the classes, if any."""
        if class_names is not None:
            self.save("classes.json", list(class_names))
        self.print(description)
        if self._last.step:
            self.print(f"resumes from step {self._last.step}")

    def has_waited(self, patience: int | None) -> bool:
        """Whether so many evaluations brought no better score. To be called by all processes."""
        if patience is None:
            return False
        self.flush()
        return hosts.agreed(self._score.waited) >= patience

    def finished(self, commands: Sequence[str]) -> None:
        """Prints the scores of the run, where its weights are, and what comes next."""
        self.flush()
        score, last = self._score, self._last.values.get(self._score.name)
        if (step := self._last.step) < self.num_steps:
            self.save_curves()
            without = f"{score.waited} evaluations without a better score"
            self.print(f"ended      at step {step:,} of {self.num_steps:,}: {without}")
        if score.best is not None:
            last = "" if last is None else f", {last:.4f} at the last"
            self.print(f"best       {score.name} {score.best:.4f} at step {score.step:,}{last}")
        self.print(f"weights    {self.workdir / 'checkpoints'}")
        for number, command in enumerate(commands):
            title = "" if number else "next"
            self.print(f"{title:11}{typed(command).format(workdir=self.workdir)}")

    def stopped(self, step: int) -> None:
        """Prints that the run stops after a step, and how it resumes."""
        self.print(f"stopped after step {step}; run the same command again to resume")

    def print(self, text: str) -> None:
        """Prints a text to the console."""
        self._console.print(text)

    def bad_image(self, message: str) -> None:
        """Notes what is wrong with an image that is skipped. How many there are is logged as
        data/bad_images, and which in bad_images.json."""
        if message not in self.bad_images:
            self.bad_images[message] = self._last.step + self._is_fetching
            self.save(BAD_IMAGES, self.bad_images)
            self.print(f"skipped: {message}")

    def save(self, name: str, value: Any) -> None:
        """Writes a JSON file into the workdir."""
        if self.active:
            with self._disk.writing(name):
                text.replace(self.workdir / name, _json(value))

    def save_curves(self) -> None:
        """Draws all that was written so far into curves.png in the workdir."""
        if self.active:
            lines, path = read(self.workdir / "metrics.jsonl"), self.workdir / "curves.png"
            with self._disk.writing("curves.png"):
                plots.save_curves(lines, path, self._score.metric)

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes the values of an update, logged as train/..., which may be on the devices still.

        Those that are due are fetched when the next ones are, so that nothing waits for them.
        """
        # A host far ahead of its devices would fill their memory with the batches that it has sent
        # them. So it waits, and only here, for what is hosts.STEPS_BEHIND updates old.
        for old in self._unmade.put(values):
            jax.block_until_ready(old)
        if self._began is not None:
            self.print(f"compiled   in {time.monotonic() - self._began:.0f} s")
            self._began = None
        self._console.advance(step)
        self._clock.start(step)
        self._last = Line(step, {f"train/{name}": value for name, value in values.items()})
        if step % self.every_steps == 0 or step == self.num_steps:
            self.flush()
            self._last.values |= {**self._beside(), **self._clock.rates(step)}
            self._pending = self._last

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields the batches. The share of the time in which the next one was waited for is logged
        as data/wait_fraction."""
        iterator = iter(batches)
        place, self._began = programs.place(), time.monotonic()
        kept = f"; the next run finds it in {place}" if place else ""
        self.print(f"compiling  the training step{kept}")
        while True:
            begin = time.monotonic()
            self._is_fetching = True
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self._is_fetching = False
            self._clock.waited(time.monotonic() - begin)
            yield batch

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds to the line of the last step, such as an evaluation after it. That is start_step's
        before the first one, also where this line was written by the run before."""
        if self._pending is not self._last:
            self.flush()
            self._pending = self._last
        self._last.values |= {**values, **self._beside()}

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Counts the seconds inside as no training time. The next line has them as
        `seconds/<name>`."""
        jax.block_until_ready(self._unmade.drain())
        with self._clock.paused(name):
            yield

    def _beside(self):
        bad = {"data/bad_images": len(self.bad_images)} if self.bad_images else {}
        return {**self._clock.pauses(), **bad}

    def flush(self) -> None:
        """Writes the line that is pending, if the disk takes it."""
        line, self._pending = self._pending, None
        if line is None or self._lines is None:
            return
        values = {name: float(value) for name, value in jax.device_get(line.values).items()}
        if not values.get("train/skipped"):
            values.pop("train/skipped", None)
        values = self._lines.new(line.step, values)
        for writer in self._writers:
            writer.write(line.step, values)

    def to_disk(self) -> None:
        """Writes all lines, after the last step also the curves, and waits until the disk has the
        lines. Raises OSError where it has not."""
        self.flush()
        if self._last.step == self.num_steps:
            self.save_curves()
        if self._lines is not None:
            self._lines.to_disk()

    def __enter__(self) -> "Log":
        self._console.start()
        return self

    def __exit__(self, *_) -> None:
        try:
            self.flush()
        finally:
            for writer in self._writers:
                writer.close()


@dataclass(eq=False)
class Line:
    """The values of a step, which may be on the devices still."""

    step: int
    values: dict[str, Any] = field(default_factory=dict)


class Clock:
    """The time that steps take, and that of what is done beside training."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._begin: tuple[float, int] | None = None  # when the rate was last taken, after a step
        self._waited = 0.0  # seconds since then, for data
        self._seconds: dict[str, float] = {}  # of each kind of pause, since they were last taken

    def start(self, step: int) -> None:
        """Begins after the first step, which is mostly compilation."""
        if self._begin is None:
            self._begin, self._waited = (time.monotonic(), step), 0.0

    def waited(self, seconds: float) -> None:
        """Adds to the time in which training waited for data."""
        self._waited += seconds

    def rates(self, step: int) -> dict[str, float]:
        """Images per second, and the share of the time spent waiting, since they were last
        taken."""
        then, before = self._begin
        if step == before:
            return {}
        now = time.monotonic()
        rates = {
            "train/images_per_second": (step - before) * self._batch_size / (now - then),
            "data/wait_fraction": self._waited / (now - then),
        }
        self._begin, self._waited = (now, step), 0.0
        return rates

    def pauses(self) -> dict[str, float]:
        """The seconds of each kind of pause, as `seconds/<name>`, since they were last taken."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Counts the seconds inside as a pause."""
        begin = time.monotonic()
        yield
        seconds = time.monotonic() - begin
        self._seconds[f"seconds/{name}"] = self._seconds.get(f"seconds/{name}", 0.0) + seconds
        if self._begin is not None:
            self._begin = self._begin[0] + seconds, self._begin[1]


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads the lines of a metrics.jsonl; none where there is no such file.

    A last line that a kill cut short is skipped. Raises InputError where another is damaged.
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


def _json(value):
    return json.dumps(value, indent=2) + "\n"
