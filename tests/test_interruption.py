import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from convnext import interruption

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
with interruption.Interruption():
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
