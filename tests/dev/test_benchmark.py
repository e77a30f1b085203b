"""What the benchmarks print and write; how fast anything is, is not tested."""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import pytest

from convnext import VARIANTS, ConvNeXt
from convnext.data import pipeline
from convnext.errors import InputError
from convnext.kernels import depthwise
from convnext.models.convnext import activations
from convnext.training import erasing, mixup
from dev import benchmark
from dev.benchmarks import data, layers, measure, models, scaling, tpu, worker_memory
from dev.benchmarks.collectives import Collective
from dev.benchmarks.hlo import Array

ROOT = Path(__file__).parents[2]
TINY = ConvNeXt(depths=(1,), dims=(4,), num_classes=3)


def run_once(function, *inputs, **_):
    function(*inputs)
    return [4.0]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(measure, "matmul_rate", lambda dtype: 1e12)
    monkeypatch.setattr(measure, "copy_rate", lambda nbytes: 1e12)
    for module in (models, layers):
        for name in ("matmul_rate", "copy_rate"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(measure, name))
        monkeypatch.setattr(
            module, "milliseconds", lambda run, *inputs, **_: [run(*inputs), 4.0][1:]
        )


def options(**changes):
    return argparse.Namespace(
        **dict(mode=benchmark.MODES, batch_size=[2], dtype="float32", image_size=8, json=None,
               peer=None, page=None, rounds=1, record=False, variant="tiny") | changes
    )  # fmt: skip


@pytest.mark.slow
def test_each_cell_of_a_model_is_printed_and_appended(tmp_path, capsys):
    models.benchmark(TINY, "tiny", options(json=tmp_path / "cells.jsonl"))
    cells = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert [cell["mode"] for cell in cells] == ["inference", "training"]
    for cell, passes in zip(cells, (1, 3), strict=True):
        assert cell["platform"] == "cpu" and cell["jax"] and cell["ms"] == [4.0, 4.0, 4.0]
        assert cell["images/s"] == 500
        # 2x2 positions: stem 48 * 4, block 49 * 4 + 8 * 16; head 4 * 3.
        macs = passes * 2 * (4 * (192 + 196 + 128) + 12)
        assert cell["GMAC/s"] == pytest.approx(macs / 4e-3 / 1e9)
        assert cell["of peak"] == pytest.approx(macs / 4e-3 / 1e12)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert table[0].startswith("| model | mode | batch | dtype | ms |") and len(table) == 4
    assert "| tiny | inference | 2 | float32 | 4 / 4 / 4 | 500 |" in table[2]


def test_layers_are_measured_in_each_direction_and_may_be_recorded(tmp_path, monkeypatch):
    recorded = tmp_path / "timings.json"
    recorded.write_text('{"tpu": 1}')
    monkeypatch.setattr(depthwise, "__file__", str(tmp_path / "depthwise.py"))
    layers.benchmark(TINY, "tiny", options(json=tmp_path / "cells.jsonl", record=True))
    _, *cells = (json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines())
    measured = [(cell["layer"], cell["direction"], cell["implementation"]) for cell in cells]
    directions = ("forward", "input_gradient", "kernel_gradient")
    assert measured[:6] == [("depthwise", d, i) for d in directions for i in ("lax", "shifted_sum")]
    assert [layer for layer, _, _ in measured[6:]] == ["layer_norm"] * 2 + ["gelu"] * 2 + [
        "pointwise"
    ] * 2
    assert cells[0]["floor ms"] == pytest.approx(49 * 32 / 1e12 * 1e3)
    timings = json.loads(recorded.read_text())
    assert timings["tpu"] == 1 and timings["cpu"]["jax"]
    assert timings["cpu"]["rows"] == [
        {"pixels": 4, "direction": d, "ms": {"lax": 4.0, "shifted_sum": 4.0}} for d in directions
    ]


PAGE = """
| model | mode | batch | dtype | ms | ratio |
| --- | --- | --- | --- | --- | --- |
| tiny | inference | 2 | float32 | 1 / 2 / 3 | 0.9 / 1.5 / 2 |
| tiny | training | 2 | float32 | 1 / 2 / 3 | |
"""


def test_a_ratio_far_below_the_page_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text(PAGE)
    arguments = options(page=tmp_path / "page.md", mode=["inference"])
    for ratio, is_low in ((1.36, False), (1.34, True)):
        monkeypatch.setattr(models, "_measure_model", lambda *_, r=ratio: {"ratio": [0, r, 9]})
        if not is_low:
            models.benchmark(TINY, "tiny", arguments)
            continue
        with pytest.raises(InputError, match=r"'tiny', 'inference', 2.* is 1.34 and 1.50 on the p"):
            models.benchmark(TINY, "tiny", arguments)


