"""Inference and training steps of whole models, beside PyTorch's where it is asked for."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from convnext import sharding
from convnext.errors import InputError, require
from convnext.kernels import outline
from convnext.models.convnext import ConvNeXt, abstract_params, macs
from convnext.runs import plan
from convnext.training import losses, optimizer, steps
from dev.benchmarks.measure import SECONDS, Cells, Peer, matmul_rate, milliseconds, spread

NORMALIZE = partial(steps.normalize, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def benchmark(model: ConvNeXt, name: str, arguments: argparse.Namespace) -> None:
    pages = ratios_of(arguments.page) if arguments.page else {}
    if arguments.peer:
        _check_peer_has(model, name, arguments.peer)
    cells = Cells(arguments.json)
    peak = matmul_rate(arguments.dtype)
    for mode in arguments.mode:
        for batch_size in arguments.batch_size:
            cell = _measure_model(model, mode, batch_size, peak, arguments)
            cells.add(model=name, mode=mode, batch=batch_size, dtype=arguments.dtype, **cell)
    low = [
        f"{key} is {row['ratio'][1]:.2f} and {pages[key]:.2f} on the page"
        for row in cells.rows
        if (key := (row["model"], row["mode"], row["batch"], row["dtype"])) in pages
        and row["ratio"][1] < 0.9 * pages[key]
    ]
    if low:
        raise InputError(f"ratio of {'; '.join(low)}", "at least 0.9 of it")


def _measure_model(model, mode, batch_size, peak, arguments):
    rng = np.random.default_rng(0)
    size = arguments.image_size
    images = rng.integers(0, 256, (batch_size, size, size, model.in_chans), dtype=np.uint8)
    labels = rng.integers(0, model.num_classes, batch_size, dtype=np.int32)
    run, compiled, seconds = program(model, mode, images, labels)
    peer = arguments.peer and Peer(
        arguments.peer_python,
        "peer",
        project=arguments.peer,
        mode=mode,
        dtype=arguments.dtype,
        batch_size=batch_size,
        image_size=size,
        fields=peer_fields(model),
    )
    ours, theirs = [], {}
    for _ in range(arguments.rounds):
        time.sleep(1)  # the peer's threads spin a while before they sleep
        ours.append(milliseconds(run, seconds=2 * SECONDS))
        for variant, times in peer.measure().items() if peer else ():
            theirs.setdefault(variant, []).append(times)
    ms = list(chain(*ours))
    middle = statistics.median(ms)
    work = macs(model, size) * batch_size * (3 if mode == "training" else 1)
    cell = {
        "ms": spread(ms),
        "images/s": batch_size / middle * 1e3,
        "GMAC/s": work / middle / 1e6,
        "of peak": work / middle * 1e3 / peak,
        "memory GB": _memory(compiled),
        "compile s": seconds,
    }
    if peer:
        peer.close()
        flat = {variant: list(chain(*rounds)) for variant, rounds in theirs.items()}
        best = min(flat, key=lambda variant: statistics.median(flat[variant]))
        cell |= {
            f"{arguments.peer} ms": spread(flat[best]),
            "its best": best,
            "its versions": " ".join(map(" ".join, peer.versions.items())),
        }
        pairs = zip(theirs[best], ours, strict=True)
        cell["ratio"] = spread([statistics.median(b) / statistics.median(a) for b, a in pairs])
    return cell


def program(
    model: ConvNeXt, mode: str, images: np.ndarray, labels: np.ndarray
) -> tuple[Callable[[], Any], Any, float]:
    """What is run, without arguments; what XLA made of it; and the seconds that took.

    Inference is normalised images to logits. Training is the update of `train.py`: drop path, soft
    targets, AdamW with the paper's decay; no average and no mixing.
    """
    init, train_step = training(model, images.shape[1])
    state = jax.jit(init)(jax.random.key(0))
    batch = jax.device_put({"image": images, "label": labels})
    if mode == "inference":
        inputs = (state.params, batch["image"])
        function = jax.jit(inference(model))
    else:
        inputs = (state, batch)
        function = jax.jit(train_step, donate_argnums=0)
    begin = time.perf_counter()
    compiled = function.lower(*inputs).compile(compiler_options=outline.compiler_options())
    seconds = time.perf_counter() - begin

    def run():
        nonlocal inputs
        if mode == "inference":
            return compiled(*inputs)
        state, values = compiled(*inputs)
        inputs = (state, batch)
        return values

    return run, compiled, seconds


def inference(model: ConvNeXt) -> Callable:
    """Makes apply(params, images), see `program`."""
    return lambda params, images: model.apply({"params": params}, NORMALIZE(images))


def training(
    model: ConvNeXt,
    image_size: int,
    ema_decays: Sequence[float] = (),
    gathered: jax.sharding.Sharding | None = None,
    **options: Any,
) -> tuple[Callable, Callable]:
    """Makes init(key) and train_step(state, batch), see `program`. `options` are `mix`, `erase`,
    and fields of steps.Update."""
    tx = optimizer.adamw(lambda step: 1e-3, weight_decay=0.05, b1=0.9, b2=0.999, eps=1e-8)
    mix = options.pop("mix", lambda key, x, y: (x, jax.nn.one_hot(y, model.num_classes)))
    erase = options.pop("erase", lambda key, images: images)

    # As tasks/classification.py has them, which would need the packages that read images.
    def prepare(keys, batch):
        mix_key, erase_key = keys
        images, targets = mix(mix_key, erase(erase_key, NORMALIZE(batch["image"])), batch["label"])
        return {"image": images, "target": targets}

    def loss(variables, batch, key):
        logits = model.apply(variables, batch["image"], train=True, rngs={"dropout": key})
        return losses.loss(logits, batch["target"]).mean(), ({}, {})

    def init(key):
        variables = model.init(key, jnp.zeros((1, image_size, image_size, model.in_chans)))
        return steps.start(variables, tx=tx, ema_decays=ema_decays)

    train_step = partial(
        steps.train_step,
        task=SimpleNamespace(prepare=prepare, loss=loss, parts_in_turn=False),
        update=steps.Update(tx, ema_decays, **options),
        key=jax.random.key(1),
        gathered=gathered,
    )
    return init, train_step


def lowered(
    model: ConvNeXt, mesh: Mesh, batch_size: int, image_size: int, **options: Any
) -> tuple[jax.stages.Lowered, Any, Any]:
    """A training step on batch_size images a device, to be compiled for a mesh that need not be at
    hand; the state's shapes, and their sharding."""
    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    init, train_step = training(model, image_size, gathered=whole, **options)
    state = jax.eval_shape(init, jax.random.key(0))
    shape = (mesh.size * batch_size, image_size, image_size, model.in_chans)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "label": jax.ShapeDtypeStruct(shape[:1], np.int32),
    }
    of_state = sharding.state_sharding(state, mesh)
    step = jax.jit(
        train_step, in_shardings=(of_state, rows), out_shardings=(of_state, whole), donate_argnums=0
    )
    return step.lower(state, batch), state, of_state


