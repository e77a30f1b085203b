"""The hardware's counters of our kernels, where ncu is at hand; clocks are left as they are."""

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from convnext.kernels import depthwise_ptx, layer_norm_ptx
from dev.gpu_checks import Check

# Short names of what is shown, of all that `--set full` counts.
SHOWN = {
    "gpu__time_duration.sum": "time",
    "launch__registers_per_thread": "registers",
    "smsp__inst_executed.sum": "instructions",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps there",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots used",
    "dram__bytes_read.sum": "read",
    "dram__bytes_write.sum": "written",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "wait for memory",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio": "wait for shared",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "wait for a barrier",
    "smsp__average_warps_issue_stalled_not_selected_per_issue_active.ratio": "wait for their turn",
}
SHAPES = ((256, 56, 56, 96), (256, 14, 14, 384))


def counters(check: Check) -> None:
    """Adds a row for each of our kernels on maps of ConvNeXt-T; all that ncu said is in ncu.csv."""
    installed = sorted(Path("/opt/nvidia/nsight-compute").glob("*/ncu"))
    tool = shutil.which("ncu") or (installed and str(installed[-1]))
    if not tool or check.rehearse:
        check.add("counters", skipped="a rehearsal" if tool else "no ncu")
        return
    which = ["-k", "regex:depthwise_|standardize_|layer_norm_", "--set", "full"]
    shown = ["--clock-control", "none", "--csv", "--page", "raw"]
    target = [sys.executable, "-m", "dev.gpu_checks.counters"]
    ran = subprocess.run(
        [tool, *which, *shown, *target], capture_output=True, text=True, timeout=check.left
    )
    (check.out / "ncu.csv").write_text(ran.stdout)
    if ran.returncode:
        raise RuntimeError(f"ncu ended with {ran.returncode}: {(ran.stderr or ran.stdout)[-200:]}")
    for row in rows(ran.stdout):
        check.add("counters", **row)


def rows(text: str) -> Iterator[dict[str, str]]:
    """What is shown of each kernel, with units: ncu's CSV has them in the row below the names."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    units, *kernels = csv.DictReader(io.StringIO("\n".join(lines)))
    for kernel in kernels:
        shown = {
            name: f"{kernel[metric]} {units[metric]}".strip()
            for metric, name in SHOWN.items()
            if metric in kernel
        }
        yield {"kernel": kernel["Kernel Name"], "grid": kernel.get("Grid Size", ""), **shown}


def main() -> None:
    """Runs each of our kernels once, for ncu."""
    for shape in SHAPES:
        x = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
        kernel = jax.random.normal(jax.random.key(1), (7, 7, 1, shape[-1]), jnp.bfloat16)
        scale = jnp.ones(shape[-1])
        for made in (
            depthwise_ptx.forward(x, kernel),
            depthwise_ptx.input_gradient(x, kernel, x),
            depthwise_ptx.sums(x, x),
            layer_norm_ptx.standardize_gradient(x, x, 1e-6),
            layer_norm_ptx.gradients(x, x, scale, 1e-6),
        ):
            jax.block_until_ready(made)


if __name__ == "__main__":
    main()
