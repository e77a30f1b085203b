import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convnext import interruption
from tests.inputs import refused

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("number", interruption.SIGNALS)
def test_the_first_signal_is_noted_and_the_handler_before_comes_back(number):
    before = signal.getsignal(number)
    with interruption.Interruption() as interrupted:
        assert not interrupted.stops_after(1)
        os.kill(os.getpid(), number)
        assert interrupted.stops_after(2) and interrupted.stops_after(3)
    assert signal.getsignal(number) is before


TWICE = """
import os, sys, signal
from convnext import interruption
first, second = (signal.Signals[name] for name in sys.argv[1:])
with interruption.Interruption() as interrupted:
    interrupted.stops_after(1)
    os.kill(os.getpid(), first)
    print("goes on", flush=True)
    os.kill(os.getpid(), second)
    print("too far")
"""


@pytest.mark.parametrize("first, second", [("SIGTERM", "SIGTERM"), ("SIGINT", "SIGTERM")])
def test_a_second_signal_ends_the_process_at_once(first, second):
    result = subprocess.run([sys.executable, "-c", TWICE, first, second], cwd=ROOT,
                            capture_output=True, text=True, timeout=60)  # fmt: skip
    assert result.returncode == -signal.Signals[second]
    assert result.stdout == "goes on\n"
    assert result.stderr == f"{first}: the run saves and stops; a second one stops it at once\n"


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
