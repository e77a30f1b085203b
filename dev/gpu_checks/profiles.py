"""Where a step's time goes: its kernels, as profiled, beside the bytes of the compiled program."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from dev.benchmarks import gpu
from dev.gpu_checks import Check

STEPS = 3  # that are profiled
SHOWN = 30  # rows, of those that took longest


def profile(check: Check, name: str, run: Callable[[], Any], text: str) -> None:
    """Adds what the kernels of one run took, of the program whose text this is."""
    rows = account(gpu.launches(text), measured(run))
    whole = sum(row["ms"] for row in rows)
    check.add(name, kind="all", ms=whole, launches=sum(row["launches"] for row in rows))
    for row in rows[:SHOWN]:
        check.add(name, **row)


def measured(run: Callable[[], Any]) -> Mapping[str, tuple[float, float]]:
    """Milliseconds and launches of each kernel in one run, by its name."""
    jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready([run() for _ in range(STEPS)])
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    ms, launches = Counter(), Counter()
    for plane in data.planes:
        for line in plane.lines:
            if "GPU" in plane.name and line.name.startswith("Stream"):
                for event in line.events:
                    ms[event.name] += event.duration_ns / 1e6 / STEPS
                    launches[event.name] += 1 / STEPS
    return {name: (ms[name], launches[name]) for name in ms}


def account(
    launches: Sequence[gpu.Launch], measured: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """Rows of each kind, layer and direction, and of each kernel that the program does not name,
    such as a library's product; what took longest first."""
    groups: dict[str, list[gpu.Launch]] = {}
    for launch in launches:
        if launch.name:
            groups.setdefault(launch.alike, []).append(launch)
    known = {launch.name: alike for alike, group in groups.items() for launch in group}
    ms, count = Counter(), Counter()
    for name, (its_ms, its_launches) in measured.items():
        key = known.get(re.sub(r"\W", "_", name), name)
        ms[key] += its_ms
        count[key] += its_launches
    rows: dict[tuple, dict[str, Any]] = {}
    for key in ms:
        group = groups.get(key)
        named = (group[0].kind, group[0].layer, group[0].direction) if group else ("", key[:60], "")
        row = rows.setdefault(named, dict(zip(("kind", "layer", "direction"), named, strict=True)))
        found = {"ms": ms[key], "launches": count[key]}
        if group:
            found["GB"] = sum(each.times * each.bytes for each in group) / 1e9
            found["least ms"] = sum(each.seconds for each in group) * 1e3
        for name, value in found.items():
            row[name] = row.get(name, 0.0) + value
    for row in rows.values():
        if "GB" in row:
            row["TB/s"] = row["GB"] / row["ms"]
    return sorted(rows.values(), key=lambda row: -row["ms"])