def lowered_inference(
    model: ConvNeXt, device: jax.Device, batch_size: int, image_size: int
) -> jax.stages.Lowered:
    """Inference, to be compiled for a device that need not be at hand."""
    here = jax.sharding.SingleDeviceSharding(device)
    shape = (batch_size, image_size, image_size, model.in_chans)
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    return jax.jit(inference(model), in_shardings=here).lower(abstract_params(model), images)


def _memory(compiled):
    """GB at most: measured where the device says it, else what the program was planned with."""
    measured = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return (measured or sum(plan.planned(compiled).values())) / 1e9


def _check_peer_has(model, name, peer):
    require(
        len(model.depths) == 4 and model.stem_norm,
        "--peer",
        f"{peer}, for {name}",
        "a model of four stages, with a norm after the stem",
    )
    only_timm = model.head_norm_first or model.head_hidden_size
    require(peer == "timm" or not only_timm, "--peer", f"{peer}, for {name}", "timm for this model")


def peer_fields(model):
    names = (
        "depths",
        "dims",
        "num_classes",
        "in_chans",
        "patch_size",
        "use_grn",
        "drop_path_rate",
        "layer_scale_init_value",
        "head_norm_first",
        "head_hidden_size",
    )
    return {name: getattr(model, name) for name in names}


def ratios_of(page: Path) -> dict[tuple, float]:
    """(model, mode, batch, dtype) -> the median ratio in a page's tables of this platform."""
    ratios, columns = {}, []
    for line in page.read_text().splitlines():
        values = [value.strip() for value in line.strip("|").split("|")]
        if "ratio" in values:
            columns = values
        elif line.startswith("|") and len(values) == len(columns) and "/" in values[-1]:
            row = dict(zip(columns, values, strict=True))
            key = (row["model"], row["mode"], int(row["batch"]), row["dtype"])
            if row.get("platform", outline.platform()) == outline.platform():
                ratios[key] = float(row["ratio"].split("/")[1])
    return ratios
