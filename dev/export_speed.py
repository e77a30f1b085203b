"""Measures how long onnxruntime takes for exported graphs, on one thread of a CPU.

    python -m dev.export_speed atto v2_atto tiny

Prints milliseconds of process time, which other work does not add to, the least of some runs that
take turns: with the linear layers of a block as matrix products, and as convolutions of 1x1.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from convnext.export import onnx
from convnext.models.convnext import VARIANTS, ConvNeXt, smallest_image

SIDE = 224
ROUNDS = {1: 8, 8: 4}  # by batch size


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.export_speed", allow_abbrev=False)
    parser.add_argument("variants", nargs="+", choices=VARIANTS, metavar="VARIANT")
    shown = Table("variant", "batch size", "matrix products", "1x1 convolutions", box=None)
    for name in parser.parse_args(argv).variants:
        for batch_size, (linear, conv) in measured(name).items():
            shown.add_row(name, str(batch_size), f"{linear:.1f} ms", f"{conv:.1f} ms")
    Console().print(shown)


def measured(name: str) -> dict[int, list[float]]:
    """Milliseconds of both forms, by batch size."""
    model = ConvNeXt(**VARIANTS[name], num_classes=1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), smallest_image(model))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(scale=0.02, size=leaf.shape).astype(np.float32), shapes
    )
    sessions = [_session(onnx.model_proto(model, params, conv_mlp=each)) for each in (False, True)]
    times = {}
    for batch_size, rounds in ROUNDS.items():
        images = rng.normal(size=(batch_size, 3, SIDE, SIDE)).astype(np.float32)
        runs = [[_timed(session, images) for session in sessions] for _ in range(rounds + 1)]
        times[batch_size] = [1000 * min(each) for each in zip(*runs[1:], strict=True)]
    return times


def _session(proto: Any):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _timed(session, images):
    begin = time.process_time()
    session.run(None, {onnx.INPUT: images})
    return time.process_time() - begin


if __name__ == "__main__":
    main()
