import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from convnext.runs import interruption
from tests.helpers.inputs import refused

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_the_first_signal_is_noted_and_the_handler_before_comes_back(number):
    before, read_by = signal.getsignal(number), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(read_by)
    with interruption.Interruption() as interrupted:
        assert not interrupted.stops_after(1)
        os.kill(os.getpid(), number)
        assert interrupted.stops_after(2) and interrupted.stops_after(3)
    assert signal.getsignal(number) is before and signal.set_wakeup_fd(read_by) == read_by


TWICE = """
import os, signal
from convnext import interruption
with interruption.Interruption() as interrupted:
    interrupted.stops_after(1)
    os.kill(os.getpid(), signal.SIGINT)
    print("goes on", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("too far")
"""
SAID = "{}: the run saves and stops; a second one stops it at once\n"


def test_a_second_signal_ends_the_process_at_once():
    result = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True,
                            text=True, timeout=60)  # fmt: skip
    assert result.returncode == -signal.SIGTERM
    assert result.stdout == "goes on\n"
    assert result.stderr in ("", SAID.format("SIGINT"))  # as far as the listener came


# A lock taken twice. What Python would do when a signal comes, it does after the call.
IN_NATIVE_CODE = """
import ctypes
from convnext import interruption
lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
with interruption.Interruption() as interrupted:
    interrupted.stops_after(1)
    lock(mutex)
    print("waits", flush=True)
    lock(mutex)
"""


def test_both_signals_are_heard_while_the_main_thread_is_in_native_code():
    with subprocess.Popen([sys.executable, "-c", IN_NATIVE_CODE], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        stuck = threading.Timer(60, process.kill)
        stuck.start()
        assert process.stdout.readline() == "waits\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == SAID.format("SIGTERM")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        stuck.cancel()


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_before_the_first_step_there_is_nothing_to_save(number, monkeypatch, capfd):
    with pytest.raises(SystemExit) as raised, interruption.Interruption():
        os.kill(os.getpid(), number)
    assert raised.value.code == 75
    name = signal.Signals(number).name
    assert capfd.readouterr().err.startswith(f"{name}: the run ends before its first step;")
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)  # others must agree
    with interruption.Interruption() as interrupted:
        os.kill(os.getpid(), number)
        assert interrupted.received


def test_several_processes_stop_where_what_any_of_them_knew_has_reached_all(monkeypatch):
    """After so many steps, or batches of an evaluation after one."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    known = [False, True] + [False] * interruption.STEPS_BEHIND  # to the other one
    monkeypatch.setattr(interruption, "_any_process", lambda flag: np.bool_(known.pop(0) or flag))
    interrupted = interruption.Interruption()
    stops = [interrupted.stops_after(7) for _ in range(interruption.STEPS_BEHIND + 2)]
    assert stops == [False] * (interruption.STEPS_BEHIND + 1) + [True]


def test_a_run_diverges_where_too_many_updates_in_a_row_are_skipped():
    counts = [0, 1, 0, 1, 2, 3, 4, 5]
    divergence = interruption.Divergence(max_skipped=3)
    behind = interruption.STEPS_BEHIND
    stops = [
        divergence.stops_after(1 + i, np.int32(c)) for i, c in enumerate(counts + behind * [6])
    ]
    assert stops == [False] * (5 + behind) + [True] * 3
    assert divergence.message.startswith("loss or gradients were not finite at steps 4 to 8, and")
    assert divergence.message.endswith("the state after step 16 is saved")
    refused("max_skipped is 0; accepted: 1 and more", interruption.Divergence, 0)


def test_the_last_steps_of_a_run_may_diverge_too():
    divergence = interruption.Divergence(max_skipped=3)
    stops = [divergence.stops_after(step, np.int32(step), last=step == 4) for step in range(1, 5)]
    assert stops == [False, False, False, True]
    assert "not finite at steps 1 to 4, and" in divergence.message
