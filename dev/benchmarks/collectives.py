"""What a compiled program moves between devices, read from its text.

The text is that of `jax.jit(...).lower(...).compile().as_text()`: HLO after XLA's optimization, of
one device (https://openxla.org/xla/operation_semantics).
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
REDUCTIONS = ("all-reduce", "reduce-scatter")
# Compiler options for a program that is read and not run: they leave out work on machine code,
# half of the time. What is exchanged is settled before.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


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


class Collective(NamedTuple):
    kind: str  # of KINDS
    results: tuple[Array, ...]  # several where XLA has combined what it moves
    group_size: int  # devices that exchange with each other
    op_name: str  # the part of the program it comes from: jit(train_step)/transpose(jvp(...))/...
    times: int | None  # that it runs; None: in a loop of which XLA does not know how often

    @property
    def bytes(self) -> int:
        """Of the result on a device."""
        return sum(array.bytes for array in self.results)

    @property
    def sent(self) -> float:
        """Bytes that each device sends each time, in a ring."""
        n = self.group_size
        match self.kind:
            case "all-reduce":
                return 2 * (n - 1) / n * self.bytes
            case "reduce-scatter":
                return (n - 1) * self.bytes  # its result is one of n parts
            case "collective-permute":
                return self.bytes
            case _:
                return (n - 1) / n * self.bytes


def read(hlo: str, unknown: int | None = None) -> list[Collective]:
    """Every collective that the program runs, once; those that exchange with nobody are left out.

    A pair of -start and -done is one. So are the pieces into which the TPU compiler cuts one, to
    fuse them with computations. `unknown` is how often a loop runs where XLA does not know.
    """
    computations, entry = _computations(hlo)
    times = _times(computations, entry, unknown)
    fused = set(re.findall(r" fusion\(.*\bcalls=%?([\w.-]+)", hlo))
    devices = _devices(hlo)
    found = {}
    for computation, lines in computations.items():
        if computation not in times:
            continue
        for number, line in enumerate(lines):
            if match := _COLLECTIVE.match(line):
                pieces = re.search(r"channel_id=(\d+)", line) if computation in fused else None
                key = pieces[1] if pieces else (computation, number)
                collective = _collective(match, line, times[computation], devices)
                if collective.group_size > 1:
                    found.setdefault(key, collective)
    return list(found.values())


_COLLECTIVE = re.compile(
    rf"\s*(?:ROOT )?%?[\w.-]+ = (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\("
)


def _collective(match, line, times, devices):
    op_name = re.search(r'op_name="([^"]*)"', line)
    text = re.sub(r"/\*.*?\*/", "", match["type"])
    if match["start"] and match["kind"] != "all-reduce":
        text = _elements(text)[1]  # (what goes in, what comes out, ...)
    return Collective(
        kind=match["kind"],
        results=tuple(
            Array(dtype, tuple(map(int, shape.split(","))) if shape else ())
            for dtype, shape in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", text)
        ),
        group_size=_group_size(line, devices),
        op_name=op_name[1] if op_name else "",
        times=times,
    )


def _elements(text):
    """Of a tuple's type, which may have tuples as elements."""
    elements, depth = [""], 0
    for character in text[1:-1]:
        if character == "," and depth == 0:
            elements.append("")
            continue
        depth += (character in "([{") - (character in ")]}")
        elements[-1] += character
    return elements


def _group_size(line, devices):
    """In any of the notations {{0,1},{2,3}}, [2,2]<=[4], and mesh['x'=2,'y'=2] {'y'}."""
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", line):
        return len(set(re.findall(r"\d+", pairs[1])))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=", line):
        return int(iota[1].split(",")[-1])
    if mesh := re.search(
        r"replica_groups=@?mesh\[(.*?)\](?:, device_ids=\(.*?\))? \{(.*?)\}", line
    ):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh[1])}
        # An axis may be a part of one: 'x':(2)4 are 4 of x, after its first 2.
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    groups = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    return len(groups[1].split(",")) if groups else devices  # {} are all


def _devices(hlo):
    header = hlo.split("\n", 1)[0]
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header)
    return math.prod(map(int, counts))


def _computations(hlo):
    """The lines of each computation by its name, and the name of the one that is the program."""
    computations, entry, lines = {}, None, []
    for line in hlo.split("\n"):
        if header := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _times(computations, entry, unknown):
    """How often each computation runs; those that never do are left out."""
    called_by = defaultdict(list)
    for computation, lines in computations.items():
        for line in lines:
            for called, factor in _calls(line, unknown):
                called_by[called].append((computation, factor))
    times = {entry: 1}

    def count(computation):
        if computation not in times:
            factors = [(count(caller), factor) for caller, factor in called_by[computation]]
            factors = [pair for pair in factors if pair[0] != 0]
            known = not any(None in pair for pair in factors)
            times[computation] = sum(a * b for a, b in factors) if known else None
        return times[computation]

    for computation in computations:
        count(computation)
    return {computation: count for computation, count in times.items() if count != 0}


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
