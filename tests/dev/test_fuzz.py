"""A short form of `python -m dev.fuzz`."""

import re
import resource
import sys
from types import SimpleNamespace

import pytest

from convnext.errors import InputError
from dev import fuzz
from tests.helpers import failing


@pytest.mark.parametrize("kind, count", [("images", 300), ("weights", 60), ("pickles", 60)])
def test_damaged_files_end_in_a_clear_error_or_a_right_result(kind, count):
    outcomes = [fuzz.case(kind, 1, number)[0] for number in range(count)]
    wrong = {n: text for n, text in enumerate(outcomes) if text not in ("accepted", "refused")}
    assert not wrong
    assert min(outcomes.count("accepted"), outcomes.count("refused")) > count / 10


def test_what_is_wrong_is_told():
    def raises(error):
        def function():
            raise error

        return function

    def judged(read, expect=lambda: 1):
        return fuzz.judged(read, expect)

    assert judged(lambda: 1) == "accepted"
    assert judged(raises(InputError("it is x", "y"))) == "refused"
    assert judged(raises(InputError("no"))) == "unclear: no"
    assert judged(raises(KeyError("k"))).startswith("not an InputError: ")
    assert judged(lambda: 2) == "accepted, but other than elsewhere"
    elsewhere = judged(lambda: 1, raises(OSError("truncated")))
    assert elsewhere == "accepted, but refused elsewhere: OSError truncated"


@pytest.mark.parametrize(
    "limit, found",
    [({"SECONDS": -1}, r"0\.0 s, more than -1; accepted"),
     ({"MEMORY": -1}, r"[\d,]+ MiB, more than -1; accepted"),
     ({}, "accepted")],
)  # fmt: skip
def test_time_and_memory_are_limited(monkeypatch, limit, found):
    """By the process that runs the cases; here by this one."""
    for name, value in limit.items():
        monkeypatch.setattr(fuzz, name, value)
    limits = []
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda kind, both: limits.append((kind, both)))
    monkeypatch.setattr(fuzz, "case", lambda *_: ("accepted", 0.0))
    numbers, outcomes = iter([3]), []
    connection = SimpleNamespace(recv=lambda: next(numbers), send=outcomes.append)
    with pytest.raises(StopIteration):
        fuzz._serve(connection, "images", 0)
    ready, (outcome, seconds, growth) = outcomes
    assert ready == "ready" and re.fullmatch(found, outcome) and seconds == 0 <= growth
    if sys.platform == "linux":
        ((kind, (soft, hard)),) = limits
        assert kind == resource.RLIMIT_AS and soft == hard > 2 * fuzz.MEMORY


def test_a_process_that_hangs_or_crashes_is_found_and_replaced(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(fuzz, "HANGING", 0.5)
    monkeypatch.setattr(fuzz, "_serve", failing.serve)
    report = fuzz.fuzz("images", 3, seed=0, keep=tmp_path)
    assert (report.accepted, report.refused, report.slowest[1]) == (1, 0, 1)
    assert report.failures == {1: "no end after 0.5 s", 2: "a crash, status 7"}
    assert (tmp_path / "images_0_1" / "image").exists()
    assert "images 2 of seed 0: a crash, status 7; kept in " in capsys.readouterr().out
