"""What a program for a GPU launches, read from its text; the compiler itself needs 4.6 GB."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from convnext import ConvNeXt
from convnext.errors import InputError
from dev import benchmark
from dev.benchmarks import gpu, models
from dev.benchmarks.gpu import Launch

# As XLA writes it for an H100: a product and its workspace, kernels, a copy, a fusion in a loop.
TEXT = Path(__file__).with_name("gpu_step.hlo").read_text()
MAP = 2 * 7 * 7 * 4
FOUND = [
    Launch("product", "downsample_conv", "forward", 2 * (8 * 16 + 16 * 4 + 8 * 4), 8 * 16 * 4, 1,
           "", ""),
    Launch("convolution", "block/dwconv", "forward", 2 * 4 * MAP + 2 * 49 * 4, 49 * MAP, 1,
           "depthwise_forward", "depthwise_forward"),
    Launch("kernel", "block/norm", "backward", 3 * 2 * 8 * 4, 0, 1,
           "standardize_gradient_3", "standardize_gradient_3"),
    Launch("copy", "", "forward", 2 * 4 * MAP, 0, 1, "", ""),
    Launch("fusion", "block/norm", "backward", 2 * 2 * 8 * 4, 0, 3, "loop_negate",
           "loop_negate bf16[8, 4] bf16[8, 4]"),
]  # fmt: skip


def test_a_launch_counts_with_operands_and_results_as_often_as_it_runs():
    assert gpu.launches(TEXT) == FOUND


def test_a_launch_takes_the_time_of_its_bytes_or_of_its_products(monkeypatch):
    monkeypatch.setattr(gpu, "COPY_RATE", 100.0)
    monkeypatch.setattr(gpu, "PRODUCT_RATE", 50.0)
    monkeypatch.setattr(gpu, "UNIT_RATE", 10.0)
    seconds = [each.seconds for each in FOUND]
    assert seconds == [8 * 16 * 4 / 50, 49 * MAP / 10, 192 / 100, 8 * MAP / 100, 3 * 128 / 100]
    assert [row["layer"] for row in gpu.table(FOUND)] == [
        "block/dwconv", "update", "downsample_conv", "block/norm", "block/norm"
    ]  # fmt: skip
    assert gpu.table(FOUND)[-2]["least ms"] == 3 * 128 / 100 * 1e3


class Compiled:
    """In place of a GPU's compiler."""

    def compile(self, compiler_options):
        self.options = compiler_options
        return self

    def as_text(self):
        return TEXT

    def memory_analysis(self):
        return SimpleNamespace(argument_size_in_bytes=2e9, temp_size_in_bytes=3e9)


@pytest.mark.parametrize("mode", benchmark.MODES)
def test_a_step_is_compiled_with_its_options_and_a_table_follows(mode, tmp_path, monkeypatch):
    step = Compiled()
    monkeypatch.setattr(gpu, "gpu_of", lambda target: jax.devices()[0])
    monkeypatch.setattr(models, "lowered", lambda *_: (step, None, None))
    monkeypatch.setattr(models, "lowered_inference", lambda *_: step)
    model, path = ConvNeXt(depths=(1,), dims=(4,), num_classes=3), tmp_path / "cells.jsonl"
    arguments = argparse.Namespace(
        target=gpu.TARGET, option=["xla_gpu_a=true", "xla_gpu_b=7", "xla_gpu_c=x"], json=path,
        mode=[mode], batch_size=[16], image_size=8, dtype="bfloat16", hlo=tmp_path / "step.hlo",
    )  # fmt: skip
    gpu.benchmark(model, "x", arguments)
    assert step.options == {"xla_gpu_enable_triton_gemm": False, "xla_gpu_a": True,
                            "xla_gpu_b": 7, "xla_gpu_c": "x"}  # fmt: skip
    assert (tmp_path / "step.hlo").read_text() == TEXT
    whole, *rows = (json.loads(line) for line in path.read_text().splitlines())
    assert whole["launches"] == 7 and whole["platform"] == "cuda" and whole["mode"] == mode
    assert whole["GB"] == pytest.approx(sum(each.times * each.bytes for each in FOUND) / 1e9)
    assert whole["arguments GB"] == 2 and whole["temporary GB"] == 3
    least = sum(each.seconds for each in FOUND)
    assert whole["images/s at most"] == pytest.approx(16 / least)
    assert sum(row["launches"] for row in rows) == 7 and len(rows) == 5


def test_inference_is_lowered_for_a_device_that_is_not_this_one():
    model = ConvNeXt(depths=(1,), dims=(4,), num_classes=3)
    text = models.lowered_inference(model, jax.devices()[3], 2, 8).as_text()
    assert "tensor<2x8x8x3xui8>" in text and "tensor<2x3xf32>" in text


def test_without_a_compiler_for_gpus_or_a_description_it_is_one_line(monkeypatch, tmp_path):
    def missing(**_):
        raise RuntimeError("no plugin")

    monkeypatch.setattr(gpu.topologies, "get_topology_desc", missing)
    with pytest.raises(SystemExit, match=r'h100.txtpb: no plugin; accepted: pip install "jax\[cu'):
        benchmark.main(["gpu"])
    with pytest.raises(InputError, match="--target is .*none.*; accepted: a file such as dev/benc"):
        gpu.gpu_of(tmp_path / "none")
