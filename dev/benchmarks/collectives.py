"""What a compiled program moves between devices, read from its text (see hlo.py)."""

import math
import re
from typing import NamedTuple

from dev.benchmarks import hlo
from dev.benchmarks.hlo import Array

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
REDUCTIONS = ("all-reduce", "reduce-scatter")
# Compiler options for a program that is read and not run: they leave out work on machine code,
# half of the time. What is exchanged is settled before.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


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


def read(text: str, unknown: int | None = None) -> list[Collective]:
    """Every collective that the program runs, once; those that exchange with nobody are left out.

    A pair of -start and -done is one. So are the pieces into which the TPU compiler cuts one, to
    fuse them with computations. `unknown` is how often a loop runs where XLA does not know.
    """
    computations, entry = hlo.computations(text)
    times = hlo.times(computations, entry, unknown)
    fused = set(re.findall(r" fusion\(.*\bcalls=%?([\w.-]+)", text))
    devices = _devices(text)
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
    text = re.sub(r"/\*.*?\*/", "", match["type"])
    if match["start"] and match["kind"] != "all-reduce":
        text = _elements(text)[1]  # (what goes in, what comes out, ...)
    return Collective(
        kind=match["kind"],
        results=hlo.arrays(text),
        group_size=_group_size(line, devices),
        op_name=hlo.op_name(line),
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


def _devices(text):
    header = text.split("\n", 1)[0]
    counts = re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", header)
    return math.prod(map(int, counts))
