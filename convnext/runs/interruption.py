"""What ends a run early: SIGTERM of a scheduler, SIGINT of a keyboard, updates without numbers.

Nothing here waits for the device: what it computes is read STEPS_BEHIND steps later.
"""

import ctypes
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

from convnext import sharding
from convnext.errors import require

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command again goes on
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STEPS_BEHIND = 8  # no fewer than log.STEPS_AHEAD: these have been made


class Interruption:
    """A context manager in which the first signal is noted, and a second one ends the process at
    once. Before the first step, when there is nothing to save, the first one raises SystemExit
    with EXIT_STATUS, unless there are other processes to agree with.

    Python runs a handler only when the main thread is back from native code, which may take
    minutes. So a thread listens, too: it says the first signal, and lets the second one end the
    process, whatever the main thread is doing.

    Outside of the main thread it notes nothing, as Python runs no handlers there.
    """

    def __init__(self) -> None:
        self.received = False
        self._stepped = False
        self._flags: deque[jax.Array] = deque()

    def stops_after(self, step: int) -> bool:
        """Whether the run is to end after this step; to be called after each, and before each batch
        of an evaluation after it, by all processes.

        One process knows at once. Several look at what was known, to any of them, STEPS_BEHIND
        calls before, so that they agree on where to stop and none waits for the others.
        """
        self._stepped = True
        if jax.process_count() == 1:
            return self.received
        self._flags.append(_any_process(self.received))
        return len(self._flags) > STEPS_BEHIND and bool(self._flags.popleft())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._receive()
        if self._ends():
            raise SystemExit(EXIT_STATUS)

    def _receive(self) -> None:
        self.received = True
        for number in SIGNALS:
            ctypes.pythonapi.PyOS_setsig(number, None)  # signal.signal, but in any thread

    def _ends(self) -> bool:
        return not (self._stepped or jax.distributed.is_initialized())

    def _listen(self, file: int) -> None:
        """Python writes the number of each signal to the file when it comes."""
        said = False
        while number := int.from_bytes(os.read(file, 1)):
            if number not in SIGNALS:
                continue
            self._receive()
            if said:  # it came before the first one was received
                os.kill(os.getpid(), number)
            said = True
            does = "ends before its first step" if self._ends() else "saves and stops"
            name = signal.Signals(number).name
            print(f"{name}: the run {does}; a second one stops it at once", file=sys.stderr,
                  flush=True)  # fmt: skip
        os.close(file)

    def __enter__(self) -> "Interruption":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            listened, self._told = os.pipe()
            os.set_blocking(self._told, False)
            self._listener = threading.Thread(target=self._listen, args=(listened,), daemon=True)
            self._listener.start()
            self._told_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
            # None is one of those that JAX sets in C++ where there are several processes.
            self._before = {
                number: signal.signal(number, self._note) or signal.SIG_DFL for number in SIGNALS
            }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._told_before)
            os.close(self._told)
            self._listener.join()


class Divergence:
    """Counts down to the end of a run in which updates are skipped (steps.train_step)."""

    def __init__(self, max_skipped: int):
        require(max_skipped > 0, "max_skipped", max_skipped, "1 and more")
        self.max_skipped = max_skipped
        self.message: str | None = None  # what happened, if the run is to end
        self._counts: deque[tuple[int, jax.Array]] = deque()

    def stops_after(self, step: int, skipped_in_a_row: jax.Array, last: bool = False) -> bool:
        """Whether the run is to end after this step; to be called after each."""
        self._counts.append((step, skipped_in_a_row))
        while len(self._counts) > (0 if last else STEPS_BEHIND):
            at, skipped_in_a_row = self._counts.popleft()
            count = int(skipped_in_a_row)
            if count >= self.max_skipped:
                self.message = (
                    f"loss or gradients were not finite at steps {at - count + 1} to {at}, and "
                    f"max_skipped is {self.max_skipped}; the state after step {step} is saved"
                )
        return self.message is not None


def _any_process(flag):
    """Whether the flag of any process is true: an array, not waited for."""
    by_device, largest = _reduction()
    local = np.full(jax.local_device_count(), flag, np.int32)
    return largest(jax.make_array_from_process_local_data(by_device, local))


@cache
def _reduction():
    mesh = sharding.make_mesh()
    largest = jax.jit(jnp.max, out_shardings=sharding.replicated(mesh))
    return sharding.of_batch(mesh), largest
