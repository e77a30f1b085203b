"""Checks and measures what only an NVIDIA GPU can say, part after part, within a deadline.

    bash scripts/gpu_check.sh --out=FOLDER [--deadline=400] [--parts correct layers ...]
    bash scripts/gpu_check.sh --out=FOLDER --rehearse

A part is left out where the time that remains is too short for it, and one that fails is named and
the next one starts. Each cell is a line of FOLDER/gpu.jsonl at once; tables come last, also in
FOLDER/tables.md. --rehearse needs no GPU: shapes are tiny, programs of kernels are lowered for one,
and compiled where the CUDA plugin is there, and the rest runs on the CPU.
"""

import argparse
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from convnext.errors import reported, require
from dev.gpu_checks import Check, counters, kernels, models, runs

# The seconds that each needs, in the order of what has been measured least.
PARTS: Mapping[str, tuple[Callable[[Check], None], float]] = {
    "facts": (kernels.facts, 10),
    "correct": (kernels.correct, 40),
    "base_inference": (models.part("base", "inference", 128), 90),
    "digits": (runs.digits, 70),
    "tiny_training": (models.part("tiny", "training", 256), 130),
    "layers": (kernels.layers, 60),
    "base_training": (models.part("base", "training", 128), 190),
    "v2_tiny_training": (models.part("v2_tiny", "training", 256), 150),
    "tiny_inference": (models.part("tiny", "inference", 256), 90),
    "precision": (models.precision, 60),
    "counters": (counters.counters, 40),
}
GRACE = 30  # seconds after the deadline, in which a part may end


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="bash scripts/gpu_check.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is measured")
    parser.add_argument("--deadline", type=float, default=400, help="seconds for all of it")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART")
    parser.add_argument("--rehearse", action="store_true", help="tiny, and without a GPU")
    arguments = parser.parse_args(argv)
    with reported():
        require(arguments.deadline > 0, "--deadline", arguments.deadline, "more than 0")
        arguments.out.mkdir(parents=True, exist_ok=True)
        check = Check(arguments.out, arguments.deadline, arguments.rehearse)
        # A compilation cannot be interrupted: the tables come out, and the process ends.
        watch = threading.Timer(arguments.deadline + GRACE, _overdue, [check])
        watch.daemon = True
        if not check.rehearse:
            watch.start()
        run(check, arguments.parts)
        watch.cancel()
    sys.exit(bool(check.failed))


def run(check: Check, parts: list[str]) -> None:
    """Runs these parts, each of which may fail by itself, and prints the tables."""
    for name in parts:
        function, seconds = PARTS[name]
        if check.left < seconds and not check.rehearse:
            check.add(name, skipped=f"{check.left:.0f} s are left, of {seconds:.0f}")
            continue
        begin = time.monotonic()
        try:
            function(check)
        except Exception as error:
            traceback.print_exc()
            check.fail(name, error)
        check.add("seconds", of=name, seconds=round(time.monotonic() - begin, 1))
    check.report()


def _overdue(check):
    check.add("seconds", of="all", failed="the deadline passed within a part")
    check.report()
    os._exit(1)


if __name__ == "__main__":
    main()
