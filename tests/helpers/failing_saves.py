"""A log and three saves, of which the second meets a fault.

python -m tests.helpers.failing_saves WORKDIR FAULT ON_SAVE_ERROR
"""

import ctypes
import resource
import signal
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from convnext.data.epochs import Epochs
from convnext.errors import reported
from convnext.runs import checkpoint
from convnext.runs import log as logs


def full_disk(workdir: Path, begins: bool, limit: int = 0) -> None:
    """No file may grow beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = limit if begins else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def almost_full_disk(workdir: Path, begins: bool) -> None:
    """The log has room, the state has not."""
    full_disk(workdir, begins, limit=100_000)


def read_only(workdir: Path, begins: bool) -> None:
    (workdir / "checkpoints").chmod(0o555 if begins else 0o755)


def obey_modes() -> None:
    """Of files, as root need not: threads that begin later are without these capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for place in (0, 1):  # what is in effect, and what is permitted
        sets[place] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc.capset(header, sets)


def main(workdir: Path, fault: str, on_save_error: str) -> None:
    obey_modes()
    begins_or_ends = {"full_disk": full_disk, "almost_full_disk": almost_full_disk,
                      "read_only": read_only}[fault]  # fmt: skip
    state = {"noise": jnp.asarray(np.random.default_rng(0).random(300_000, np.float32))}
    with (
        checkpoint.Checkpoints(workdir, keep=2, best="val/top1",
                               on_save_error=on_save_error) as checkpoints,
        logs.Log(workdir, 0, Epochs(90, 1, num_epochs=1), {}, "val/top1", every_steps=1) as log,
    ):  # fmt: skip

        def train_and_save(first, last):
            for step in range(first, last + 1):
                log.step(step, {"loss": jnp.float32(step), "grad_norm": jnp.float32(step)})
            checkpoints.save(last, state, before=log.to_disk)
            checkpoints._finish()

        train_and_save(1, 10)
        begins_or_ends(workdir, True)
        train_and_save(11, 80)
        print("at step", checkpoint.latest_step(workdir))
        begins_or_ends(workdir, False)
        train_and_save(81, 90)
    print("at step", checkpoint.latest_step(workdir))
    print("lines", [line["step"] for line in logs.read(workdir / "metrics.jsonl")])


if __name__ == "__main__":
    with reported():
        main(Path(sys.argv[1]), *sys.argv[2:])
