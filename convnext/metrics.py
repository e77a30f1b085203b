"""Sums over masked batches, and the log of a run: metrics.jsonl, TensorBoard, W&B, console."""

import json
import math
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import progress
from tensorboardX import SummaryWriter

from convnext import losses, plots
from convnext.errors import InputError


def accuracy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    problem_type: str = losses.SINGLE_LABEL,
) -> dict[str, jax.Array]:
    """Sums over the examples with mask 1. logits [N, K], labels int [N] or [N, K], mask [N].

    loss is that of the problem type, without smoothing. top1 counts the highest logits that are
    labels, top5 the examples of which a label is among the five highest; a regression has mae
    instead, the mean absolute error.
    """
    num_classes = logits.shape[-1]
    targets = losses.targets(labels, num_classes=num_classes, problem_type=problem_type)
    loss = losses.loss(logits, targets, problem_type=problem_type)
    sums = {"loss": jnp.where(mask > 0, loss, 0).sum(), "count": mask.sum()}
    if problem_type == losses.REGRESSION:
        errors = jnp.abs(logits - targets).mean(axis=-1)
        return sums | {"mae": jnp.where(mask > 0, errors, 0).sum()}
    _, best = jax.lax.top_k(logits, min(5, num_classes))
    hits = jnp.take_along_axis(targets, best, axis=-1) > 0.5
    return sums | {
        "top1": (hits[:, 0] * mask).sum(),
        "top5": (hits.any(axis=1) * mask).sum(),
    }


def confusion(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """How many examples of each label [K] have each prediction [K]."""
    num_classes = logits.shape[-1]
    label = jax.nn.one_hot(labels, num_classes) * mask[:, None]
    prediction = jax.nn.one_hot(logits.argmax(axis=-1), num_classes)
    return jnp.einsum("nl,np->lp", label, prediction)


def means(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Totals of `accuracy` -> means over all examples (loss, top1, top5), and count."""
    count = float(totals["count"])
    sums = {name: float(total) for name, total in totals.items() if name != "count"}
    # Sorted, as jax returns a dict.
    return {name: sums[name] / count for name in sorted(sums)} | {"count": int(count)}


def scores(totals: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """{"val": totals, ...} -> {"val/loss": 0.7, "val/top1": 0.8, "val/top5": 0.9, ...}"""
    return {
        f"{prefix}/{name}": value
        for prefix, of_prefix in totals.items()
        for name, value in means(of_prefix).items()
        if name != "count"
    }


class Log:
    """Writes what a run reports; a context manager. Only process 0 writes.

    metrics.jsonl has one JSON object a line: "step", and the values of that step. Lines past
    start_step, left by a run that was killed after its last checkpoint, are cut off first.
    config.json holds the config.
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
        self.active = jax.process_index() == 0
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.every_steps = every_steps
        self._pending: tuple[int, dict[str, Any]] | None = None
        self._clock: tuple[float, int] | None = None  # when the rate was last taken, after how many
        if not self.active:
            return
        wandb = _import_wandb() if wandb_project else None
        self.workdir = Path(workdir)
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.save("config.json", config)
        path = self.workdir / "metrics.jsonl"
        kept = [line for line in read(path) if line["step"] <= start_step]
        _replace(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")
        self._tensorboard = SummaryWriter(
            str(self.workdir / "tensorboard"), purge_step=start_step + 1 if start_step else None
        )
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

    def print(self, text: str) -> None:
        """A text for the console."""
        if self.active:
            self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def save(self, name: str, value: Any) -> None:
        """A JSON file in the workdir."""
        if self.active:
            _replace(self.workdir / name, json.dumps(value, indent=2) + "\n")

    def save_curves(self) -> None:
        """curves.png in the workdir, of all that was written so far."""
        if self.active:
            plots.save_curves(read(self.workdir / "metrics.jsonl"), self.workdir / "curves.png")

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes the values of an update, logged as train/..., which may be on the device still.

        They are fetched when the next step is under way, so that the device never waits.
        """
        self.flush()
        values = {f"train/{name}": value for name, value in values.items()}
        now = time.monotonic()
        if self._clock is None:  # the first step is mostly compilation
            self._clock = now, step
        elif self._is_due(step):
            then, before = self._clock
            rate = (step - before) * self.batch_size / (now - then)
            values["train/images_per_second"] = rate
            self._clock = now, step
        self._pending = step, values

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds to the line of the last step, such as an evaluation after it."""
        step, pending = self._pending
        pending.update(values)
        self._clock = time.monotonic(), step

    def flush(self) -> None:
        """Writes what is pending."""
        if self._pending is None:
            return
        step, values = self._pending
        self._pending = None
        values = {name: float(value) for name, value in jax.device_get(values).items()}
        evaluated = any(name.startswith("val") for name in values)
        if not self.active:
            return
        if evaluated or self._is_due(step):
            self._write(step, values)
        rate = values.get("train/images_per_second")
        self._progress.update(
            self._task,
            completed=step,
            loss=f"loss {values['train/loss']:.4f}",
            **({"rate": f"{rate:.0f} images/s"} if rate else {}),
        )

    def _is_due(self, step):
        return step % self.every_steps == 0 or step == self.num_steps

    def _write(self, step, values):
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)
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
                if self._progress.console.is_terminal:
                    self._progress.stop()
                self._file.close()
                self._tensorboard.close()
                if self._wandb is not None:
                    self._wandb.finish()


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no such file.

    A last line that a kill cut short is left out.
    """
    path = Path(path)
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _replace(path, text):
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _import_wandb():
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            f"log.wandb_project is set, but wandb cannot be imported ({error}); accepted: pip "
            "install wandb, or no log.wandb_project"
        ) from error
    return wandb


def _wandb_run(wandb, project, workdir, config):
    """A run that goes on under its id when training resumes."""
    path = workdir / "wandb_id"
    if not path.exists():
        _replace(path, uuid.uuid4().hex)
    return wandb.init(
        project=project,
        id=path.read_text(),
        name=workdir.name,
        dir=str(workdir),
        config=dict(config),
        resume="allow",
    )
