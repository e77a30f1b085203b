"""Feeds damaged images, weights and configs, and pickles made to do harm, to what reads them.

    python -m dev.fuzz [--images=10000] [--weights=1000] [--pickles=1000] [--seed=0]

Each case must end in an InputError of one line or in a right result: for an image Pillow's pixels,
for weights and pickles what safetensors' reader, or a plain one of the format, finds. Any
other exception, a crash, more than 10 seconds of a processor or more than 4 GiB is a failure: its
files are kept, and the exit status is 1. The cases run in a process of their own and follow from
seed and number.
"""

import argparse
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from rich import progress

from convnext.errors import InputError, reported, require
from dev.fuzzing import images, pickles, weights

KINDS = {"images": images, "weights": weights, "pickles": pickles}
SECONDS = 10  # of a processor, for one call
HANGING = 60  # seconds after which the process is ended: the other readers take their time too
MEMORY = 4 * 2**30  # bytes that a case may need


@dataclass
class Report:
    """Of the cases of one kind."""

    accepted: int = 0
    refused: int = 0
    failures: dict[int, str] = field(default_factory=dict)  # by number
    slowest: tuple[float, int] = (0.0, 0)  # seconds, number
    growth: tuple[int, int] = (0, 0)  # bytes above what the process had at first, number


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--images", type=int, default=10_000, metavar="N")
    parser.add_argument("--weights", type=int, default=1_000, metavar="N", help="and configs")
    parser.add_argument("--pickles", type=int, default=1_000, metavar="N", help="made of nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("fuzz_failures"),
        metavar="DIR",
        help="folder for the files of failures",
    )
    arguments = parser.parse_args(argv)
    with reported():
        counts = {kind: getattr(arguments, kind) for kind in KINDS}
        reports = [fuzz(kind, n, arguments.seed, arguments.keep) for kind, n in counts.items() if n]
    sys.exit(1 if any(report.failures for report in reports) else 0)


def fuzz(kind: str, count: int, seed: int, keep: Path) -> Report:
    """Runs the cases from 0 to count, prints what came of them, and keeps the files of those that
    failed."""
    require(count >= 0 and seed >= 0, "(count, seed)", (count, seed), "0 and more")
    report, worker = Report(), _Worker(kind, seed)
    for number in progress.track(range(count), kind):
        outcome, seconds, growth = worker.run(number)
        if outcome in ("accepted", "refused"):
            setattr(report, outcome, getattr(report, outcome) + 1)
        else:
            report.failures[number] = outcome
            folder = keep / f"{kind}_{seed}_{number}"
            _write(KINDS[kind].make(_rng(seed, number)), folder)
            print(f"{kind} {number} of seed {seed}: {outcome}; kept in {folder}")
        report.slowest = max(report.slowest, (seconds, number), key=itemgetter(0))
        report.growth = max(report.growth, (growth, number), key=itemgetter(0))
    worker.close()
    print(
        f"{kind}: {report.accepted:,} accepted, {report.refused:,} refused, "
        f"{len(report.failures):,} failures; slowest {report.slowest[0]:.2f} s (number "
        f"{report.slowest[1]}), most memory {report.growth[0] / 2**20:,.0f} MiB (number "
        f"{report.growth[1]})"
    )
    return report


class _Worker:
    """A process that can be ended, and is started again where it has been or where it grew."""

    def __init__(self, kind: str, seed: int):
        self.arguments, self.process = (kind, seed), None

    def _start(self):
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.connection.recv()  # it is ready

    def run(self, number: int) -> tuple[str, float, int]:
        """ "accepted", "refused" or what is wrong; seconds; bytes."""
        if self.process is None:
            self._start()
        self.connection.send(number)
        try:
            if self.connection.poll(HANGING):
                outcome, seconds, growth = self.connection.recv()
            else:
                outcome, seconds, growth = f"no end after {HANGING} s", HANGING, 0
        except (EOFError, OSError):
            self.process.join()
            outcome, seconds, growth = f"a crash, status {self.process.exitcode}", 0.0, 0
        if not self.process.is_alive() or seconds >= HANGING or growth > MEMORY:
            self.close()
        return outcome, seconds, growth

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def _serve(connection, kind, seed):
    """In the process: numbers in, outcomes out. A first case is not measured, which loads what all
    need."""
    case(kind, seed, 0)
    first = _most_memory()
    if sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + 2 * MEMORY,) * 2)
    connection.send("ready")
    while True:
        outcome, seconds = case(kind, seed, connection.recv())
        growth = _most_memory() - first
        if seconds > SECONDS:
            outcome = f"{seconds:.1f} s, more than {SECONDS}; {outcome}"
        elif growth > MEMORY:
            outcome = f"{growth / 2**20:,.0f} MiB, more than {MEMORY // 2**20:,}; {outcome}"
        connection.send((outcome, seconds, growth))


def _most_memory():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _rng(seed, number):
    return np.random.default_rng((seed, number))


def _write(files, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def case(kind: str, seed: int, number: int) -> tuple[str, float]:
    """ "accepted", "refused" or what is wrong; seconds of the slowest call."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries', of what they could make sense of
        _write(KINDS[kind].make(_rng(seed, number)), Path(folder))
        outcomes, slowest = [], 0.0
        for read, expect in KINDS[kind].readings(Path(folder)):
            seconds, timed = _timed(read)
            outcomes.append(judged(timed, expect))
            slowest = max([slowest, *seconds])
    wrong = [outcome for outcome in outcomes if outcome not in ("accepted", "refused")]
    return "; ".join(wrong) or max(outcomes), slowest


def _timed(function):
    seconds = []

    def timed():
        begin = time.process_time()
        try:
            return function()
        finally:
            seconds.append(time.process_time() - begin)

    return seconds, timed


def judged(read: Callable[[], Any], expect: Callable[[], Any]) -> str:
    """What comes of a function that reads, beside one that finds the same in another way."""
    try:
        value = read()
    except InputError as error:
        if isinstance(error.__cause__, MemoryError):
            return f"out of memory: {error}"
        is_clear = "accepted: " in str(error) and "\n" not in str(error)
        return "refused" if is_clear else f"unclear: {error}"
    except Exception:
        return f"not an InputError: {traceback.format_exc(limit=-3)}"
    try:
        expected = expect()
    except Exception as error:
        return f"accepted, but refused elsewhere: {type(error).__name__} {error}"
    return "accepted" if value == expected else "accepted, but other than elsewhere"


if __name__ == "__main__":
    main()
