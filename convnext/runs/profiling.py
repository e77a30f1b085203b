"""A trace of some steps of a run, for xprof."""

import re
from collections.abc import Callable
from pathlib import Path

import jax

from convnext.errors import InputError


def step_range(text: str | None, num_steps: int) -> range:
    """ "10:15" -> steps 10 to 14, as in Python; none where text is None.

    Raises InputError for anything else, and where they are not steps of 1 to num_steps.
    """
    if text is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    steps = range(*map(int, match.groups())) if match else range(0)
    if not steps or steps[0] < 1 or steps[-1] > num_steps:
        raise InputError(
            f"--profile_steps is {text!r}", f"FIRST:END, as in 10:15, up to {num_steps + 1}"
        )
    return steps


def traced(train_step: Callable, *, steps: range, folder: Path) -> Callable:
    """train_step(*arguments) as a function of (step, *arguments), that writes a trace of `steps`
    into the folder. Only there it waits for the devices: at the end."""
    tracing = False

    def run(step, *arguments):
        nonlocal tracing
        if step in steps and not tracing:
            jax.profiler.start_trace(folder)
            tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            outputs = train_step(*arguments)
        if tracing and step + 1 not in steps:
            jax.block_until_ready(outputs)
            jax.profiler.stop_trace()
            tracing = False
        return outputs

    return run
