"""The parts of `python -m dev.gpu_check`."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from convnext.kernels import outline
from dev.benchmarks import gpu
from dev.benchmarks.measure import cell_text

THREADS = 12  # that compile at the same time


class Check:
    """What was found so far, how much time is left, and how programs are made.

    rehearse: without a GPU; see `python -m dev.gpu_check`.
    """

    def __init__(self, out: Path, deadline: float, rehearse: bool):
        self.out, self.rehearse, self.end = out, rehearse, time.monotonic() + deadline
        self.rows: list[dict[str, Any]] = []
        self.failed = False
        self.is_correct = False  # that all kernels were, in this call

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.end - time.monotonic()

    def add(self, part: str, **cell: Any) -> None:
        """Prints a cell, and appends it to gpu.jsonl."""
        self.rows.append({"part": part, **cell})
        line = json.dumps(self.rows[-1])
        print(line, flush=True)
        with (self.out / "gpu.jsonl").open("a") as file:
            file.write(f"{line}\n")

    def fail(self, part: str, error: object, **cell: Any) -> None:
        """Adds a cell of what failed; the command's exit status is then 1."""
        self.failed = True
        reason = " ".join(str(error).split())[:300]
        named = f"{type(error).__name__}: {reason}" if isinstance(error, Exception) else reason
        self.add(part, **cell, failed=named)

    def tables(self) -> str:
        """All cells in Markdown, a table for each part."""
        text = []
        for part in dict.fromkeys(row["part"] for row in self.rows):
            rows = [row for row in self.rows if row["part"] == part]
            columns = list(dict.fromkeys(name for row in rows for name in row if name != "part"))
            text += [f"\n{part}\n", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
            for row in rows:
                cells = (cell_text(row.get(name, "")) for name in columns)
                text.append(f"| {' | '.join(cells)} |")
        return "\n".join(text) + "\n"

    def report(self) -> None:
        """Prints the tables, and writes tables.md."""
        print(self.tables(), flush=True)
        (self.out / "tables.md").write_text(self.tables())

    def compiled(self, function: Callable, *inputs: Any, **options: Any) -> Callable | str:
        """The program for these inputs: what runs it, or in a rehearsal how far it came. `options`
        are XLA's, besides those of a step."""
        if not self.rehearse:
            options = outline.compiler_options() | options
            return jax.jit(function).lower(*inputs).compile(compiler_options=options)
        with outline.compiling_for("cuda"):
            if self._absent is None:
                jax.jit(function).trace(*inputs).lower(lowering_platforms=("cuda",))
                return "lowered; not compiled: no CUDA plugin"
            here = jax.sharding.SingleDeviceSharding(self._absent)
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), inputs
            )
            options = outline.compiler_options() | options
            jax.jit(function).lower(*shapes).compile(compiler_options=options)
        return "compiled"

    def compiled_at_once(
        self, programs: Sequence[tuple[Callable, Sequence[Any], Mapping[str, Any]]]
    ) -> list[Callable | str | Exception]:
        """What `compiled` returns or raises for each function, inputs and options; in threads."""

        def attempt(program):
            function, inputs, options = program
            try:
                return self.compiled(function, *inputs, **options)
            except Exception as error:  # of the tracing, the compiler or the driver
                return error

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(attempt, programs))

    @cached_property
    def _absent(self):
        """A GPU that is not there; None where nothing can compile for it."""
        try:
            return gpu.gpu_of(gpu.TARGET)
        except Exception:  # of a part of the plugin that is missing
            return None
