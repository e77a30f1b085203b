"""The layers of a model at the shapes of its stages, each implementation beside its floor."""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from convnext.kernels import depthwise, outline, pointwise
from convnext.models.convnext import ConvNeXt
from dev.benchmarks.measure import Cells, copy_rate, matmul_rate, milliseconds, spread


def benchmark(model: ConvNeXt, name: str, arguments: argparse.Namespace) -> None:
    cells = Cells(arguments.json)
    product = matmul_rate(arguments.dtype)
    large = copy_rate(2**26 if outline.on_cpu() else 2**30)
    cells.add(**{"copy GB/s": large / 1e9, "matmul GMAC/s": product / 1e9})
    recorded = []
    for batch_size in arguments.batch_size:
        side = arguments.image_size
        for i, channels in enumerate(model.dims):
            side //= model.patch_size if i == 0 else 2
            shape = (batch_size, side, side, channels)
            for layer, direction, implementation, bytes_, macs, function, inputs in _layers(
                shape, arguments.dtype
            ):
                ms = spread(milliseconds(jax.jit(function), *inputs))
                floor = max(bytes_ / copy_rate(bytes_ // 2), macs / product) * 1e3
                cells.add(
                    layer=layer,
                    shape="x".join(map(str, shape)),
                    dtype=arguments.dtype,
                    direction=direction,
                    implementation=implementation,
                    ms=ms,
                    **{"floor ms": floor},
                )
                if layer == "depthwise":
                    recorded.append((side * side, direction, implementation, ms[1]))
    if arguments.record:
        record(cells.facts, arguments, recorded)


def _layers(shape, dtype):
    """Layer, direction, implementation; bytes and multiply-accumulates of a matrix product that it
    cannot do without; function and inputs."""
    rng = np.random.default_rng(0)
    channels = shape[-1]
    positions = int(np.prod(shape[:-1]))

    def array(*sizes):
        return jnp.asarray(rng.standard_normal(sizes), dtype)

    x, g, kernel = array(*shape), array(*shape), array(7, 7, 1, channels)
    # On CPU a product takes as long in a sum as in a matrix; elsewhere the traffic bounds.
    macs = 49 * x.size if outline.on_cpu() else 0
    for direction, of_direction in depthwise_inputs(x, g, kernel).items():
        for name, functions in depthwise.implementations().items():
            yield (
                "depthwise",
                direction,
                name,
                2 * x.nbytes,
                macs,
                functions[direction],
                of_direction,
            )

    def both(function):
        def gradient(g, *inputs):
            return jax.vjp(function, *inputs)[1](g)

        return {"forward": lambda g, *inputs: function(*inputs), "gradient": gradient}

    scale, bias, wide = array(channels), array(channels), array(*shape[:-1], 4 * channels)
    up = array(channels, 4 * channels)
    norm = partial(pointwise.layer_norm, eps=1e-6)
    macs = positions * channels * 4 * channels
    for layer, function, arguments, traffic, work in (
        ("layer_norm", norm, (g, x, scale, bias), 2 * x.nbytes, 0),
        ("gelu", pointwise.gelu, (wide, wide), 2 * wide.nbytes, 0),
        ("pointwise", pointwise.dense, (wide, x, up), x.nbytes + wide.nbytes, macs),
    ):
        for direction, run in both(function).items():
            factor = 1 if direction == "forward" else 2
            yield layer, direction, "", factor * traffic, factor * work, run, arguments


def depthwise_inputs(x, g, kernel):
    return dict(forward=(x, kernel), input_gradient=(g, kernel), kernel_gradient=(x, kernel, g))


def record(device, arguments, recorded):
    path = Path(depthwise.__file__).with_name("timings.json")
    rows = {}
    for pixels, direction, implementation, ms in recorded:
        row = rows.setdefault((pixels, direction), dict(pixels=pixels, direction=direction, ms={}))
        row["ms"][implementation] = round(ms, 4)
    timings = json.loads(path.read_text())
    name = device.pop("platform")
    timings[name] = {
        **device,
        "dtype": arguments.dtype,
        "batch_size": arguments.batch_size[-1],
        "variant": arguments.variant,
        "rows": list(rows.values()),
    }
    path.write_text(json.dumps(timings, indent=1) + "\n")
