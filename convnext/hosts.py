"""The processes of a run, on one or several hosts."""

import hashlib
import importlib.util
import json
import os
import re
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from convnext import sharding
from convnext.errors import InputError, require

SIGNALS = (signal.SIGTERM, signal.SIGINT)  # with which a scheduler or a keyboard stops a run
# Steps that a host may be ahead of its devices. What they compute is looked at so many steps later:
# by then it is there, and no step waits for it.
STEPS_BEHIND = 8
# Seconds after which a process that says nothing counts as dead, and those that are left end; and
# for which one that is done, or that had an error, waits for the others.
HEARTBEAT_TIMEOUT = 60
SHUTDOWN_TIMEOUT = 100
DEVICES = Path("/dev")
PARTING_TIMEOUT = 5
# Fields that each process may have its own value of, with all that is in them.
OWN = ("config.data.root", "config.log", "config.num_workers")
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
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    if num_processes == 1 or (set(given.values()) == {None} and not _has_others(os.environ)):
        return
    timeouts = dict(
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT, shutdown_timeout_seconds=SHUTDOWN_TIMEOUT
    )
    if set(given.values()) == {None}:
        try:
            jax.distributed.initialize(**timeouts)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"this process is one of several, and JAX cannot connect them: {error}",
                f"{', '.join(given)}, or --num_processes=1 for a run of its own",
            ) from error
        return
    missing = [name for name, value in given.items() if value is None]
    require(not missing, ", ".join(missing), None, f"all of {', '.join(given)}, or none")
    is_address = re.fullmatch(r"[^\s:]+:[0-9]+|\[[^\s\]]+\]:[0-9]+", coordinator)
    require(is_address, "--coordinator", coordinator, "HOST:PORT of process 0")
    require(num_processes > 0, "--num_processes", num_processes, "1 and more")
    accepted = f"0 to {num_processes - 1}"
    require(0 <= process_id < num_processes, "--process_id", process_id, accepted)
    jax.distributed.initialize(
        coordinator, num_processes, process_id, cluster_detection_method="deactivate", **timeouts
    )


def _has_others(environment: Mapping[str, str]):
    """Returns whether a launcher started several processes.

    JAX's own detection is not asked at once, for it takes a single task of SLURM for one that owns
    a single GPU, and any pod of Kubernetes for one of a job.
    """

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
    """Returns whether this host has chips: one of several hosts then knows that by itself."""
    if (environment.get("JAX_PLATFORMS") or "tpu").split(",")[0] != "tpu":
        return False
    has_chips = any(DEVICES.glob("accel[0-9]*")) or any(DEVICES.glob("vfio/[0-9]*"))
    return has_chips and importlib.util.find_spec("libtpu") is not None


def agreed(value: int) -> int:
    """Returns what process 0 has, on all of them; to be called by all. Waits for the devices."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_process(flag: bool) -> bool:
    """Returns whether any process has a true flag; to be called by all. Waits for the devices."""
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


def all_rows(rows: np.ndarray) -> np.ndarray | jax.Array:
    """The rows [n, ...] of every process, one after the other; to be called by all. Does not wait,
    unlike the functions above: look at the array when it comes out of a `Behind`.

    n is the same in all processes, and a multiple of the devices of one.
    """
    if jax.process_count() == 1:
        return rows
    by_device, gather = _gathering()
    return gather(jax.make_array_from_process_local_data(by_device, rows))


@cache
def _gathering():
    mesh = sharding.make_mesh()
    everywhere = sharding.replicated(mesh)
    return sharding.batch_sharding(mesh), jax.jit(lambda rows: rows, out_shardings=everywhere)


class Behind:
    """A queue of values that are looked at `steps` values later."""

    # The loop runs ahead of the devices: it hands over a step and goes on while they compute.
    # Looking at a value that is not there yet would make it wait until they have caught up, in
    # every step. So a value is put here, and comes out when it has long been computed.

    def __init__(self, steps: int = STEPS_BEHIND):
        self.steps = steps
        self._values: deque[Any] = deque()

    def put(self, value: Any) -> list[Any]:
        """Takes a value. Returns the one that is due, in a list; an empty list at first."""
        self._values.append(value)
        return [self._values.popleft()] if len(self._values) > self.steps else []

    def drain(self) -> list[Any]:
        """Empties the queue. Returns what was in it, in order."""
        values = list(self._values)
        self._values.clear()
        return values


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


def require_same(values: Callable[[], Mapping[str, Any]]) -> None:
    """Raises InputError in every process where one has other values than process 0, but for OWN;
    to be called by all. The message names that process, what differs, and both values.

    values: makes what is compared, of types that JSON has; not called by a process alone.
    """
    if jax.process_count() == 1:
        return
    ours = json.loads(json.dumps(_without_own(values())))
    digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode())
    if len(set(gathered(digest.hexdigest()))) == 1:
        return
    reference = json.loads(_of_process_0(json.dumps(ours)))
    said = gathered("" if ours == reference else _difference(ours, reference))
    index = next(index for index, text in enumerate(said) if text)
    what, value, expected = json.loads(said[index])
    raise InputError(
        f"{what} is {value} in process {index} and {expected} in process 0",
        "the same config, flags and data in all processes of a run",
    )


def _without_own(value, prefix=""):
    if not isinstance(value, Mapping):
        return value
    return {
        name: _without_own(each, f"{prefix}{name}.")
        for name, each in value.items()
        if f"{prefix}{name}" not in OWN
    }


def _of_process_0(text):
    data = text.encode()
    size = agreed(len(data))
    if jax.process_index():
        data = b""
    return multihost_utils.broadcast_one_to_all(_padded(data, size)).tobytes().decode()


def _difference(ours, reference, name=""):
    """Returns what differs first, and both values, in JSON."""
    sides = [
        {f"[{index}]": each for index, each in enumerate(side)} if isinstance(side, list) else side
        for side in (ours, reference)
    ]
    if not all(isinstance(side, dict) for side in sides):
        return json.dumps([name, *(repr(side)[:100] for side in (ours, reference))])
    pairs = ((key, *(side.get(key, "(missing)") for side in sides)) for key in sides[1] | sides[0])
    key, *values = next(pair for pair in pairs if pair[1] != pair[2])
    separator = "." if name and isinstance(ours, dict) else ""
    return _difference(*values, f"{name}{separator}{key}")


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
