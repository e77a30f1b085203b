"""The processes of a run, on one or several hosts."""

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from convnext.errors import InputError, require

# Seconds after which a process that says nothing counts as dead, and those that are left end; and
# for which one that is done, or that had an error, waits for the others.
HEARTBEAT_TIMEOUT = 60
SHUTDOWN_TIMEOUT = 100
DEVICES = Path("/dev")
PARTING_TIMEOUT = 5
TEXT_BYTES = 2000  # that `gathered` keeps of a text


def connect(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Connects this process with the others of its run. To be called before JAX looks for devices.

    coordinator is HOST:PORT of process 0. Without arguments the environment decides: tasks of
    SLURM, ranks of Open MPI, an indexed job of Kubernetes, or hosts of a Cloud TPU become one run,
    and any other process is a run of its own, as with num_processes = 1. Raises InputError where
    the arguments do not go together, or the environment does not lead to process 0.
    """
    given = {"--coordinator": coordinator, "--num_processes": num_processes,
             "--process_id": process_id}  # fmt: skip
    if num_processes == 1 or (set(given.values()) == {None} and not _has_others(os.environ)):
        return
    timeouts = dict(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
                    shutdown_timeout_seconds=SHUTDOWN_TIMEOUT)  # fmt: skip
    if set(given.values()) == {None}:
        try:
            jax.distributed.initialize(**timeouts)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"this process is one of several, and JAX cannot connect them: {error}; accepted: "
                f"{', '.join(given)}, or --num_processes=1 for a run of its own"
            ) from error
        return
    missing = [name for name, value in given.items() if value is None]
    require(not missing, ", ".join(missing), None, f"all of {', '.join(given)}, or none")
    is_address = re.fullmatch(r"[^\s:]+:[0-9]+|\[[^\s\]]+\]:[0-9]+", coordinator)
    require(is_address, "--coordinator", coordinator, "HOST:PORT of process 0")
    require(num_processes > 0, "--num_processes", num_processes, "1 and more")
    accepted = f"0 to {num_processes - 1}"
    require(0 <= process_id < num_processes, "--process_id", process_id, accepted)
    jax.distributed.initialize(coordinator, num_processes, process_id,
                               cluster_detection_method="deactivate", **timeouts)  # fmt: skip


def _has_others(environment: Mapping[str, str]):
    """Whether a launcher says so. JAX's own detection is not asked at once, for it takes a single
    task of SLURM for one that owns a single GPU, and any pod of Kubernetes for one of a job."""

    def number(name):
        value = environment.get(name, "")
        return int(value) if value.isdecimal() else 0

    return (
        number("SLURM_STEP_NUM_TASKS") > 1
        or number("OMPI_COMM_WORLD_SIZE") > 1
        or {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()
        or _on_tpu(environment)
    )


def _on_tpu(environment):
    """Whether this host has chips: it may be one of several then, and knows that by itself."""
    if (environment.get("JAX_PLATFORMS") or "tpu").split(",")[0] != "tpu":
        return False
    has_chips = any(DEVICES.glob("accel[0-9]*")) or any(DEVICES.glob("vfio/[0-9]*"))
    return has_chips and importlib.util.find_spec("libtpu") is not None


def agreed(value: int) -> int:
    """What process 0 has, on all of them; to be called by all. Waits for the devices."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_process(flag: bool) -> bool:
    """Whether the flag of any process is true; to be called by all. Waits for the devices."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.uint32(flag), tiled=True).any())


def gathered(text: str) -> list[str]:
    """The text of each process, cut at TEXT_BYTES; to be called by all. Waits for the devices."""
    if jax.process_count() == 1:
        return [text]
    rows = multihost_utils.process_allgather(_padded(text.encode()[:TEXT_BYTES], TEXT_BYTES))
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def _padded(data, size):
    return np.frombuffer(data.ljust(size, b"\0"), np.uint8)


def raise_together(error: Exception | None) -> None:
    """Raises in every process where one has an error; to be called by all. Waits for the devices.

    A process alone raises its error, several an OSError that names those that have one.
    """
    if any_process(error is not None):
        raise_all(error)


def raise_all(error: Exception | None) -> NoReturn:
    """`raise_together`, where all know that one has an error."""
    if jax.process_count() == 1:
        raise error
    first = {}  # process with each reason
    for index, text in enumerate(gathered(reason(error) if error else "")):
        if text:
            first.setdefault(text, index)
    raise OSError("; ".join(f"process {i}: {text}" for text, i in first.items())) from None


def reason(error: BaseException) -> str:
    """One line that says what caused an error."""
    while error.__cause__:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def leave() -> NoReturn:
    """Ends this process, after an error, with status 1. Where all end with the same one, they do
    so together. Where not, they would wait for each other: this one does so for PARTING_TIMEOUT,
    and the others miss it after HEARTBEAT_TIMEOUT."""
    parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    parting.start()
    parting.join(PARTING_TIMEOUT)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
