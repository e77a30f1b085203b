"""Changes the code in one place at a time, and reports the changes that the tests let pass.

    python -m dev.mutants [NAME ...] [--jobs=1] [--limit=600] [--list]

dev/mutants.toml has the changes, and for each the tests that should catch it. They are made in
copies of the working tree, with what is not committed; first these tests must pass without any
change. The exit status is 1 where a change survives or its tests cannot run. One that is equivalent
is tried by no test: its reason is in the table.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from convnext.errors import RunError, reported, require

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).with_suffix(".toml")
CACHE = ".pytest_cache/jax"  # compiled programs, which the copies share with the working tree
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """A change of one place in a file."""

    name: str
    file: str
    before: str  # occurs once in the file
    after: str
    tests: tuple[str, ...] = ()  # arguments of pytest
    equivalent: str | None = None  # why no test can tell it from the code
    limit: float | None = None  # seconds, where it makes the tests endless


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of the table; none: all")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="copies at work at a time")
    parser.add_argument(
        "--limit",
        type=float,
        default=600,
        metavar="SECONDS",
        help="after which the tests of a change count as failed",
    )
    parser.add_argument("--list", action="store_true", help="print the table, and stop")
    arguments = parser.parse_args(argv)
    with reported():
        mutants = selected(read(TABLE), arguments.names)
        if arguments.list:
            for mutant in mutants:
                print(mutant.name, mutant.file, mutant.equivalent or " ".join(mutant.tests))
            return
        outcomes = run(ROOT, mutants, jobs=arguments.jobs, limit=arguments.limit)
    sys.exit(not outcomes.keys() <= {"killed", "timed out", "equivalent"})


def read(table: Path) -> list[Mutant]:
    """The table: for each file of the project a list of changes."""
    tables = tomllib.loads(table.read_text())
    mutants = [
        Mutant(file=file, **{**entry, "tests": tuple(entry.get("tests", ()))})
        for file, entries in tables.items()
        for entry in entries
    ]
    name, times = Counter(mutant.name for mutant in mutants).most_common(1)[0]
    require(times == 1, f"the number of mutants with the name {name}", times, "1")
    for mutant in mutants:
        one = bool(mutant.tests) != bool(mutant.equivalent)
        require(one, f"what {mutant.name} has", mutant, "tests, or why it is equivalent")
    return mutants


def selected(mutants: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Those with these names, in the table's order; without names all. Raises InputError."""
    known = {mutant.name for mutant in mutants}
    for name in names:
        require(name in known, "the mutant", name, "a name that --list prints")
    return [mutant for mutant in mutants if not names or mutant.name in names]


def changed(root: Path, mutant: Mutant) -> str:
    """The changed text of the mutant's file. Raises InputError where the place is not found once,
    or nothing changes there."""
    path = root / mutant.file
    require(path.is_file(), f"the file of {mutant.name}", mutant.file, "a file of the project")
    text = path.read_text()
    times = text.count(mutant.before)
    require(
        times == 1,
        f"how often {mutant.file} has the text of {mutant.name}",
        times,
        f"once: {TABLE.name} is to be brought up to date",
    )
    require(mutant.before != mutant.after, f"the change of {mutant.name}", "none", "another text")
    return text.replace(mutant.before, mutant.after)


def run(root: Path, mutants: Sequence[Mutant], *, jobs: int, limit: float) -> Counter[str]:
    """Tries them all and prints what came of each; returns how often what did: "killed",
    "survived", "timed out" after `limit` seconds, "equivalent", "broken" where pytest did not run.

    Raises InputError where the table is out of date, and RunError where the tests fail without any
    change.
    """
    require(jobs >= 1, "--jobs", jobs, "1 and more")
    require(limit > 0, "--limit", limit, "more than 0")
    for mutant in mutants:
        changed(root, mutant)
    counts: Counter[str] = Counter()
    tried = [mutant for mutant in mutants if not mutant.equivalent]
    for mutant in mutants:
        if mutant.equivalent:
            counts["equivalent"] += 1
            print(f"equivalent  {mutant.name}: {mutant.equivalent}")
    if not tried:
        return counts
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        running: set[subprocess.Popen] = set()
        for number in range(min(jobs, len(tried))):
            copies.put(copy_tree(root, Path(folder) / str(number)))

        def try_none(tests):
            place = copies.get()
            status, said = _pytest(place, tests, None, running)
            copies.put(place)
            if status != 0:
                print(said)
                raise RunError(f"without a change, pytest ends with status {status}")

        def try_one(mutant):
            place, begin = copies.get(), time.monotonic()
            path = place / mutant.file
            text = path.read_text()
            path.write_text(changed(place, mutant))
            outcome = _judged(*_pytest(place, mutant.tests, mutant.limit or limit, running))
            path.write_text(text)
            copies.put(place)
            return mutant, *outcome, time.monotonic() - begin

        with ThreadPoolExecutor(jobs) as threads:
            try:
                list(threads.map(try_none, _parts(tried, jobs)))
                print("without a change the tests pass", flush=True)
                futures = [threads.submit(try_one, mutant) for mutant in tried]
                for future in as_completed(futures):
                    mutant, outcome, detail, seconds = future.result()
                    counts[outcome] += 1
                    print(f"{outcome:<11} {mutant.name} ({seconds:.0f} s) {detail}", flush=True)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                for process in list(running):
                    _kill(process)
                raise
    print(f"{len(mutants)} mutants:", ", ".join(f"{n} {name}" for name, n in counts.items()))
    return counts


def _parts(mutants, count):
    """Their tests in so many parts at most, those of a file in one."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    files = sorted({test.partition("::")[0] for test in tests})
    parts = [set(files[number::count]) for number in range(count)]
    return [[t for t in tests if t.partition("::")[0] in part] for part in parts if part]


def copy_tree(root: Path, copy: Path) -> Path:
    """What git does not ignore, as it is in the working tree, and a link to the compiled programs.
    Returns the copy."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():  # one that was removed is listed, too
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, copy / name)
    if (root / CACHE).is_dir():
        (copy / CACHE).parent.mkdir(parents=True, exist_ok=True)
        (copy / CACHE).symlink_to((root / CACHE).resolve())
    return copy


def _pytest(place, tests, limit, running):
    """The exit status, None after `limit` seconds, and what was printed."""
    # A file that is changed twice in a second would be taken for the one that was compiled.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-rfE", "-m", "", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, *tests],
        cwd=place,
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    running.add(process)
    try:
        said, _ = process.communicate(timeout=limit)
        return process.returncode, said
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        _kill(process)
        process.wait()
        running.discard(process)


def _kill(process):
    """And all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _judged(status, said):
    """The outcome, and the test that failed or what went wrong."""
    if status is None:
        return "timed out", ""
    if status == 0:
        return "survived", ""
    failed = FAILED.search(said)
    if status == 1 and failed:
        return "killed", f"by {failed[1]}"
    return "broken", f"pytest ends with status {status}:\n{said}"


if __name__ == "__main__":
    main()
