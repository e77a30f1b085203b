"""The files and services that a log is written to: metrics.jsonl, TensorBoard, W&B.

Each writer has `write(step, values)`, of floats by name, and `close()`.
"""

import json
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from tensorboardX import SummaryWriter

from convnext.errors import InputError
from convnext.files import text


class Disk:
    """A disk that may be full, which does not end a run; a checkpoint that fails may."""

    def __init__(self, report: Callable[[str], None]):
        self.report = report
        self._refused: set[str] = set()

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Reports an OSError inside, once for each name."""
        try:
            yield
        except OSError as error:
            if name not in self._refused:
                self._refused.add(name)
                self.report(f"{name} could not be written: {error}")


class Lines:
    """metrics.jsonl: one JSON object a line, with "step" and the values of that step; null for a
    value that is not finite.

    lines: those of the file, of which the ones past start_step are cut off. The line of start_step
    may still be added to. Raises OSError where the file cannot be made; what the disk refuses later
    is kept and tried again with the next line.
    """

    def __init__(self, path: Path, lines: Sequence[Mapping[str, Any]], start_step: int, disk: Disk):
        self._path, self._start_step, self._disk = path, start_step, disk
        self.before = kept = [line for line in lines if line["step"] <= start_step]
        # A run that resumes adds an evaluation to the line that it ended with, which its file has
        # already. That line is written anew behind the bytes before it, and the others learn only
        # what is new in it.
        before = [line for line in kept if line["step"] < start_step]
        last = kept[-1] if len(before) < len(kept) else {}
        self._num_bytes_before = len("".join(map(_line, before)))
        self._written = {
            name: math.nan if value is None else value
            for name, value in last.items()
            if name != "step"
        }
        text.replace(path, "".join(map(_line, kept)))
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""

    def new(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """The values that the line of this step does not have yet."""
        written = self._written if step == self._start_step else {}
        return {name: value for name, value in values.items() if written.get(name) != value}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a line, or what is new in that of start_step."""
        with self._disk.writing("metrics.jsonl"):
            if step == self._start_step:
                self._written = dict(sorted({**self._written, **values}.items()))
                self._replace_last(_line({"step": step, **_finite(self._written)}))
            else:
                self._append(_line({"step": step, **_finite(values)}))

    def to_disk(self) -> None:
        """Writes what the disk refused before, and waits until it has all lines. Raises OSError."""
        self._append("")
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Tries once more to write what the disk refused."""
        with self._disk.writing("metrics.jsonl"):
            self._append("")
        self._file.close()

    def _append(self, line):
        self._unwritten += line.encode()
        while self._unwritten:
            written = self._file.write(self._unwritten)
            self._unwritten = self._unwritten[written:]

    def _replace_last(self, line):
        before = self._path.read_bytes()[: self._num_bytes_before]
        text.replace(self._path, before.decode() + line)
        self._file.close()
        self._file = self._path.open("ab", buffering=0)


def _line(values):
    return json.dumps(values) + "\n"


def _finite(values):
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


class TensorBoard:
    """A folder of event files. What it has past start_step is no longer shown."""

    def __init__(self, folder: Path, start_step: int, disk: Disk):
        self._disk = disk
        # Its thread takes from a queue, which holds a line: where the thread has died of a full
        # disk, the flush after a line fails before the queue is full, and nothing waits for ever.
        self._writer: SummaryWriter | None = SummaryWriter(
            str(folder), purge_step=start_step + 1, max_queue=1000
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values as scalars. Once the disk has refused some, it writes no more."""
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            self._writer = None  # without its thread
            self._disk.report(f"tensorboard/ is skipped from step {step} on: {error}")

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            with self._disk.writing("tensorboard/"):
                self._writer.close()


class WandB:
    """A run of W&B, which resumes under its id when training does.

    last_step: of the lines that were logged before, also of those past start_step. W&B has them and
    cannot forget a line, so they are not sent again.
    """

    def __init__(
        self,
        wandb: ModuleType,
        project: str,
        workdir: Path,
        config: Mapping[str, Any],
        start_step: int,
        last_step: int,
    ):
        self._start_step, self._sent_step = start_step, _sent_step(workdir, last_step)
        path = workdir / "wandb_id"
        if not path.exists():
            text.replace(path, uuid.uuid4().hex)
        self._run = wandb.init(
            project=project,
            id=path.read_text(),
            name=workdir.name,
            dir=str(workdir),
            config=dict(config),
            resume="allow",
        )
        # W&B's own axis takes nothing for a step before its last one, such as an evaluation that
        # is made when a run resumes. So our step is a value like others, and the axis of all.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Sends the values, unless W&B has those of the step."""
        if not self._start_step < step <= self._sent_step:
            self._run.log({"step": step, **values})

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()


def import_wandb() -> ModuleType:
    """Raises InputError where it is not installed."""
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            f"log.wandb_project is set, but wandb cannot be imported ({error})",
            "pip install wandb, or no log.wandb_project",
        ) from error
    return wandb


def _sent_step(workdir, step):
    """The last step that W&B has a line of: `step`, whose line is about to be cut off, or a later
    one, whose line was cut off before."""
    path = workdir / "wandb_sent"
    known = path.read_text() if path.exists() else ""
    sent = max(step, int(known) if known.isdecimal() else 0)
    text.replace(path, str(sent))
    return sent
