"""Contents of a run's folder, without its weights."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convnext.errors import InputError
from convnext.runs import log, workdirs
from convnext.training import losses, metrics


@dataclass(frozen=True)
class Run:
    """The folder of a run, finished or not."""

    workdir: Path
    config: dict[str, Any]
    lines: list[dict[str, Any]]  # of metrics.jsonl
    environment: dict[str, Any] | None  # None: the run did not write it
    bad_images: int  # number of images that were skipped

    @property
    def name(self) -> str:
        return self.workdir.resolve().name

    @property
    def fields(self) -> dict[str, Any]:
        """Config as {"model.depths": [3, 3, 9, 3], ...}."""
        return workdirs.fields(self.config)

    @property
    def problem_type(self) -> str:
        return self.config["problem_type"]

    @property
    def score(self) -> str:
        """Name of the score that a model is judged by."""
        return "mae" if self.problem_type == losses.REGRESSION else "top1"

    @property
    def steps_per_epoch(self) -> int:
        return self.config["train_size"] // self.config["batch_size"]

    @property
    def logged_step(self) -> int:
        """Step of the last line in metrics.jsonl."""
        return self.lines[-1]["step"] if self.lines else 0

    @property
    def num_steps(self) -> int:
        steps = self.config.get("num_steps")  # older runs have no such field
        return self.steps_per_epoch * self.config["num_epochs"] if steps is None else steps

    def emas(self) -> dict[str, str]:
        """Returns {"val_ema": "EMA 0.9999", ...}: each EMA's name, by its prefix in the log."""
        decays = self.config["ema_decays"]
        _, *prefixes = metrics.prefixes(decays)
        return {p: f"EMA {decay}" for p, decay in zip(prefixes, decays, strict=True)}

    def weights(self) -> dict[str, str]:
        """Returns `emas` with "val": "raw" before them."""
        return {metrics.RAW: "raw", **self.emas()}

    @property
    def reported(self) -> str:
        """Prefix of the weights that are reported: the first EMA, if there is one."""
        return metrics.reported_prefix(self.config["ema_decays"])

    def series(self, name: str) -> list[tuple[int, float]]:
        """Returns (step, value) of each line with this name, with NaN for values that were not
        finite."""
        points = [(line["step"], line[name]) for line in self.lines if name in line]
        return [(step, math.nan if value is None else value) for step, value in points]

    def best(self, name: str) -> tuple[int, float] | None:
        """Returns (step, value) where a score was best, or None if it was never logged."""
        points = [point for point in self.series(name) if not math.isnan(point[1])]
        lowest = name.endswith(("/loss", "/mae"))
        return min(points, key=lambda p: p[1] if lowest else -p[1], default=None)


def read(workdir: Path) -> Run:
    """Reads a run's folder. Raises InputError if it is none."""
    accepted = "the workdir of a run, with config.json and metrics.jsonl"
    if not workdir.is_dir():
        raise InputError(f"no folder {workdir}", accepted)
    for name in ("config.json", "metrics.jsonl"):
        if not (workdir / name).is_file():
            raise InputError(f"no {name} in {workdir}", accepted)
    try:
        run = Run(
            workdir=workdir,
            config=json.loads((workdir / "config.json").read_text()),
            lines=log.read(workdir / "metrics.jsonl"),
            environment=_json(workdir / "environment.json", None),
            bad_images=len(_json(workdir / "bad_images.json", ())),
        )
        # Read here what a page needs, so that a damaged or foreign folder is refused at once.
        _ = run.emas(), run.num_steps, run.problem_type, run.config["data"], run.logged_step
    except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{workdir} cannot be read: {type(error).__name__} {error}",
            f"{accepted}, as train.py writes them",
        ) from error
    return run


def _json(path, default):
    return json.loads(path.read_text()) if path.is_file() else default


def names(runs: Sequence[Run]) -> list[str]:
    """Returns the name of each run: its folder's, or the whole path if two are the same."""
    short = [run.name for run in runs]
    alike = len(set(short)) < len(short)
    return [str(run.workdir) for run in runs] if alike else short
