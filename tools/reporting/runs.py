"""What the folder of a run says, without its weights."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext.errors import InputError
from convnext.runs import log
from convnext.training import losses


@dataclass(frozen=True)
class Run:
    """The folder of a run, finished or not."""

    workdir: Path
    config: dict[str, Any]
    lines: list[dict[str, Any]]  # of metrics.jsonl
    environment: dict[str, Any] | None  # None: the run did not say it
    bad_images: int  # that were left out

    @property
    def name(self) -> str:
        return self.workdir.resolve().name

    @property
    def fields(self) -> dict[str, Any]:
        """{"model.depths": [3, 3, 9, 3], ...}"""
        return _fields(self.config)

    @property
    def problem_type(self) -> str:
        return self.config["problem_type"]

    @property
    def score(self) -> str:
        """What a model is judged by."""
        return "mae" if self.problem_type == losses.REGRESSION else "top1"

    @property
    def steps_per_epoch(self) -> int:
        return self.config["train_size"] // self.config["batch_size"]

    @property
    def logged_step(self) -> int:
        """The last that a line of metrics.jsonl is of."""
        return self.lines[-1]["step"] if self.lines else 0

    @property
    def num_steps(self) -> int:
        return self.steps_per_epoch * self.config["num_epochs"]

    def averages(self) -> dict[str, str]:
        """{"val_ema": "EMA 0.9999", ...}: a name for each, by the prefix of what is logged."""
        decays = [str(decay) for decay in self.config["ema_decays"]]
        prefixes = ["val_ema", *(f"val_ema_{decay}" for decay in decays[1:])]
        return {p: f"EMA {d}" for p, d in zip(prefixes[: len(decays)], decays, strict=True)}

    def weights(self) -> dict[str, str]:
        """The same with "val": "raw" first."""
        return {"val": "raw", **self.averages()}

    @property
    def reported(self) -> str:
        """The prefix of the weights that are reported: of the first average, if there is one."""
        return "val_ema" if self.config["ema_decays"] else "val"

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of what was logged by this name; NaN for what was not finite."""
        found = [(line["step"], line[name]) for line in self.lines if name in line]
        return [(step, math.nan if value is None else value) for step, value in found]

    def best(self, name: str) -> tuple[int, float] | None:
        """(step, value) where a score was best; None where it was never logged."""
        points = [point for point in self.series(name) if not math.isnan(point[1])]
        lowest = name.endswith(("/loss", "/mae"))
        return min(points, key=lambda p: p[1] if lowest else -p[1], default=None)


def read(workdir: Path) -> Run:
    """Raises InputError where it is no folder of a run."""
    accepted = "the workdir of a run, with config.json and metrics.jsonl"
    if not workdir.is_dir():
        raise InputError(f"no folder {workdir}", f"{accepted}")
    for name in ("config.json", "metrics.jsonl"):
        if not (workdir / name).is_file():
            raise InputError(f"no {name} in {workdir}", f"{accepted}")
    try:
        run = Run(
            workdir=workdir,
            config=json.loads((workdir / "config.json").read_text()),
            lines=log.read(workdir / "metrics.jsonl"),
            environment=_json(workdir / "environment.json", None),
            bad_images=len(_json(workdir / "bad_images.json", ())),
        )
        # What a page needs first, so that a folder of something else is refused here.
        _ = run.averages(), run.num_steps, run.problem_type, run.config["data"], run.logged_step
    except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{workdir} cannot be read: {type(error).__name__} {error}",
            f"{accepted}, as train.py writes them",
        ) from error
    return run


def _json(path, default):
    return json.loads(path.read_text()) if path.is_file() else default


def _fields(config, prefix=""):
    fields = {}
    for name, value in config.items():
        nested = isinstance(value, dict)
        fields |= _fields(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return fields


def names(runs: Sequence[Run]) -> list[str]:
    """One for each: the folder's, or the whole path where two have the same."""
    short = [run.name for run in runs]
    alike = len(set(short)) < len(short)
    return [str(run.workdir) for run in runs] if alike else short
