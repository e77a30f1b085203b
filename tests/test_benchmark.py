"""What the benchmarks print and write; how fast anything is, is not tested."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from convnext import VARIANTS, ConvNeXt, depthwise
from convnext.errors import InputError
from tools import benchmark
from tools.benchmarks import data, layers, measure, models

ROOT = Path(__file__).parent.parent
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
    recorded = tmp_path / "depthwise.json"
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
        "import sys; from tools import benchmark; "
        "print(sorted({'safetensors', 'PIL', 'cv2', 'grain', 'ml_collections', 'tensorboardX', "
        "'matplotlib', 'huggingface_hub'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


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


def test_the_data_benchmark_takes_whole_batches(capsys):
    with pytest.raises(SystemExit, match="--images is 39; accepted: 40 and more"):
        benchmark.main(["data", "--images=39"])