def test_a_peer_that_does_not_start_is_one_line(monkeypatch, capsys):
    arguments = ["model", "--variant=atto", "--image_size=32", "--batch_size=1", "--peer=timm",
                 "--mode=inference", f"--peer_python={sys.executable}"]  # fmt: skip
    monkeypatch.setattr(models, "program", lambda *_: (None, None, 0.0))
    with pytest.raises(SystemExit) as stop:
        benchmark.main(arguments)
    assert str(stop.value).startswith("error: the peer ended with exit status 1; accepted: --peer_")


@pytest.mark.parametrize(
    ("peer", "model", "accepted"),
    [
        ("timm", TINY, "a model of four stages, with a norm after the stem"),
        ("transformers", ConvNeXt(**VARIANTS["large_mlp"]), "timm for this model"),
    ],
)
def test_a_model_that_the_peer_does_not_have_is_refused(peer, model, accepted):
    with pytest.raises(InputError, match=f"--peer is '{peer}, for x'; accepted: {accepted}"):
        models.benchmark(model, "x", options(peer=peer))


def test_the_benchmark_needs_no_packages_but_those_of_the_model():
    code = (
        "import sys; from dev import benchmark; "
        "print(sorted({'safetensors', 'PIL', 'cv2', 'grain', 'ml_collections', 'tensorboardX', "
        "'matplotlib', 'huggingface_hub'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


@pytest.mark.slow
def test_the_data_benchmark_times_real_jpegs_and_writes_its_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        data, "_rate", lambda batches, workers: {0: 90.0, 1: 80.0, 2: 144.0}[workers]
    )
    path = tmp_path / "data.json"
    benchmark.main(["data", "--images=40", "--rounds=1", f"--json={path}"])
    printed = capsys.readouterr().out
    assert "40 JPEG files of 500x375, 7" in printed and "| decode |" in printed
    assert "| train | 2 | 144 / 144 / 144 | 1.8 / 1.8 / 1.8 |" in printed
    figures = json.loads(path.read_text())
    assert figures["train_images_per_s_per_core"] > 0 < figures["eval_images_per_s_per_core"]
    assert figures["eval_images_per_s_2_workers"] == 144
    assert not any("timm" in name or "ratio" in name for name in figures)


def test_the_memory_of_workers_is_given_for_each(monkeypatch, capsys):
    asked = []

    def by_thread(parts, first, num_workers, **_):
        asked.append(num_workers)
        return pipeline._by_thread(parts, first)

    monkeypatch.setattr(pipeline, "_by_workers", by_thread)
    monkeypatch.setattr(worker_memory, "_when_full", lambda: (3e9, 6e9))
    monkeypatch.setattr(worker_memory, "_shared", lambda: 0)
    benchmark.main(["workers", "--batch_size=8", "--image_size=4", "--workers", "2", "3"])
    assert asked == [2, 3]
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "| 8 |" in line]
    assert [row[2:4] for row in rows] == [["1.5", "3"], ["1", "2"]]
    with pytest.raises(SystemExit, match="--workers is .*; accepted: 1 and more"):
        benchmark.main(["workers", "--workers", "0"])


def test_the_data_benchmark_takes_whole_batches(capsys):
    with pytest.raises(SystemExit, match="--images is 39; accepted: 40 and more"):
        benchmark.main(["data", "--images=39"])


