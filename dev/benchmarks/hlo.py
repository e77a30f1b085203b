"""The text of a compiled program: its arrays, its computations, and how often each runs.

It is that of `jax.jit(...).lower(...).compile().as_text()`: HLO after XLA's optimization, of one
device (https://openxla.org/xla/operation_semantics).
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple


class Array(NamedTuple):
    """One array of a result, as it is on a device."""

    dtype: str  # XLA's name: f32, bf16, s32, pred
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return -(-self.size * _bits(self.dtype) // 8)


def _bits(dtype):
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8  # pred


def arrays(text: str) -> tuple[Array, ...]:
    """Those of an instruction's type, which may be a tuple."""
    return tuple(
        Array(dtype, tuple(map(int, shape.split(","))) if shape else ())
        for dtype, shape in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", text)
    )


def op_name(line: str) -> str:
    """The part of the program that an instruction comes from, or "":
    jit(train_step)/transpose(jvp(...))/..."""
    match = re.search(r'op_name="([^"]*)"', line)
    return match[1] if match else ""


def computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation by its name, and the name of the one that is the program."""
    found, entry, lines = {}, "", []
    for line in hlo.split("\n"):
        if header := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            lines = found[header[2]] = []
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    return found, entry


def times(
    computations: dict[str, list[str]], entry: str, unknown: int | None = None
) -> dict[str, int | None]:
    """How often each computation runs; those that never do are left out. `unknown` is how often a
    loop runs where XLA does not know."""
    called_by = defaultdict(list)
    for computation, lines in computations.items():
        for line in lines:
            for called, factor in _calls(line, unknown):
                called_by[called].append((computation, factor))
    found = {entry: 1}

    def count(computation):
        if computation not in found:
            factors = [(count(caller), factor) for caller, factor in called_by[computation]]
            factors = [pair for pair in factors if pair[0] != 0]
            known = not any(None in pair for pair in factors)
            found[computation] = sum(a * b for a, b in factors) if known else None
        return found[computation]

    for computation in computations:
        count(computation)
    return {computation: count for computation, count in found.items() if count != 0}


def _calls(line: str, unknown: int | None) -> Iterator[tuple[str, int | None]]:
    """What an instruction calls, and how often; of a conditional, each branch."""
    if re.search(r"-(?:done|update)\(", line):
        return
    factor = 1
    if " while(" in line:
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        factor = int(trips[1]) if trips else unknown
    keys = r"calls|to_apply|body|condition|branch_computations|true_computation|false_computation"
    for called in re.findall(rf"\b(?:{keys})=(\{{.*?\}}|%?[\w.-]+)", line):
        for name in re.findall(r"[\w.-]+", called):
            yield name, factor
