"""What an update moves between devices, and needs of each, by programs for meshes not at hand.

Nothing is run and no state is made. Simulated CPU devices compile the layers that accelerators run.
The memory is what the compiler of a TPU plans for as many of its chips, which needs `pip install
"jax[tpu]"`; without it, an estimate.
"""

import argparse
import importlib.util
import re
import time
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from convnext.errors import require
from convnext.kernels import outline
from convnext.models.convnext import ConvNeXt, activations
from convnext.runs import plan
from convnext.training import erasing, mixup
from dev.benchmarks import collectives, models, tpu
from dev.benchmarks.collectives import REDUCTIONS, Collective
from dev.benchmarks.measure import Cells

# GB of a chip: its HBM capacity on https://docs.cloud.google.com/tpu/docs/v6e, /v5p and so on.
MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
TOPOLOGIES = {8: "v5e:2x4", 64: "v5e:8x8", 256: "v5e:16x16"}  # where none is asked for
OF_PARAMETER = {"all-gather": "gathered"} | dict.fromkeys(REDUCTIONS, "gradients")


def benchmark(variants: dict[str, ConvNeXt], arguments: argparse.Namespace) -> None:
    if arguments.topology:
        meshes = [(name, tpu.chips_of(name)) for name in arguments.topology]
        facts = tpu.facts(meshes[0][1])
    else:
        meshes = [("", jax.devices("cpu")[:count]) for count in arguments.devices]
        facts = {"libtpu": metadata.version("libtpu")} if _plans(arguments) else {}
    batch_size = arguments.batch_size
    for _, devices in meshes:
        whole = batch_size > 0 and batch_size % len(devices) == 0
        require(whole, "--batch_size", batch_size, f"multiples of {len(devices)} devices")
        for fsdp in arguments.fsdp:
            require(len(devices) % fsdp == 0, "--fsdp", fsdp, f"divisors of {len(devices)} devices")
    cells = Cells(arguments.json, **facts)
    for topology, devices in meshes:
        for name, model in variants.items():
            for fsdp in arguments.fsdp:
                cells.add(**_cell(name, model, devices, fsdp, topology, arguments))


def _plans(arguments):
    """Whether the TPU compiler is asked for the memory of as many chips."""
    return not arguments.estimate and importlib.util.find_spec("libtpu") is not None


def _cell(name, model, devices, fsdp, topology, arguments):
    rows, size = arguments.batch_size // len(devices), arguments.image_size
    lowered, state, of_state = _lowered(model, devices, fsdp, arguments)
    begin = time.perf_counter()
    if topology:
        compiled, cells = _planned(lowered, topology)
    else:
        compiled = lowered.compile(compiler_options=collectives.QUICK)
        topology = TOPOLOGIES.get(len(devices), "")
        if topology and _plans(arguments):
            lowered, _, _ = _lowered(model, tpu.chips_of(topology), fsdp, arguments)
            _, cells = _planned(lowered, topology)
        else:
            cells = _estimated(state, of_state, model, rows, topology, arguments)
    return {
        "model": name,
        "devices": len(devices),
        "fsdp": fsdp,
        "images a device": rows,
        "parameters MB": sum(4 * leaf.size for leaf in jax.tree.leaves(state.params)) / 1e6,
        "state MB a device": plan.device_bytes(state, of_state) / 1e6,
        **_exchanged(compiled, state.params, (size, size, model.in_chans)),
        **cells,
        "compile s": time.perf_counter() - begin,
    }


def _lowered(model, devices, fsdp, arguments):
    mesh = Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"))
    mix = partial(
        mixup.mix, num_classes=model.num_classes, group_size=arguments.group_size, mesh=mesh
    )
    with outline.compiling_for("tpu"):  # without the layers that are for CPUs only
        return models.lowered(
            model,
            mesh,
            arguments.batch_size // mesh.size,
            arguments.image_size,
            mix=mix,
            erase=erasing.erase,
            ema_decays=(0.9999,),
        )


def _exchanged(compiled, params, image):
    found = collectives.read(compiled.as_text(), unknown=1) if compiled else []
    cells = accounts(found, params, image)
    return cells if compiled else dict.fromkeys(cells, "")


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


def _planned(lowered, topology):
    """The program for chips, and its memory; None where the chips have less than it needs."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = re.search(r"([\d.]+)G\b", str(error))  # GiB, of its temporaries or of all
        if "RESOURCE_EXHAUSTED" not in str(error) or not needed:
            raise
        fits = f"no: at least {_share(float(needed[1]) * 2**30, topology)}"
        return None, {"arguments GB": "", "temporary GB": "", "fits": fits}
    parts = plan.planned(compiled)
    return compiled, {
        "arguments GB": parts["arguments"] / 1e9,
        "temporary GB": parts["temporary"] / 1e9,
        "fits": _share(sum(parts.values()), topology),
    }


def _estimated(state, of_state, model, rows, topology, arguments):
    size = arguments.image_size
    parts = plan.estimate(
        state,
        of_state,
        dtype=model.dtype,
        row_bytes=size**2 * model.in_chans * (1 + 4),
        activations=activations(model, size),
        rows=rows,
        rows_at_once=rows,
    )
    total = sum(parts.values())
    return {
        "arguments GB": parts["state"] / 1e9,
        "temporary GB": (total - parts["state"]) / 1e9,
        "fits": f"{_share(total, topology)}, estimated",
    }


def _share(nbytes, topology):
    """GB of those of a chip."""
    kind = topology.partition(":")[0]
    return f"{nbytes / 1e9:.3g} of {MEMORY[kind]}" if kind in MEMORY else f"{nbytes / 1e9:.3g}"
