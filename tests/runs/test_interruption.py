import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from convnext import hosts
from convnext.errors import RunError
from convnext.runs import interruption

ROOT = Path(__file__).parents[2]


OK = np.int32(0)  # updates skipped in a row


@pytest.mark.parametrize("number", hosts.SIGNALS)
def test_the_first_signal_is_noted_and_the_handler_before_comes_back(number):
    before, read_by = signal.getsignal(number), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(read_by)
    with interruption.Watch() as watch:
        assert not watch.stops_after(1, OK, 3) and not watch.interrupted()
        watch.leave()
        os.kill(os.getpid(), number)
        assert watch.stops_after(2, OK, 3) and watch.stops_after(3, OK, 3) and watch.interrupted()
    assert signal.getsignal(number) is before and signal.set_wakeup_fd(read_by) == read_by
    with pytest.raises(SystemExit) as raised:
        watch.leave()
    assert raised.value.code == interruption.EXIT_STATUS == 75


def test_a_run_that_is_stopped_in_an_evaluation_leaves_as_one_after_a_step():
    watch = interruption.Watch()
    assert not watch.stops_after(1, OK, 3)
    watch.received = True
    assert watch.interrupted()
    with pytest.raises(SystemExit):
        watch.leave()


def test_a_signal_in_the_last_step_or_its_evaluation_finds_a_finished_run():
    watch = interruption.Watch()
    assert not watch.stops_after(1, OK, 3)
    watch.received = True
    assert not watch.stops_after(2, OK, 3, last=True)
    assert not watch.interrupted()
    watch.leave()


TWICE = """
import os, signal
from convnext.runs import interruption
with interruption.Watch() as watch:
    watch.stops_after(1, 0, 3)
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
from convnext.runs import interruption
lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
with interruption.Watch() as watch:
    watch.stops_after(1, 0, 3)
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


@pytest.mark.parametrize("number", hosts.SIGNALS)
def test_before_the_first_step_there_is_nothing_to_save(number, monkeypatch, capfd):
    with pytest.raises(SystemExit) as raised, interruption.Watch():
        os.kill(os.getpid(), number)
    assert raised.value.code == 75
    name = signal.Signals(number).name
    assert capfd.readouterr().err.startswith(f"{name}: the run ends before its first step;")
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)  # others must agree
    with interruption.Watch() as watch:
        os.kill(os.getpid(), number)
        assert watch.received


def test_once_an_evaluation_has_asked_a_signal_is_noted_also_before_the_first_step():
    with interruption.Watch() as watch:
        assert not watch.interrupted()
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.interrupted()


def test_several_processes_stop_where_what_any_of_them_knew_has_reached_all(monkeypatch):
    """After so many steps and batches of an evaluation together."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    known = [False, True] + [False] * hosts.STEPS_BEHIND  # to the other one
    monkeypatch.setattr(hosts, "all_rows", lambda flags: np.append(flags, known.pop(0)))
    watch = interruption.Watch()
    stops = [watch.stops_after(1, OK, 3), watch.stops_after(2, OK, 3)]
    stops += [watch.interrupted() for _ in range(hosts.STEPS_BEHIND)]
    assert stops == [False] * (hosts.STEPS_BEHIND + 1) + [True] and known == []


def test_the_request_of_this_process_waits_for_the_others_too(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    monkeypatch.setattr(hosts, "all_rows", lambda flags: np.append(flags, False))
    watch = interruption.Watch()
    watch.received = True
    stops = [watch.stops_after(step, OK, 3) for step in range(hosts.STEPS_BEHIND + 1)]
    assert stops == [False] * hosts.STEPS_BEHIND + [True]


def test_a_run_diverges_where_too_many_updates_in_a_row_are_skipped():
    counts = [0, 1, 0, 1, 2, 3, 4, 5]
    watch = interruption.Watch()
    behind = hosts.STEPS_BEHIND
    stops = [
        watch.stops_after(1 + i, np.int32(c), max_skipped=3)
        for i, c in enumerate(counts + behind * [6])
    ]
    assert stops == [False] * (5 + behind) + [True] * 3
    message = r"^loss or gradients were not finite at steps 4 to 8, and max_skipped is 3; "
    with pytest.raises(RunError, match=rf"{message}the state after step 16 is saved$"):
        watch.leave()


def test_the_last_steps_of_a_run_may_diverge_too():
    watch = interruption.Watch()
    for step in range(1, 5):
        assert not watch.stops_after(step, np.int32(step), max_skipped=3, last=step == 4)
    with pytest.raises(RunError, match="not finite at steps 1 to 4, and"):
        watch.leave()
