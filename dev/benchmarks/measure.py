"""Times, the ceilings of a device, PyTorch in its process, and the table of what was measured."""

import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from convnext.errors import InputError
from convnext.kernels import outline

ROOT = Path(__file__).parent.parent.parent
SECONDS = 1.0  # of each measurement, at least


def facts() -> dict[str, str]:
    """What the figures depend on."""
    device = jax.devices()[0]
    is_cpu = device.platform == "cpu"
    return {
        "platform": outline.platform(),
        "device": f"{_cpu_model()}, {os.cpu_count()} cores" if is_cpu else device.device_kind,
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (jax, flax, optax, np)},
    }


def _cpu_model():
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.*)$", info.read_text() if info.exists() else "", re.M)
    return names[0] if names else platform.processor()


class Cells:
    """Prints each cell as a row of a Markdown table, and appends it to a file of JSON lines.

    `others` are further facts, or take the place of those of the device at hand.
    """

    def __init__(self, path: Path | None, **others: str):
        self.path, self.columns, self.rows = path, None, []
        self.facts = {**facts(), **others}
        print(" ".join(f"{name} {value}" for name, value in self.facts.items()), flush=True)

    def add(self, **cell: Any) -> None:
        self.rows.append(cell)
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps({**self.facts, **cell}) + "\n")
        if tuple(cell) != self.columns:
            self.columns = tuple(cell)
            print(f"\n| {' | '.join(cell)} |\n|{' --- |' * len(cell)}")
        print(f"| {' | '.join(map(cell_text, cell.values()))} |", flush=True)


def cell_text(value: Any) -> str:
    """Of a value in a table."""
    if isinstance(value, list):  # least, median, greatest
        return " / ".join(map(cell_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def milliseconds(function: Callable, *arguments: Any, seconds: float = SECONDS) -> list[float]:
    """Of each call. Where a call is short, of several that the device is given at once."""
    jax.block_until_ready(function(*arguments))
    begin = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    calls = max(1, int(0.02 / (time.perf_counter() - begin)))
    times, begin = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        outputs = [function(*arguments) for _ in range(calls)]
        jax.block_until_ready(outputs)
        times.append((time.perf_counter() - start) / calls * 1e3)
    return times


def spread(values: Sequence[float]) -> list[float]:
    return [min(values), statistics.median(values), max(values)]


class Peer:
    """PyTorch in a process of its own, that measures when it is told to."""

    def __init__(self, python: str, module: str, **request: Any):
        self.process = subprocess.Popen(
            [python, "-m", f"dev.benchmarks.{module}", json.dumps(request)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = self._answer()

    def measure(self) -> dict[str, Any]:
        """Milliseconds of each call, by variant: eager, compiled; of data, images a second."""
        self.process.stdin.write("measure\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise InputError(
                f"the peer ended with exit status {self.process.wait()}",
                "--peer_python with PyTorch and the peer, such as .venv-parity/bin/python",
            )
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


# Ceilings: what the device can do at best.


@cache
def copy_rate(nbytes: int) -> float:
    """Bytes per second, read and written, of an elementwise operation that reads so many bytes and
    writes them in place. What fits into a cache is faster."""
    data = jnp.ones((8, max(nbytes // 8, 1024)), jnp.uint8)
    passes = 16

    @jax.jit
    def invert(data):  # XLA would make nothing of a copy
        return lax.fori_loop(0, passes, lambda i, data: i.astype(jnp.uint8) - data, data)

    return 2 * data.nbytes * passes / min(milliseconds(invert, data, seconds=0.2)) * 1e3


@cache
def matmul_rate(dtype: str) -> float:
    """Multiply-accumulates per second of a large matrix product."""
    side = 2048 if outline.on_cpu() else 8192
    matrix = jnp.ones((side, side), dtype)
    return side**3 / min(milliseconds(jax.jit(jnp.matmul), matrix, matrix)) * 1e3
