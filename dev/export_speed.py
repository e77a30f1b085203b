"""Measures how long onnxruntime takes for exported graphs, on one thread of a CPU.

    taskset --cpu-list 0 python -m dev.export_speed [--peer=timm] atto v2_atto tiny

Prints milliseconds of process time, which other work adds little to, the least of some runs that
take turns: of the graph with the linear layers of a block as matrix products, and as convolutions
of 1x1; of the model here, for which taskset leaves one thread; with --peer=timm, of the graph that
torch.onnx writes of timm's model with the same weights. That needs .venv-parity of `make parity`,
and there `pip install onnxscript`.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import convnext
from convnext.export import checks, onnx
from convnext.kernels.outline import compiler_options
from convnext.models.convnext import VARIANTS, ConvNeXt
from dev.random_params import random_params

SIDE = 224
ROUNDS = {1: 20, 8: 8}  # by batch size
TOLERANCE = 1e-4  # of the largest logit

Run = Callable[[np.ndarray], Any]  # from images [N, C, H, W]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.export_speed", allow_abbrev=False)
    parser.add_argument("variants", nargs="+", choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--peer", choices=["timm"])
    args = parser.parse_args(argv)
    shown = None
    for name in args.variants:
        runs = _runs(name, args.peer)
        shown = shown or Table("variant", "batch size", *runs, box=None)
        for batch_size, times in measured(list(runs.values())).items():
            shown.add_row(name, str(batch_size), *(f"{each:.1f} ms" for each in times))
    Console(width=120).print(shown)


def measured(runs: list[Run]) -> dict[int, list[float]]:
    """Returns the milliseconds of each, by batch size. Raises ValueError where their logits
    differ."""
    times = {}
    for batch_size, rounds in ROUNDS.items():
        images = np.random.default_rng(0).normal(size=(batch_size, 3, SIDE, SIDE))
        images = images.astype(np.float32)
        first, *others = (np.asarray(run(images)) for run in runs)
        apart = max(checks.relative(each, first) for each in others)
        if apart > TOLERANCE:
            raise ValueError(f"logits differ by {apart:.1e} of the largest")
        taken = [[_timed(run, images) for run in runs] for _ in range(rounds)]
        times[batch_size] = [1000 * min(each) for each in zip(*taken, strict=True)]
    return times


def _runs(name, peer):
    """What is measured, by its title."""
    model = ConvNeXt(**VARIANTS[name], num_classes=1000)
    params = random_params(model, 0.02)
    apply = jax.jit(
        lambda params, x: model.apply({"params": params}, x), compiler_options=compiler_options()
    )
    runs = {
        "matrix products": _session(
            onnx.model_proto(model, params, image_size=SIDE, conv_mlp=False)
        ),
        "1x1 convolutions": _session(onnx.model_proto(model, params, image_size=SIDE)),
        "JAX": lambda images: apply(params, np.moveaxis(images, 1, -1)).block_until_ready(),
    }
    if peer:
        runs["timm's export"] = _session(_timm_graph(model, params))
    return runs


def _timm_graph(model, params):
    """The graph of batches and sides of one size that torch.onnx writes."""
    import dev.torchvision_operators  # isort: skip  # noqa: F401
    import timm
    import torch

    with tempfile.TemporaryDirectory() as folder:
        convnext.save_pretrained(folder, model, params, format="timm")
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    file = io.BytesIO()
    batch = {"x": {0: torch.export.Dim("batch")}}
    images = (torch.zeros(2, 3, SIDE, SIDE),)
    program = torch.onnx.export(theirs, images, dynamo=True, dynamic_shapes=batch, verbose=False)
    program.save(file)
    return file.getvalue()


def _session(graph: Any) -> Run:
    contents = graph if isinstance(graph, bytes) else graph.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _timed(run, images):
    begin = time.process_time()
    run(images)
    return time.process_time() - begin


if __name__ == "__main__":
    main()
