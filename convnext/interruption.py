"""Signals that end a run early: SIGTERM of a scheduler, SIGINT of a keyboard."""

import os
import signal
import sys
import threading
from collections import deque
from functools import cache
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command again goes on
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STEPS_BEHIND = 8


class Interruption:
    """A context manager in which the first signal is noted, and a second one ends the process at
    once. Outside of the main thread it notes nothing, as Python runs no handlers there."""

    def __init__(self) -> None:
        self.received = False
        self._flags: deque[jax.Array] = deque()

    def stops_after(self, step: int) -> bool:
        """Whether the run is to end after this step; to be called after each, by all processes.

        One process knows at once. Several look at what was known, to any of them, STEPS_BEHIND
        steps before, so that they agree on the step and none waits for the others.
        """
        if jax.process_count() == 1:
            return self.received
        self._flags.append(_any_process(self.received))
        return len(self._flags) > STEPS_BEHIND and bool(self._flags.popleft())

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received = True
        # Not print, which must not be entered twice.
        os.write(sys.stderr.fileno(), f"{name}: the run saves and stops; a second one stops it "
                 "at once\n".encode())  # fmt: skip

    def __enter__(self) -> "Interruption":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _any_process(flag):
    """Whether any process says so: a scalar on every device, which nobody has waited for."""
    by_device, largest = _reduction()
    local = np.full(jax.local_device_count(), flag, np.int32)
    return largest(jax.make_array_from_process_local_data(by_device, local))


@cache
def _reduction():
    mesh = jax.make_mesh((jax.device_count(),), ("devices",), axis_types=(AxisType.Auto,))
    replicated = NamedSharding(mesh, P())
    return NamedSharding(mesh, P("devices")), jax.jit(jnp.max, out_shardings=replicated)
