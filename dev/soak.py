"""Trains the digits while ending the run at random, and compares with a run left alone.

    python -m dev.soak --minutes=10

Faults are SIGKILL and SIGTERM at random moments, also before the run goes on from its checkpoint,
SIGKILL while one is being saved, and a bit of the newest whole one flipped while nothing runs. The
two runs must end with the same parameters, averages, optimizer state and metrics.jsonl, all but
timings, to the last bit. The exit status is 1 where they do not, or where 10 minutes and more had
fewer faults than MINIMA.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from convnext.errors import reported, require
from convnext.runs import checkpoint, interruption, log

ROOT = Path(__file__).parent.parent
EPOCHS_PER_MINUTE = 30
SHARES = {"kill": 0.3, "kill in a save": 0.2, "terminate": 0.15, "damage": 0.15,
          "kill at the start": 0.15, "terminate at the start": 0.05}  # fmt: skip
MINIMA = {"kills": 20, "resumes above step 0 after a kill": 15, "kills that landed in a save": 3,
          "damaged checkpoints moved": 2}  # fmt: skip
TIMING = re.compile("second|wait")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--minutes", type=float, default=10, help="in which faults happen")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    with reported(), tempfile.TemporaryDirectory() as folder:
        require(arguments.minutes > 0, "--minutes", arguments.minutes, "more than 0")
        flags = [f"--config.num_epochs={max(round(EPOCHS_PER_MINUTE * arguments.minutes), 10)}"]
        rng = np.random.default_rng(arguments.seed)
        is_same, counts = soak(Path(folder), flags, _faults(60 * arguments.minutes, rng), rng)
    too_few = too_few_of(counts) if arguments.minutes >= 10 else []
    for line in too_few:
        print(line)
    sys.exit(not is_same or bool(too_few))


def _faults(seconds, rng):
    """At random, for so long from the first on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield str(rng.choice(list(SHARES), p=list(SHARES.values())))


def too_few_of(counts: Mapping[str, int]) -> list[str]:
    """What happened less often than MINIMA, a line each."""
    return [
        f"fewer than {least} {name}: {counts.get(name, 0)}"
        for name, least in MINIMA.items()
        if counts.get(name, 0) < least
    ]


def soak(
    folder: Path,
    flags: list[str],
    faults: Iterable[str],
    rng: np.random.Generator,
    moment: tuple[float, float] = (0.0, 10.0),
    platform: str = "cpu",
) -> tuple[bool, Mapping[str, int]]:
    """Whether a run of the digits with these flags, to which the faults happen one after another,
    ends as one without; and how often what happened, which is printed, too.

    moment: seconds, from and to, in which a fault happens after a new checkpoint, or, "at the
    start", after that of the process. platform: of JAX, such as "cuda".
    """
    straight, soaked = folder / "straight", folder / "soaked"
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        **os.environ,
        "JAX_PLATFORMS": platform,
        "JAX_NUM_CPU_DEVICES": "1",
    }
    command = [
        sys.executable,
        "train.py",
        "--config=configs/digits.py",
        "--config.checkpoint_every_epochs=1",
        *flags,
    ]

    def start(workdir):
        with (folder / "said").open("w") as file:
            return subprocess.Popen(
                [*command, f"--workdir={workdir}"],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def said():
        return (folder / "said").read_text()

    status = start(straight).wait()
    require(status == 0, "the run without faults", said()[-300:], "one that ends")
    print(f"the run without faults ended at step {_newest(straight).name}", flush=True)

    faults = iter(faults)
    counts: Counter[str] = Counter()
    status, was_killed = None, False
    while status != 0:
        process = start(soaked)
        fault = next(faults, None)
        if fault:
            saved = _saved_step(soaked)
            if not fault.endswith("at the start"):
                _wait_for(process, lambda saved=saved: _saved_step(soaked) > saved)
            _wait_for(process, lambda: False, seconds=rng.uniform(*moment))
        if fault == "kill in a save":
            _stop_in_a_save(process, soaked)
        if fault:
            terminates = fault.startswith("terminate")
            process.send_signal(signal.SIGTERM if terminates else signal.SIGKILL)
        status = process.wait()
        ended = (0, -signal.SIGKILL, -signal.SIGTERM, interruption.EXIT_STATUS)
        require(status in ended, "a run", said()[-500:], "one that ends, or is ended")
        resumed = "resumes from step" in said()
        counts["resumes above step 0"] += resumed
        counts["resumes above step 0 after a kill"] += resumed and was_killed
        moved = [line for line in said().splitlines() if " is moved to " in line]
        unfinished = sum(line.endswith("it was not finished") for line in moved)
        counts["unfinished checkpoints moved"] += unfinished
        counts["damaged checkpoints moved"] += len(moved) - unfinished
        if status != 0:
            was_killed = status == -signal.SIGKILL
            counts["kills"] += was_killed
            early = fault.endswith("at the start") and not resumed
            counts["kills before the run went on"] += was_killed and early
            counts["kills that landed in a save"] += was_killed and _is_saving(soaked)
            counts["requests to stop"] += not was_killed
            print(f"{fault} at step {_newest(soaked).name} or later", flush=True)
        if fault == "damage" and status != 0 and _saved_step(soaked):
            _damage(soaked / "checkpoints" / str(_saved_step(soaked)), rng)
    is_same = same(straight, soaked)
    for name, count in counts.items():
        print(f"{name}: {count}")
    print(f"identical: {'yes' if is_same else 'no'}")
    return is_same, counts


def _wait_for(process, condition, seconds=120.0):
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and not condition():
        time.sleep(0.002)


def _stop_in_a_save(process, workdir):
    """Stopped, so that it does not finish the save before it is killed."""
    while process.poll() is None:
        _wait_for(process, lambda: _is_saving(workdir))
        process.send_signal(signal.SIGSTOP)
        if _is_saving(workdir):
            return
        process.send_signal(signal.SIGCONT)


def _saved_step(workdir):
    """The newest that is whole."""
    manifests = (workdir / "checkpoints").glob(f"*/{checkpoint.MANIFEST}")
    return max((int(path.parent.name) for path in manifests), default=0)


def _newest(workdir):
    """The folder of the newest checkpoint, finished or not."""
    steps = [path for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    return max(steps, key=lambda path: int(path.name), default=Path("0"))


def _is_saving(workdir):
    newest = _newest(workdir)
    unfinished = newest.exists() and not (newest / checkpoint.MANIFEST).exists()
    return unfinished or any((workdir / "checkpoints").glob("*tmp*"))


def _damage(folder, rng):
    """Flips a bit of its largest file."""
    path = max(folder.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def same(*workdirs: Path) -> bool:
    """Whether the last states and the metrics, all but timings, are the same to the last bit."""
    states, lines = [], []
    for workdir in workdirs:
        with ocp.training.Checkpointer((workdir / "checkpoints").absolute()) as checkpoints:
            step = int(_newest(workdir).name)
            states.append(checkpoints.load(step, _shapes(checkpoints.metadata(step).metadata)))
        lines.append(
            [
                {name: value for name, value in line.items() if not TIMING.search(name)}
                for line in log.read(workdir / "metrics.jsonl")
            ]
        )
    equal = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), *states)
    return all(jax.tree.leaves(equal)) and lines[0] == lines[1]


def _shapes(stored):
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), stored
    )


if __name__ == "__main__":
    main()
