"""Whether a run that is killed and resumed on a GPU ends as one left alone."""

import tempfile
from pathlib import Path

import jax
import numpy as np

from dev.gpu_checks import Check


def digits(check: Check) -> None:
    """train.py on the digits, straight and killed twice, to the last bit."""
    from dev import soak  # apart, as it needs what a run needs

    flags = ["--config.num_epochs=6", "--config.batch_size=256", "--config.eval_every_epochs=3",
             "--config.schedule.warmup_epochs=1"]  # fmt: skip
    if check.rehearse:
        flags += ["--config.model.depths=(1,)", "--config.model.dims=(8,)"]
    platform = "cpu" if check.rehearse else jax.default_backend()
    with tempfile.TemporaryDirectory() as folder:
        same, counts = soak.soak(
            Path(folder),
            flags,
            ["kill"] if check.rehearse else ["kill", "kill in a save"],
            np.random.default_rng(0),
            moment=(0.0, 0.3),
            platform=platform,
        )
    check.add("digits", platform=platform, identical=same, **counts)
    if not same:
        check.fail("digits", "the two runs differ")
