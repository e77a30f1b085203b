"""Compiles for a GPU that is not there: what its compiler launches, and the bytes that moves.

Needs `pip install "jax[cuda13]"`, in a Python from 3.12 on, and JAX_PLATFORMS=cpu. Nothing is run
or tuned: which library's product is the fastest, only a GPU says. A launch takes at least the time
in which its operands and results go through memory at the rate of a copy, and its multiply-adds
through the units that do them.
"""

import argparse
import math
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from convnext.errors import InputError, require
from convnext.kernels import outline
from convnext.models.convnext import ConvNeXt
from dev.benchmarks import hlo, models
from dev.benchmarks.measure import Cells

TARGET = Path(__file__).with_name("h100.txtpb")
# Bytes, and multiply-adds in bfloat16, a second: measured on an H100, with the file above. Those of
# float32 outside of products are its 132 * 128 units at 1.98 GHz.
COPY_RATE, PRODUCT_RATE, UNIT_RATE = 2.83e12, 331e12, 33.5e12
TAPS = 49  # of the depthwise convolution


class Launch(NamedTuple):
    """One instruction that the GPU is given."""

    kind: str  # "product", "convolution", other "kernel" of ours, "copy"; all else is "fusion"
    layer: str  # of the model, without numbers: block/norm; "" outside of it
    direction: str  # "forward" or "backward"
    bytes: int  # of operands and results
    macs: int  # multiply-accumulates, of products and convolutions
    times: int  # that it is launched
    name: str  # of the function that the GPU runs; "" where a library has it
    alike: str  # the same for fusions that share one function, which has the name of one of them

    @property
    def seconds(self) -> float:
        """The least that all of them take."""
        rate = UNIT_RATE if self.kind == "convolution" else PRODUCT_RATE
        return self.times * max(self.bytes / COPY_RATE, self.macs / rate)


def benchmark(model: ConvNeXt, name: str, arguments: argparse.Namespace) -> None:
    gpu = gpu_of(arguments.target)
    given = dict(map(_option, arguments.option))
    cells = Cells(arguments.json, platform="cuda", device=f"{gpu.device_kind}, not at hand")
    mesh = Mesh(np.array([gpu]).reshape(1, 1), ("data", "fsdp"))
    for mode in arguments.mode:
        for batch_size in arguments.batch_size:
            with outline.compiling_for("cuda"):
                if mode == "training":
                    step, _, _ = models.lowered(model, mesh, batch_size, arguments.image_size)
                else:
                    step = models.lowered_inference(model, gpu, batch_size, arguments.image_size)
                begin = time.perf_counter()
                compiled = step.compile(compiler_options=outline.compiler_options() | given)
            seconds = time.perf_counter() - begin
            if arguments.hlo:
                arguments.hlo.write_text(compiled.as_text())
            found = launches(compiled.as_text())
            plan, least = compiled.memory_analysis(), sum(each.seconds for each in found)
            cells.add(
                model=name,
                mode=mode,
                batch=batch_size,
                dtype=arguments.dtype,
                **{
                    "sums in": model.map_dtype.name,
                    "kernels": model.kernels,
                    "launches": sum(each.times for each in found),
                    "GB": sum(each.times * each.bytes for each in found) / 1e9,
                    "least ms": least * 1e3,
                    "images/s at most": batch_size / least,
                    "arguments GB": plan.argument_size_in_bytes / 1e9,
                    "temporary GB": plan.temp_size_in_bytes / 1e9,
                    "compile s": seconds,
                },
            )
            for row in table(found):
                cells.add(**row)


def gpu_of(target: Path) -> jax.Device:
    """A GPU that is not there, of a file such as h100.txtpb.

    Raises InputError where there is no such file, or no compiler for GPUs.
    """
    require(target.is_file(), "--target", str(target), "a file such as dev/benchmarks/h100.txtpb")
    try:
        found = topologies.get_topology_desc(
            platform="cuda", topology="1x1x1", target_config=target.read_text()
        )
    except Exception as error:  # of whichever part of the plugin is missing
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"no GPU of {target}: {reason}", 'pip install "jax[cuda13]", in a Python from 3.12 on'
        ) from error
    return found.devices[0]


