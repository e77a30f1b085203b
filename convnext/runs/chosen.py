"""The weights of a run that a name means: a checkpoint, and what of it."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from convnext.errors import InputError, require
from convnext.runs import checkpoint
from convnext.training import metrics, steps

BEST = ("best", "best_raw")


def may_name(name: str) -> bool:
    """Whether a name is one of weights of a run, not the source of others."""
    return name in ("raw", "ema", *BEST) or name.startswith("ema_") or name.isdecimal()


@dataclass(frozen=True)
class Chosen:
    """What a name means."""

    step: int
    ema_decay: float | None  # None: the raw weights
    prefix: str  # of their scores: "val_ema"
    score: str  # such as "val_ema/top1 0.8123"; empty where that was not evaluated

    def __str__(self) -> str:
        of = "raw weights" if self.ema_decay is None else f"EMA {self.ema_decay}"
        return f"at step {self.step} ({of}{self.score and ', '}{self.score})"


def find(
    workdir: str | os.PathLike,
    name: str | None,
    *,
    ema_decays: Sequence[float],
    best: str,
    step: int | None = None,
) -> Chosen:
    """Finds "ema", "raw" or `"ema_<decay>"` of a checkpoint: that of `step`, or the newest one;
    "best", the average (the raw weights where there is none) that has the best score and the
    checkpoint that was kept for it; "best_raw", the raw weights of that checkpoint; or a step in
    digits, with its average. None is "ema".

    best: the score by which it is chosen, such as "top1", "-loss" for the lowest. Raises InputError
    for another name, where there is no such checkpoint, and where "best" is asked of a run that was
    not evaluated.
    """
    averages = steps.ema_by_name(ema_decays)
    names = ["raw", *averages, *BEST]
    is_step = name is not None and name.isdecimal()
    is_known = name is None or name in names or is_step
    accepted = ", ".join([*names, "a step"])
    require(is_known, f"weights of the run {workdir}", name, accepted)
    reported = f"{metrics.reported_prefix(ema_decays)}/{best.removeprefix('-')}"
    scores = checkpoint.scores(workdir)
    if is_step or name in BEST:
        given = f"{name} of the run {workdir} with step"
        require(step is None, given, step, "one of the two")
        is_lowest = best.startswith("-")
        step = int(name) if is_step else _best_step(workdir, scores, reported, is_lowest)
    step = checkpoint.sound_step(workdir, step)
    is_raw = name in ("raw", "best_raw")
    decay = None if is_raw else averages.get(name, averages.get("ema"))
    prefixes = dict(zip([None, *ema_decays], metrics.prefixes(ema_decays), strict=True))
    score = f"{prefixes[decay]}/{best.removeprefix('-')}"
    value = scores.get(step, {}).get(score)
    return Chosen(step, decay, prefixes[decay], "" if value is None else f"{score} {value:.4f}")


def _best_step(workdir, scores, score, is_lowest):
    """The step of the checkpoint with the best score. Raises InputError where none has it."""
    scored = {
        step: -values[score] if is_lowest else values[score]
        for step, values in scores.items()
        if math.isfinite(values.get(score, math.nan))
    }
    if not scored:
        raise InputError(
            f"no checkpoint of {workdir} has the score {score}, to be the best by",
            "a run that was evaluated, or a step, or 'ema' or 'raw' of its newest checkpoint",
        )
    return max(scored, key=scored.get)
