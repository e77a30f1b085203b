"""What an update moves between devices, and needs of each, by programs for meshes not at hand.

Nothing is run and no state is made. Simulated CPU devices compile the layers that accelerators run.
The chips of a TPU are those of its own compiler, which needs `pip install "jax[tpu]"`: it says also
what memory it plans.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from convnext import erasing, memory, mixup, outline
from convnext.errors import require
from convnext.model import ConvNeXt
from tools.benchmarks import collectives, models, tpu
from tools.benchmarks.collectives import REDUCTIONS, Collective
from tools.benchmarks.measure import Cells

# GB of a chip: its HBM capacity on https://docs.cloud.google.com/tpu/docs/v6e, /v5p and so on.
MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
OF_PARAMETER = {"all-gather": "gathered"} | dict.fromkeys(REDUCTIONS, "gradients")


def benchmark(variants: dict[str, ConvNeXt], arguments: argparse.Namespace) -> None:
    if arguments.topology:
        meshes = [(name, tpu.chips_of(name)) for name in arguments.topology]
        cells = Cells(arguments.json, **tpu.facts(meshes[0][1]))
    else:
        meshes = [("", jax.devices("cpu")[:count]) for count in arguments.devices]
        cells = Cells(arguments.json)
    batch_size = arguments.batch_size
    for _, devices in meshes:
        whole = batch_size > 0 and batch_size % len(devices) == 0
        require(whole, "--batch_size", batch_size, f"multiples of {len(devices)} devices")
        for fsdp in arguments.fsdp:
            require(len(devices) % fsdp == 0, "--fsdp", fsdp, f"divisors of {len(devices)} devices")
    for topology, devices in meshes:
        for name, model in variants.items():
            for fsdp in arguments.fsdp:
                mesh = Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"))
                cells.add(**_cell(name, model, mesh, topology, arguments))


def _cell(name, model, mesh, topology, arguments):
    rows, size = arguments.batch_size // mesh.size, arguments.image_size
    mix = partial(mixup.mix, num_classes=model.num_classes, group_size=arguments.group_size,
                  mesh=mesh)  # fmt: skip
    with outline.compiling_for("tpu"):  # without the layers that are for CPUs only
        lowered, state, of_state = models.lowered(
            model, mesh, rows, size, mix=mix, erase=erasing.erase, ema_decays=(0.9999,)
        )  # fmt: skip
    begin = time.perf_counter()
    compiled = lowered.compile(compiler_options=None if topology else collectives.QUICK)
    seconds = time.perf_counter() - begin
    return {
        "model": name,
        "devices": mesh.size,
        "fsdp": mesh.shape["fsdp"],
        "images a device": rows,
        "parameters MB": sum(4 * leaf.size for leaf in jax.tree.leaves(state.params)) / 1e6,
        "state MB a device": memory.of_a_device(state, of_state) / 1e6,
        **accounts(
            collectives.read(compiled.as_text(), unknown=1),
            state.params,
            (size, size, model.in_chans),
        ),
        **_memory(compiled, topology),
        "compile s": seconds,
    }


def accounts(
    found: Sequence[Collective], params: Any, image: tuple[int, int, int]
) -> dict[str, float | int]:
    """What an update exchanges. An array with as many elements as a parameter is taken for its
    gradient in a reduction, and for itself in a gather; else one that ends in the axes of `image`
    [H, W, C] for images. MB are of results, all of them; `others` counts the collectives of none
    of these."""
    sizes = {leaf.size for leaf in jax.tree.leaves(params)}
    nbytes = dict.fromkeys(("gradients", "gathered", "images", "others"), 0)
    others = 0
    for one in found:
        size = one.group_size if one.kind == "reduce-scatter" else 1  # parts of a result
        of_parameter = OF_PARAMETER.get(one.kind)
        known = False
        for array in one.results:
            what = "images" if array.shape[-3:] == image else "others"
            if of_parameter and size * array.size in sizes:
                what = of_parameter
            nbytes[what] += one.times * size * array.bytes
            known |= what != "others"
        others += 0 if known else one.times
    return {
        **{f"{what} MB": count / 1e6 for what, count in nbytes.items()},
        "others": others,
        "sent MB a device": sum(one.times * one.sent for one in found) / 1e6,
        "collectives": sum(one.times for one in found),
    }


def _memory(compiled, topology):
    if not topology:
        return {"arguments GB": "", "temporary GB": "", "fits": ""}
    plan = memory.planned(compiled)
    kind = topology.partition(":")[0]
    return {
        "arguments GB": plan["arguments"] / 1e9,
        "temporary GB": plan["temporary"] / 1e9,
        "fits": f"{sum(plan.values()) / 1e9:.3g} of {MEMORY[kind]}" if kind in MEMORY else "",
    }