def launches(text: str) -> list[Launch]:
    """What a compiled program gives to the GPU.

    A fusion that reads a part of an operand counts with all of it.
    """
    computations, entry = hlo.computations(text)
    times = hlo.times(computations, entry, unknown=1)
    found, waiting, seen = [], [entry], set()
    while waiting:
        computation = waiting.pop()
        if computation in seen or computation not in times:
            continue
        seen.add(computation)
        results: dict[str, Sequence[hlo.Array]] = {}
        for line in computations[computation]:
            if not (match := _INSTRUCTION.match(line)):
                continue
            name, result, operation, operands = match.groups()
            results[name] = hlo.arrays(result)
            if operation in _CALLS:
                waiting += re.findall(
                    r"(?:body|condition|to_apply|calls|\w+_computations?)=\{?%?([\w.-]+)", line
                )
            elif operation not in _FREE and not operation.endswith(("-done", "-update")):
                read = [results.get(each, ()) for each in re.findall(r"%([\w.-]+)", operands)]
                found.append(_launch(line, operation, results[name], read, times[computation]))
    return found


_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)")
_CALLS = ("while", "call", "conditional", "async-start")
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all",
         "partition-id", "replica-id", "opt-barrier")  # fmt: skip


def _launch(line, operation, result, read, times):
    kind, macs = "fusion", 0
    name, base = re.match(r"\s*(?:ROOT )?%?(([\w.-]+?)[.\d]*) =", line).groups()
    target = re.search(r'custom_call_target="([^"]+)"', line)
    target = target[1] if target else ""
    arrays = [array for each in read for array in each]
    if "cublas" in target or operation == "dot" or "__triton_gemm" in line:
        # M x K, K x N and M x N: the root of their product is M K N.
        kind, macs = "product", math.isqrt(math.prod(a.size for a in (*arrays[:2], result[0])))
    elif "__cudnn$conv" in target or 'name = "depthwise_' in line:
        kind, macs = "convolution", TAPS * max(array.size for array in (*arrays, *result))
    elif "ptx" in target:
        kind = "kernel"
    elif operation in ("copy", "copy-start", "transpose"):
        kind = "copy"
    ours = re.search(r'\bname = "(\w+)"', line)
    if "ptx" in target and ours:
        name = alike = ours[1]
    elif kind == "fusion":
        shapes = [f"{array.dtype}{list(array.shape)}" for array in (*result, *arrays)]
        name, alike = re.sub(r"\W", "_", name), " ".join([base, *shapes])
    else:
        name = alike = ""
    nbytes = sum(array.bytes for array in (*arrays, *result) if array.dtype != "s8")  # workspaces
    path = hlo.op_name(line)
    return Launch(kind, layer_of(path), _direction(path), nbytes, macs, times, name, alike)


def _direction(path):
    return "backward" if "transpose(" in path else "forward"


def layer_of(path: str) -> str:
    """jit(step)/jvp(ConvNeXt)/ConvNeXt._maps/stage_0_block_0/norm.into/mul -> block/norm."""
    names = [re.fullmatch(r"([a-z_\d]+)(\.\w+)?", part) for part in path.split("/")[:-1]]
    inside = [name[1] for name in names if name and not _CONTROL.match(name[1])]
    layer = re.sub(r"stage_\d+_block", "block", "/".join(inside))
    return re.sub(r"_\d+", "", layer)


_CONTROL = re.compile(r"(cond|branch_.*|while|body|closed_call|train_step)$")


def table(found: Sequence[Launch]) -> list[Mapping[str, object]]:
    """Rows of what takes longest at least, first."""
    groups = defaultdict(list)
    for each in found:
        groups[each.kind, each.layer, each.direction].append(each)
    rows = [
        {
            "kind": kind,
            "layer": layer or "update",
            "direction": direction,
            "launches": sum(each.times for each in group),
            "GB": sum(each.times * each.bytes for each in group) / 1e9,
            "least ms": sum(each.seconds for each in group) * 1e3,
        }
        for (kind, layer, direction), group in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["least ms"])


def _option(text):
    """xla_gpu_enable_triton_gemm=false -> its name and False."""
    name, _, value = text.partition("=")
    known = {"true": True, "false": False}
    return name, known.get(value, int(value) if re.fullmatch(r"-?\d+", value) else value)
