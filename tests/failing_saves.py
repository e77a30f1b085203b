"""Three saves, of which the second meets a fault: python -m tests.failing_saves WORKDIR FAULT
ON_SAVE_ERROR."""

import ctypes
import resource
import signal
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from convnext import checkpoint
from convnext.errors import reported


def full_disk(workdir: Path, begins: bool) -> None:
    """No file may grow beyond 100 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = 100_000 if begins else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


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
    fault = {"full_disk": full_disk, "read_only": read_only}[fault]
    state = {"noise": jnp.asarray(np.random.default_rng(0).random(300_000, np.float32))}
    with checkpoint.Checkpoints(workdir, keep=3, best_metric="val/top1",
                                on_save_error=on_save_error) as checkpoints:  # fmt: skip
        checkpoints.save(1, state)
        checkpoints._finish()
        fault(workdir, True)
        checkpoints.save(2, state)
        checkpoints._finish()
        print("at step", checkpoint.latest_step(workdir))
        fault(workdir, False)
        checkpoints.save(3, state)
    print("at step", checkpoint.latest_step(workdir))


if __name__ == "__main__":
    with reported():
        main(Path(sys.argv[1]), *sys.argv[2:])