@pytest.mark.slow
def test_scaling_accounts_for_what_devices_exchange_and_hold(tmp_path, monkeypatch, capsys):
    def one_hot(key, images, labels, *, num_classes, group_size, **_):
        assert (images.shape[0], group_size) == (12, 6)
        return images, jax.nn.one_hot(labels, num_classes)

    monkeypatch.setattr(mixup, "mix", one_hot)  # which takes longer to compile than this model
    monkeypatch.setattr(erasing, "erase", lambda key, images: images)
    path = tmp_path / "cells.jsonl"
    arguments = argparse.Namespace(
        topology=None, estimate=False, devices=[4], fsdp=[1, 4], batch_size=12, group_size=6,
        image_size=8, json=path,
    )  # fmt: skip
    monkeypatch.setattr(scaling, "TOPOLOGIES", {4: "v5e:2x2"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    scaling.benchmark({"x": TINY}, arguments)
    whole, split = (json.loads(line) for line in path.read_text().splitlines())
    # Stem 4*4*3*4 + 4, norms 3 * 8, block 7*7*4 + 4, 2 * 4*16 + 16 + 4 and gamma, head 4*3 + 3.
    size = 4 * (196 + 24 + 200 + 148 + 4 + 15)
    assert whole["parameters MB"] == split["parameters MB"] == size / 1e6
    assert whole["state MB a device"] == pytest.approx((4 * size + 5 * 4) / 1e6)
    # The head's bias of 3 is not split.
    assert split["state MB a device"] == pytest.approx((size - 12 + 4 * 12 + 5 * 4) / 1e6)
    assert whole["gradients MB"] == pytest.approx(size / 1e6, rel=0.05)
    assert whole["gathered MB"] == 0 < split["gathered MB"]
    assert whole["sent MB a device"] == pytest.approx(2 * 3 / 4 * size / 1e6, rel=0.05)
    # Of 3 images of a device, as bytes and as floats; the state of fsdp = 4 is gathered.
    assert whole["arguments GB"] == pytest.approx((4 * size + 5 * 4) / 1e9)
    kept = 3 * activations(TINY, 8)
    assert whole["temporary GB"] == pytest.approx((size + 3 * 8 * 8 * 3 * 5 + kept) / 1e9)
    assert split["temporary GB"] == pytest.approx(whole["temporary GB"] + size / 1e9)
    in_all = whole["arguments GB"] + whole["temporary GB"]
    assert whole["fits"] == f"{in_all:.3g} of 16, estimated"
    assert "| x | 4 | 4 | 3 |" in capsys.readouterr().out

    # With libtpu the chips' compiler says it: that of these CPUs, here.
    asked = []
    monkeypatch.setattr(tpu, "chips_of", lambda name: [asked.append(name), jax.devices()[:4]][1])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu")
    monkeypatch.setattr(scaling.metadata, "version", lambda name: "1.2.3")
    scaling.benchmark({"x": TINY}, argparse.Namespace(**vars(arguments) | {"fsdp": [1]}))
    planned = json.loads(path.read_text().splitlines()[-1])
    assert asked == ["v5e:2x2"] and planned["libtpu"] == "1.2.3"
    assert planned["gradients MB"] == whole["gradients MB"]
    assert planned["arguments GB"] == pytest.approx(whole["arguments GB"], rel=0.3)
    assert re.fullmatch(r"\d\S* of 16", planned["fits"])

    with pytest.raises(InputError, match="--fsdp is 3; accepted: divisors of 4 devices"):
        scaling.benchmark({}, argparse.Namespace(**vars(arguments) | {"fsdp": [3]}))
    with pytest.raises(InputError, match="--batch_size is 6; accepted: multiples of 4 devices"):
        scaling.benchmark({}, argparse.Namespace(**vars(arguments) | {"batch_size": 6}))


class TooLarge:
    def compile(self):
        # As libtpu 0.0.42 says it.
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (20.67G) exceeds available HBM (15.75G)."
        )


def test_what_chips_have_no_memory_for_is_said_in_its_place():
    compiled, cells = scaling._planned(TooLarge(), "v5e:2x4")
    assert compiled is None
    assert cells == {"arguments GB": "", "temporary GB": "", "fits": "no: at least 22.2 of 16"}
    assert set(scaling._exchanged(None, [], (8, 8, 3)).values()) == {""}


def test_a_reduction_counts_by_what_is_reduced_and_a_loop_by_its_turns():
    f32 = partial(Array, "f32")
    params = [jax.ShapeDtypeStruct((16, 4), "float32"), jax.ShapeDtypeStruct((10,), "float32")]
    found = [
        Collective("all-reduce", (f32((64,)), f32(())), 8, "", 1),
        Collective("reduce-scatter", (f32((2, 4)),), 8, "", 2),
        Collective("all-gather", (f32((4, 16)), f32((10,))), 4, "", 1),
        Collective("all-gather", (f32((32,)),), 4, "", 1),
        Collective("all-to-all", (f32((64,)),), 8, "", 3),
        Collective("collective-permute", (f32((1, 2, 5, 5, 3)),), 4, "", 1),
    ]
    accounts = scaling.accounts(found, params, (5, 5, 3))
    assert accounts == pytest.approx({
        "gradients MB": 3 * 256e-6, "gathered MB": 296e-6, "images MB": 600e-6,
        "others MB": (4 + 128 + 3 * 256) * 1e-6, "others": 4, "collectives": 9,
        "sent MB a device":
            (455 + 2 * 7 * 32 + 3 / 4 * (296 + 128) + 3 * 7 / 8 * 256 + 600) * 1e-6,
    })  # fmt: skip


def test_a_topology_without_libtpu_is_one_line(monkeypatch, capsys):
    def missing(platform, topology_name):
        raise RuntimeError("no libtpu")

    monkeypatch.setattr(tpu.topologies, "get_topology_desc", missing)
    monkeypatch.setattr(tpu, "ENVIRONMENT", {})
    with pytest.raises(SystemExit, match="no topology v5e:2x4: no libtpu; accepted: one such as"):
        benchmark.main(["scaling", "--devices=8", "--topology=v5e:2x4"])
