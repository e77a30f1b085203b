"""What the kernels of a run took, beside the bytes of its program, and their counters."""

import contextlib
import subprocess
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from dev.benchmarks.gpu import COPY_RATE, Launch
from dev.gpu_checks import Check, counters, profiles

GELU, NORM = "block", "block/norm"


def fusion(name, alike, nbytes=int(1e9), layer=GELU):
    return Launch("fusion", layer, "backward", nbytes, 0, 1, name, alike)


LAUNCHES = [
    fusion("fusion_1", "fusion f32[8]"),
    fusion("fusion_2", "fusion f32[8]"),
    fusion("fusion_3", "fusion f32[9]", int(5e8)),
    Launch("kernel", NORM, "backward", int(2e9), 0, 1, "standardize_gradient_3", "standardize"),
    Launch("product", GELU, "forward", int(1e9), 7, 1, "", ""),
]


def test_kernels_stand_beside_the_bytes_of_those_that_share_them():
    measured = {"fusion_2": (0.5, 2.0), "fusion.3": (0.25, 1.0), "nvjet_hsh_128": (3.0, 1.0),
                "standardize_gradient_3": (1.0, 1.0)}  # fmt: skip
    product, norm, gelu = profiles.account(LAUNCHES, measured)
    assert product == {
        "kind": "", "layer": "nvjet_hsh_128", "direction": "", "ms": 3.0, "launches": 1.0
    }  # fmt: skip
    assert norm["GB"] == 2 and norm["TB/s"] == 2 and norm["ms"] == 1
    assert gelu == {
        "kind": "fusion", "layer": GELU, "direction": "backward", "ms": 0.75, "launches": 3.0,
        "GB": 2.5, "least ms": pytest.approx(2.5e9 / COPY_RATE * 1e3), "TB/s": 2.5 / 0.75,
    }  # fmt: skip


def event(name, ms):
    return SimpleNamespace(name=name, duration_ns=ms * 1e6)


def line(name, *events):
    return SimpleNamespace(name=name, events=events)


def test_a_run_is_profiled_by_what_its_streams_did(monkeypatch):
    planes = [
        SimpleNamespace(name="/host:CPU", lines=[line("Stream", event("sine", 9))]),
        SimpleNamespace(name="/device:GPU:0", lines=[
            line("Stream #7", *3 * [event("fusion_2", 2)], event("once", 6)),
            line("XLA Ops", event("fusion.2", 9)),
        ]),
    ]  # fmt: skip

    @contextlib.contextmanager
    def trace(folder):
        assert runs == [1]  # the first one, which may still be loading, is not of it
        (Path(folder) / "host.xplane.pb").touch()
        yield

    runs = []
    monkeypatch.setattr(jax.profiler, "trace", trace)
    monkeypatch.setattr(
        jax.profiler.ProfileData, "from_file", lambda path: SimpleNamespace(planes=planes),
        raising=False,
    )  # fmt: skip
    found = profiles.measured(lambda: runs.append(1))
    assert len(runs) == 1 + profiles.STEPS
    assert found == {
        "fusion_2": (2.0, 1.0),
        "once": (pytest.approx(6 / 3), pytest.approx(1 / 3)),
    }


def test_the_table_begins_with_all_of_it(tmp_path, monkeypatch):
    took = {"standardize_gradient_3": (1.0, 2.0), "nvjet": (3.0, 1.0)}
    monkeypatch.setattr(profiles, "measured", lambda run: took)
    check = Check(tmp_path, 9, rehearse=False)
    profiles.profile(
        check, "tiny_profile", None, Path(__file__).with_name("gpu_step.hlo").read_text()
    )
    assert [(row["ms"], row["launches"]) for row in check.rows] == [(4, 3), (3, 1), (1, 2)]
    assert [row["kind"] for row in check.rows] == ["all", "", "kernel"]


# As ncu 2025 writes it, without most of its columns.
CSV = """==PROF== Connected to process 7
==PROF== Profiling "depthwise_forward" - 0: 0%....100% - 38 passes
"ID","Kernel Name","Grid Size","gpu__time_duration.sum","launch__registers_per_thread","x.avg"
"","","","us","register/thread","%"
"0","depthwise_forward","(2048, 1, 1)","231.10","126","3"
==PROF== Disconnected from process 7
"""


@pytest.mark.parametrize("status", [0, 9])
def test_counters_of_each_kernel_have_their_units(tmp_path, monkeypatch, status):
    def run(command, **options):
        assert command[0] == "/bin/ncu" and command[-1] == "dev.gpu_checks.counters"
        return subprocess.CompletedProcess(command, status, CSV, "no permission")

    monkeypatch.setattr(counters.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(counters.subprocess, "run", run)
    check = Check(tmp_path, 9, rehearse=False)
    if status:
        with pytest.raises(RuntimeError, match="ncu ended with 9: no permission"):
            counters.counters(check)
        return
    counters.counters(check)
    assert check.rows == [{
        "part": "counters", "kernel": "depthwise_forward", "grid": "(2048, 1, 1)",
        "time": "231.10 us", "registers": "126 register/thread",
    }]  # fmt: skip
    assert (tmp_path / "ncu.csv").read_text() == CSV


def test_without_ncu_there_are_no_counters(tmp_path, monkeypatch):
    monkeypatch.setattr(counters.shutil, "which", lambda name: None)
    check = Check(tmp_path, 9, rehearse=True)
    counters.counters(check)
    assert check.rows == [{"part": "counters", "skipped": "no ncu"}]
