"""Steps of masked pre-training, of visible patches and of whole masked images, and beside them a
supervised step of the same model."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from convnext.kernels import outline
from convnext.models import fcmae
from convnext.models.convnext import VARIANTS, ConvNeXt, smallest_side
from convnext.models.fcmae import FCMAE, Masks
from convnext.training import optimizer, steps
from dev.benchmarks import dense_fcmae, models
from dev.benchmarks.measure import Cells, spread


def benchmark(arguments: argparse.Namespace) -> None:
    """Measures a step of each in turns, so that what slows the machine slows all. The ratios are of
    each turn."""
    cells = Cells(arguments.json)
    for name in arguments.variant:
        for batch_size in arguments.batch_size:
            made = programs(name, batch_size, arguments.image_size, arguments.dtype)
            times = {each: [] for each in made}
            for turn in range(1 + arguments.rounds):
                for each, (run, _) in made.items():
                    begin = time.perf_counter()
                    jax.block_until_ready(run())
                    if turn:  # the first one touches the memory
                        times[each].append(1e3 * (time.perf_counter() - begin))
            cell = {"model": name, "batch": batch_size, "dtype": arguments.dtype}
            for each, (_, compiled) in made.items():
                cell[f"{each} ms"] = spread(times[each])
                cell[f"{each} GB"] = compiled.memory_analysis().temp_size_in_bytes / 1e9
            for each in list(made)[1:]:
                pairs = zip(times[each], times["visible"], strict=True)
                cell[f"{each} / visible"] = spread([there / here for there, here in pairs])
            cells.add(**cell)


def programs(
    name: str, batch_size: int, image_size: int, dtype: str
) -> dict[str, tuple[Callable[[], Any], Any]]:
    """What runs a step, and what XLA made of it, by what is computed: the visible patches; whole
    masked images with the same decoder, or with one that predicts every patch; a supervised one."""
    rng = np.random.default_rng(0)
    fields = dict(VARIANTS[name], dtype=dtype, residual_dtype=dtype)
    shape = (batch_size, image_size, image_size, 3)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    labels = rng.integers(0, 1000, batch_size, dtype=np.int32)
    run, compiled, _ = models.program(ConvNeXt(**fields), "training", images, labels)
    kinds = {
        "visible": FCMAE,
        "dense": dense_fcmae.DenseFCMAE,
        "dense, whole decoder": dense_fcmae.WholeFCMAE,
    }
    made = {title: _program(kind(**fields), images) for title, kind in kinds.items()}
    return {**made, "supervised": (run, compiled)}


def _program(model, images):
    """The update of train.py, as tasks/fcmae.py has it."""
    grid = fcmae.grid_of(model, images.shape[1:3])
    shown, size = fcmae.num_visible(model, grid), smallest_side(model)
    tx = optimizer.adamw(lambda step: 1e-3, weight_decay=0.05, b1=0.9, b2=0.95, eps=1e-8)

    def prepare(keys, batch):
        order, ranks = fcmae.draw(keys[0], len(batch["image"]), grid=grid)
        return {"image": models.NORMALIZE(batch["image"]), "order": order, "ranks": ranks}

    def loss(variables, batch, key):
        masks = Masks(batch["order"], batch["ranks"], shown, grid)
        predicted = model.apply(variables, batch["image"], masks, train=True)
        if isinstance(model, dense_fcmae.WholeFCMAE):
            return dense_fcmae.loss(predicted, batch["image"], masks, size), ({}, {})
        target = fcmae.targets(batch["image"], masks, size)
        return fcmae.losses(predicted, target).mean(), ({}, {})

    def init(key):
        variables = fcmae.init(key, model=model, grid=grid, num_visible=shown)
        return steps.start(variables, tx=tx, ema_decays=())

    train_step = partial(
        steps.train_step,
        task=SimpleNamespace(prepare=prepare, loss=loss, parts_in_turn=False),
        update=steps.Update(tx),
        key=jax.random.key(1),
        gathered=None,
    )
    state, batch = jax.jit(init)(jax.random.key(0)), jax.device_put({"image": images})
    compiled = (
        jax.jit(train_step, donate_argnums=0)
        .lower(state, batch)
        .compile(compiler_options=outline.compiler_options())
    )

    def run():
        nonlocal state
        state, values = compiled(state, batch)
        return values

    return run, compiled
