"""Compiles for a TPU that is not there: memory and time as its compiler plans them.

Needs `pip install "jax[tpu]"`. Nothing is run: milliseconds here are the compiler's bound.
"""

import argparse
import os
import time
from collections.abc import Sequence
from importlib import metadata

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from convnext.errors import InputError
from convnext.kernels import depthwise, outline
from convnext.models.convnext import ConvNeXt
from dev.benchmarks import layers, models
from dev.benchmarks.measure import Cells

# Read by libtpu, which would look for chips otherwise.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}


def benchmark(model: ConvNeXt, name: str, arguments: argparse.Namespace) -> None:
    chips = chips_of(arguments.topology)
    cells = Cells(arguments.json, **facts(chips))
    with outline.compiling_for("tpu"):
        if arguments.layers:
            _layers(model, chips[0], cells, arguments)
            return
        mesh = Mesh(np.array(chips).reshape(-1, 1), ("data", "fsdp"))
        for batch_size in arguments.batch_size:
            step, _, _ = models.lowered(model, mesh, batch_size, arguments.image_size)
            begin = time.perf_counter()
            plan = step.compile().memory_analysis()
            cells.add(
                model=name,
                topology=arguments.topology,
                remat=str(model.remat),
                dtype=arguments.dtype,
                **{
                    "batch a chip": batch_size,
                    "arguments GB": plan.argument_size_in_bytes / 1e9,
                    "donated GB": plan.alias_size_in_bytes / 1e9,
                    "temporary GB": plan.temp_size_in_bytes / 1e9,
                    "compile s": time.perf_counter() - begin,
                },
            )


def chips_of(topology: str) -> Sequence[jax.Device]:
    """Chips that are not there, of a kind and arrangement such as v5e:2x4.

    Raises InputError where libtpu is not installed or does not know it.
    """
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # of whichever part of libtpu is missing
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"no topology {topology}: {reason}", 'one such as v5e:2x4, with pip install "jax[tpu]"'
        ) from error


def facts(chips: Sequence[jax.Device]) -> dict[str, str]:
    """What takes the place of those of the device at hand."""
    return dict(
        platform="tpu",
        device=f"{chips[0].device_kind}, not at hand",
        libtpu=metadata.version("libtpu"),
    )


def _layers(model, chip, cells, arguments):
    """The compiler counts a loop's turn once: no bound for the sums' kernel gradient."""
    on_chip = jax.sharding.SingleDeviceSharding(chip)
    for batch_size in arguments.batch_size:
        side = arguments.image_size
        for i, channels in enumerate(model.dims):
            side //= model.patch_size if i == 0 else 2
            shape = (batch_size, side, side, channels)
            x = jax.ShapeDtypeStruct(shape, arguments.dtype, sharding=on_chip)
            kernel = jax.ShapeDtypeStruct((7, 7, 1, channels), arguments.dtype, sharding=on_chip)
            for direction, inputs in layers.depthwise_inputs(x, x, kernel).items():
                for implementation, functions in depthwise.implementations().items():
                    cost = jax.jit(functions[direction]).lower(*inputs).compile().cost_analysis()
                    cells.add(
                        layer="depthwise",
                        shape="x".join(map(str, shape)),
                        dtype=arguments.dtype,
                        direction=direction,
                        implementation=implementation,
                        **{
                            "at least ms": cost["optimal_seconds"] * 1e3,
                            "GB": cost["bytes accessed"] / 1e9,
                        },
                    )
