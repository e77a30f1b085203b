"""What ends a run early: a signal of a scheduler or a keyboard, or updates that are not finite.

Nothing here waits for the devices: what they compute is looked at hosts.STEPS_BEHIND steps later.
"""

import ctypes
import os
import signal
import sys
import threading
from types import FrameType

import jax
import numpy as np

from convnext import hosts
from convnext.errors import RunError

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: the same command again resumes the run


class Watch:
    """Decides where a run stops before its last step; a context manager, in which it hears signals.

    The first signal stops the run after the step at hand, so that its state is saved. A second one
    ends the process at once, whatever it is doing. Before the first step nothing needs to be saved:
    there the first signal raises SystemExit with EXIT_STATUS, unless there are other processes to
    agree with. Entered outside of the main thread it hears nothing, as Python runs no handlers
    there.

        with interruption.Watch() as watch:
            for step, batch in enumerate(batches, 1):
                ...
                if watch.stops_after(step, skipped_in_a_row, max_skipped, last=step == num_steps):
                    break  # having saved the state
            watch.leave()
    """

    def __init__(self) -> None:
        self.received = False  # a signal, by this process
        self._divergence: str | None = None
        self._stopped = self._stepped = self._finished = False
        self._requests, self._skipped = hosts.Behind(), hosts.Behind()

    def stops_after(
        self, step: int, skipped_in_a_row: jax.Array, max_skipped: int, last: bool = False
    ) -> bool:
        """Whether the run stops after this step; to be called after each, by all processes.

        skipped_in_a_row: int32 [], as the step returns it. Where it reaches max_skipped, 1 and
        more, the run diverges. It is looked at STEPS_BEHIND steps later, after the last step at
        once. The last step is never stopped after: a signal there finds a finished run, and `leave`
        raises where it diverged.
        """
        self._stepped, self._finished = True, last
        counts = self._skipped.put((step, skipped_in_a_row))
        for at, count in counts + (self._skipped.drain() if last else []):
            count = int(count)
            if count >= max_skipped:
                self._divergence = (
                    f"loss or gradients were not finite at steps {at - count + 1} to {at}, and "
                    f"max_skipped is {max_skipped}; the state after step {step} is saved"
                )
        diverges = self._divergence is not None and not last
        self._stopped = self.interrupted() or diverges
        return self._stopped

    def interrupted(self) -> bool:
        """Whether a signal stops the run here; to be called before each batch of an evaluation, by
        all processes. After the last step nothing is left to stop.

        One process knows at once. Several look at what was known, to any of them, STEPS_BEHIND
        calls before, so that they agree on where to stop and none waits for the others.
        """
        self._stepped = True
        if self._finished:
            return False
        if jax.process_count() == 1:
            stops = self.received
        else:
            flags = hosts.all_rows(np.full(jax.local_device_count(), self.received, np.int32))
            stops = any(np.asarray(known).any() for known in self._requests.put(flags))
        self._stopped = self._stopped or stops
        return stops

    def leave(self) -> None:
        """Ends a run that was stopped: raises SystemExit with EXIT_STATUS, or RunError where it
        diverged. Returns where it went to its end; to be called once what it made is saved."""
        if self._divergence:
            raise RunError(self._divergence)
        if self._stopped:
            raise SystemExit(EXIT_STATUS)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._receive()
        if self._ends():
            raise SystemExit(EXIT_STATUS)

    def _receive(self) -> None:
        self.received = True
        # From here on the next signal ends the process. signal.signal would say so, but only in the
        # main thread, which may be in native code for minutes; this is what it calls, and it works
        # in any thread. None is SIG_DFL.
        for number in hosts.SIGNALS:
            ctypes.pythonapi.PyOS_setsig(number, None)

    def _ends(self) -> bool:
        return not (self._stepped or jax.distributed.is_initialized())

    def _listen(self, file: int) -> None:
        """Reads the number of each signal, which Python writes to the file when it comes."""
        is_second = False
        while number := int.from_bytes(os.read(file, 1)):
            if number not in hosts.SIGNALS:
                continue
            self._receive()
            if is_second:  # it came before the first one was received
                os.kill(os.getpid(), number)
            is_second = True
            does = "ends before its first step" if self._ends() else "saves and stops"
            name = signal.Signals(number).name
            message = f"{name}: the run {does}; a second one stops it at once"
            print(message, file=sys.stderr, flush=True)
        os.close(file)

    def __enter__(self) -> "Watch":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            # Python runs a handler when the main thread is back from native code, and a compilation
            # or a wait for the devices takes minutes. What it does at once is to write the number
            # of the signal to a file. So a thread reads that, and answers whoever pressed Ctrl-C.
            listened, self._told = os.pipe()
            os.set_blocking(self._told, False)
            self._listener = threading.Thread(target=self._listen, args=(listened,), daemon=True)
            self._listener.start()
            self._told_before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
            # None is one of those that JAX sets in C++ where there are several processes.
            self._before = {
                number: signal.signal(number, self._note) or signal.SIG_DFL
                for number in hosts.SIGNALS
            }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._before:
            signal.set_wakeup_fd(self._told_before)
            os.close(self._told)
            self._listener.join()
