"""The shared memory through which workers hand over images: whether there is enough of it, and what
runs that were killed have left there.

Python removes it when a run ends, however it ends, but for a SIGKILL of all of its processes. So
the names say whose it is: convnext-NAMESPACE-PROCESS-..., of the process that the workers work for.
"""

import os
import re
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import shared_memory
from pathlib import Path

from convnext.errors import InputError

FOLDER = Path("/dev/shm")  # Linux's
ACCEPTED = (
    "more of it (docker run --shm-size=2g; in Kubernetes an emptyDir of medium Memory at "
    "/dev/shm), fewer workers, or num_workers=0, which needs none"
)


def check(nbytes: int, num_workers: int) -> None:
    """Raises InputError where fewer bytes are free."""
    if (free := _free()) is not None and free < nbytes:
        raise InputError(
            f"{num_workers} workers take up to {nbytes / 1e6:,.0f} MB of shared memory, and "
            f"{FOLDER} has {free / 1e6:,.0f} MB",
            ACCEPTED,
        )


def exhausted() -> InputError:
    """Makes the error for a worker that found no more of it, which the system ends by SIGBUS."""
    free = _free() or 0
    return InputError(
        f"a worker was ended as shared memory ran out, of which {FOLDER} has {free / 1e6:,.0f} MB "
        f"now",
        ACCEPTED,
    )


def _free():
    try:
        found = os.statvfs(FOLDER)
    except FileNotFoundError:
        return None
    return found.f_bavail * found.f_frsize


def owner() -> str | None:
    """Names this process as no other one on this machine is named; None where there is no /proc."""
    try:
        return f"convnext-{_namespace()}-{os.getpid()}"
    except OSError:
        return None


def name_after(owner: str) -> None:
    """Names the segments that this process makes from now on after their owner."""
    # Python has no public way to name those that a library makes.
    shared_memory._make_filename = lambda: f"/{owner}-{secrets.token_hex(8)}"


def remove_left_over(folders: Iterable[Path]) -> tuple[int, int]:
    """Removes the files that are named after an owner that is no more, of this user and this
    namespace. How many, and of how many bytes."""
    count = nbytes = 0
    for path in [path for folder in folders for path in folder.glob("convnext-*")]:
        with suppress(OSError):  # gone, as another run removes it at the same time
            found = path.lstat()
            if _is_left_over(path.name, found):
                path.unlink()
                count, nbytes = count + 1, nbytes + found.st_size
    return count, nbytes


def _is_left_over(name, found):
    parts = re.fullmatch(r"convnext-(\d+)-(\d+)-\w+", name)
    # Of the processes of another namespace nothing is known.
    if not parts or int(parts[1]) != _namespace():
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return False
    try:
        os.kill(int(parts[2]), 0)  # asks whether there is one, or another of its number by now
    except ProcessLookupError:
        return True
    return False


def _namespace():
    """Identifies the namespace in which the numbers of processes mean something."""
    return os.stat("/proc/self/ns/pid").st_ino
