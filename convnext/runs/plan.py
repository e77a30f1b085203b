"""The plan of a run, printed before it begins: its model, data, steps, rates and memory."""

import math
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from convnext import commands, sharding
from convnext.data.epochs import Epochs
from convnext.errors import require
from convnext.kernels import outline
from convnext.models.convnext import ConvNeXt, macs
from convnext.runs import checkpoint, workdirs
from convnext.task import Batch, Task
from convnext.training import mixup, optimizer
from convnext.training.steps import TrainState


def parameter_count(params: Any) -> int:
    """Number of parameters in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def record(config: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The config as it is written to config.json, with what the task decided and counted."""
    sizes = dict(train_size=len(task.train_source), val_size=len(task.evaluation.source))
    return {**config.to_dict(), **task.record, **sizes}


def check(config: Mapping[str, Any], task: Task, mesh: jax.sharding.Mesh) -> None:
    """Raises InputError for what is out of range, as far as it is known before a run begins."""
    for name, least in dict(num_workers=0, max_bad_images=0, max_skipped=1).items():
        require(config[name] >= least, name, config[name], f"{least} and more")
    if config.patience is not None:
        require(config.patience >= 1, "patience", config.patience, "1 and more, or None")
    every_steps = config.log.every_steps
    require(every_steps >= 1, "log.every_steps", every_steps, "1 and more")
    checkpoint.check(config.keep_checkpoints, config.on_save_error)
    if config.log.wandb_project and jax.process_index() == 0:
        from convnext.runs import writers  # brings TensorBoard, which a benchmark does without

        writers.import_wandb()
    sharding.check_batch_size(config.batch_size, mesh, config.accumulation_steps)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0)))
    jax.eval_shape(task.prepare, keys, abstract_batch(task.example, config.batch_size))


def abstract_batch(example: Mapping[str, np.ndarray], batch_size: int) -> Batch:
    """The shapes and types of a batch of such examples, with the numbers that TrainBatches adds."""
    numbers = dict(epoch=np.int32(0), index=np.int32(0))
    arrays = {name: np.asarray(value) for name, value in {**example, **numbers}.items()}
    return {
        name: jax.ShapeDtypeStruct((batch_size, *array.shape), array.dtype)
        for name, array in arrays.items()
    }


def describe(
    config: Mapping[str, Any],
    task: Task,
    epochs: Epochs,
    schedule: optax.Schedule,
    mesh: jax.sharding.Mesh,
    state: TrainState,
) -> str:
    """The lines at the start of a run: what it trains, on what, how long, at which rate."""
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    rows = config.batch_size // mesh.size // config.accumulation_steps
    steps, passes = epochs.num_steps, epochs.num_steps / epochs.batches_per_epoch
    length = f"{epochs.steps_per_epoch:,} per epoch, {epochs.num_epochs} epochs, {steps:,} in all"
    if config.num_steps is not None:
        length = f"{steps:,} in all, which is {passes:.4g} epochs"
    if config.patience is not None:
        length += f"; fewer where {config.patience} evaluations bring no better {task.best}"
    rates = (f"{schedule(step - 1):.4g} at step {step:,}" for step in _corners(config, epochs))
    lines = [
        f"devices    {jax.device_count()} {jax.default_backend()}, mesh {axes}",
        *task.describe(state.params),
        f"data       {len(task.train_source):,} training images, "
        f"{len(task.evaluation.source):,} validation images",
        f"batch      {config.batch_size:,} images: devices {mesh.size} x parts "
        f"{config.accumulation_steps} x images {rows:,}",
        f"steps      {length}",
        f"rate       {', '.join(rates)}",
    ]
    return commands.typed("\n".join(lines))


def _corners(config, epochs):
    """Five steps, or fewer; where there is a warm-up, its end is one of them."""
    steps, schedule = epochs.num_steps, config.schedule
    peak = schedule.warmup_steps or schedule.warmup_epochs * epochs.steps_per_epoch
    return sorted({1, peak or 3 * steps // 4, steps // 4, steps // 2, steps} - {0})


def details(
    config: Mapping[str, Any],
    task: Task,
    state: TrainState,
    begins: str | None,
    memory: str,
    changed: Sequence[str] = (),
) -> str:
    """The further lines of a dry run. begins: where the run does, None for random weights. changed:
    see `published`."""
    return "\n".join(
        [
            *task.draws(),
            averages(config.ema_decays, config.ema_warmup),
            f"start      {begins or 'random weights'}",
            published(config.published, changed),
            memory,
            updates(state.params, config.optimizer, frozen=config.frozen, **task.rules),
        ]
    )


def model(model: ConvNeXt, params: Any, image_size: int) -> str:
    """Size and shape of a classifier, in one line."""
    gmacs = macs(model, image_size) / 1e9
    return (
        f"model      {parameter_count(params):,} parameters, {gmacs:.4g} GMACs at {image_size} px, "
        f"{model.num_classes} classes, depths {tuple(model.depths)}, dims {tuple(model.dims)}"
    )


# What products of float32 are where nothing else is asked for, by platform.
DEFAULT_PRODUCTS = {
    "cuda": "TF32 on NVIDIA's from Ampere on",
    "rocm": "TF32 on some of AMD's",
    "tpu": "one pass in bfloat16",
}


def precision(model: ConvNeXt) -> str:
    """Names the types that training computes in, in one line."""
    dtype, platform = jnp.dtype(model.dtype).name, outline.platform()
    asked = jax.config.jax_default_matmul_precision
    how = "" if model.map_dtype == dtype else f", sums along the blocks in {model.map_dtype.name}"
    if dtype == "float32" and asked:
        how = f", products of precision {asked}, as JAX_DEFAULT_MATMUL_PRECISION says"
    elif dtype == "float32" and platform in DEFAULT_PRODUCTS:
        how = f", products of precision {model.train_precision}"
        if model.train_precision == "default":
            how += (
                f", which is {DEFAULT_PRODUCTS[platform]}; model.train_precision=highest is float32"
            )
    return f"precision  {dtype}{how}"


def mixing(batch_size: int, num_devices: int, recipe: Mapping[str, Any]) -> str:
    """Describes how `mixup.mix` is called with the keywords in recipe, in one line."""
    how = "none"
    if recipe["mixup_alpha"] or recipe["cutmix_alpha"]:
        group_size = mixup.capped_group_size(batch_size, recipe["group_size"])
        rows = batch_size // num_devices
        across = ""
        if rows % group_size:
            # The last start of a group on a device is the most that leaves a common divisor.
            most = -(-(rows - math.gcd(rows, group_size) + group_size) // rows)
            across = f" across up to {most} devices (group_size {rows} moves no image)"
        names = ("mixup_alpha", "cutmix_alpha", "prob", "switch_prob")
        values = ", ".join(f"{name} {recipe[name]:g}" for name in names)
        how = f"groups of {group_size}{across}, mode {recipe['mode']}, {values}"
    return f"mixing     {how}, label_smoothing {recipe['label_smoothing']:g}"


def averages(ema_decays: Sequence[float], ema_warmup: bool) -> str:
    """The decays of the averages, in one line."""
    decays = ", ".join(f"{decay:g}" for decay in ema_decays)
    return f"averages   {decays or 'none'}{' with a warm-up' if decays and ema_warmup else ''}"


def published(published: Mapping[str, Any], changed: Sequence[str] = ()) -> str:
    """The scores to expect, in percent, their source, and which of the changed fields of the config
    make them another recipe's."""
    known = {name: score for name, score in published.scores.items() if score is not None}
    scores = ", ".join(f"{score:.1f} {name}" for name, score in known.items())
    line = f"published  {scores or 'nothing'}{f' ({published.source})' if published.source else ''}"
    # init_from is free as nothing reads it once a run has begun. No seed is better than another.
    same = [name for name in changed if workdirs.is_free(name) and name != "init_from"]
    different = [name for name in changed if name not in (*same, "seed")]
    if scores and different:
        line += f" of the recipe; yours differs in {', '.join(different)}"
    return line


def updates(
    params: Any,
    recipe: Mapping[str, Any],
    *,
    frozen: str | None,
    decay_mask: Callable[[Any], Any] = optimizer.decay_mask,
    layer_scale_rule: Callable[[Any], Any] | None = None,
) -> str:
    """Describes how `optimizer.adamw` updates each parameter, with the keywords in recipe and
    these rules.

    A paragraph for those that it treats alike: the factor on the learning rate, the weight decay,
    how many parameters in how many arrays, and their names (`compact`).
    """
    decay = f"{recipe['weight_decay']:g}"
    if recipe["weight_decay_end"] is not None:
        decay += f" to {recipe['weight_decay_end']:g}"
    layers = {name: recipe[name] for name in ("layer_decay", "layer_decay_type")}
    scales = layer_scale_rule or partial(optimizer.layer_scales, **layers)
    marks = zip(
        jax.tree.leaves_with_path(params),
        jax.tree.leaves(scales(params)),
        jax.tree.leaves(decay_mask(params)),
        jax.tree.leaves(optimizer.frozen_mask(params, frozen)),
        strict=True,
    )
    groups = defaultdict(list)
    for (path, leaf), scale, is_decayed, is_frozen in marks:
        rule = f"rate x {scale:.4g}, decay {decay if is_decayed else 0}"
        order = (is_frozen, not is_frozen and (scale, not is_decayed))
        name = "/".join(entry.key for entry in path)
        groups[order, "frozen" if is_frozen else rule].append((name, leaf.size))

    clip_norm = recipe["clip_norm"]
    clipped = "not clipped" if clip_norm is None else f"clipped to a norm of {clip_norm:g}"
    constants = ", ".join(f"{name} {recipe[name]:g}" for name in ("b1", "b2", "eps"))
    lines = [f"updates    AdamW, {constants}, gradients {clipped}"]
    for (_, rule), members in sorted(groups.items()):
        names, sizes = zip(*members, strict=True)
        head = f"{rule}; {sum(sizes):,} in {len(sizes)}: "
        lines += textwrap.wrap(
            head + " ".join(compact(names)),
            width=100,
            break_long_words=False,
            break_on_hyphens=False,
            initial_indent="  ",
            subsequent_indent="    ",
        )
    return "\n".join(lines)


def compact(names: Iterable[str]) -> list[str]:
    """Names of parameters, in the braces of a shell: what a module holds, and the numbers of those
    that hold the same, as in "stage_2_block_{0..8}/{gamma,norm/scale}"."""
    held = defaultdict(list)
    for name in names:
        # Up to the first part with a number, such as "backbone/stage_2_block_0"; else the first.
        module, slash, rest = re.fullmatch(r"(\D*\d[^/]*|[^/]*)(/?)(.*)", name).groups()
        held[module, slash].append(rest)
    alike = defaultdict(list)
    for (module, slash), rests in held.items():
        before, number, after = re.fullmatch(r"(.*?)(\d*)(\D*)", module).groups()
        alike[before, after + slash, tuple(rests)].append(number)
    return [
        f"{before}{_numbers(numbers)}{after}{_braces(rests)}"
        for (before, after, rests), numbers in alike.items()
    ]


def _numbers(texts):
    """A range, where there are no gaps."""
    texts = sorted(texts, key=lambda text: (len(text), text))
    if len(texts) > 2 and int(texts[-1]) - int(texts[0]) == len(texts) - 1:
        return f"{{{texts[0]}..{texts[-1]}}}"
    return _braces(texts)


def _braces(texts):
    return texts[0] if len(texts) == 1 else f"{{{','.join(texts)}}}"


def memory(
    config: Mapping[str, Any],
    task: Task,
    mesh: jax.sharding.Mesh,
    train_step: Callable,
    state: TrainState,
    layout: TrainState,
) -> str:
    """Estimates what the jitted train_step(state, batch) needs of each device; the state may be
    abstract.

    An accelerator's compiler says what it plans, after the time that compiling takes. On CPU it is
    an estimate, for whatever devices there will be as many of.
    """
    batch = abstract_batch(task.example, config.batch_size)
    if jax.default_backend() != "cpu":
        how, parts = "compiled", planned(train_step.lower(state, batch).compile())
    elif task.activations is None:
        return "memory     not known"
    else:
        how = "analytic estimate"
        rows = config.batch_size // mesh.size
        parts = estimate(
            state,
            layout,
            dtype=task.model.dtype,
            row_bytes=row_bytes(batch),
            activations=task.activations(),
            rows=rows,
            rows_at_once=rows // config.accumulation_steps,
        )
    told = ", ".join(f"{name} {size / 1e9:.4g}" for name, size in parts.items())
    return f"memory     {sum(parts.values()) / 1e9:.4g} GB a device ({how}): {told}"


def row_bytes(batch: Batch) -> int:
    """Bytes of the image of an example, as it comes and in float32."""
    return math.prod(batch["image"].shape[1:]) * (batch["image"].dtype.itemsize + 4)


def planned(program: jax.stages.Compiled) -> dict[str, int]:
    """Bytes of each device that the compiler plans for a program. "results" are those that do not
    take the place of a donated argument."""
    plan = program.memory_analysis()
    return {
        "arguments": plan.argument_size_in_bytes,
        "results": plan.output_size_in_bytes - plan.alias_size_in_bytes,
        "temporary": plan.temp_size_in_bytes,
        "program": plan.generated_code_size_in_bytes,
    }


def estimate(
    state: Any,
    state_sharding: Any,
    *,
    dtype: Any,
    row_bytes: int,
    activations: int,
    rows: int,
    rows_at_once: int,
) -> dict[str, int]:
    """Bytes of each device in a training step on `rows` images of the batch, of which rows_at_once
    pass through the model together, in dtype. "gathered" are parameters that are stored in parts.

    As if all of it were there at one time, and no parameter frozen. In bfloat16, residual_dtype
    too, on 16 images of 224 pixels, the sum is 1.01 to 1.20 of what the TPU compiler plans for
    tiny, base, xlarge and V2 tiny, with and without remat, and for tiny 0.87 on 128 images and 1.11
    on 512, which just fit; with fsdp = 8 it is 0.92 for tiny and 1.14 for xlarge
    (docs/performance.md). Less the state it is 0.87 to 1.65, the most for xlarge with remat.
    """
    whole = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    in_parts = device_bytes(state.params, state_sharding.params) < 4 * whole
    return {
        "state": device_bytes(state, state_sharding),
        **({"gathered": whole * jnp.dtype(dtype).itemsize} if in_parts else {}),
        "gradients": 4 * whole,  # until they are reduced
        "images": rows * row_bytes,
        "activations": rows_at_once * activations,
    }


def device_bytes(tree: Any, shardings: Any) -> int:
    """Bytes of a tree of arrays, which may be abstract, on each device."""
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings
    )
    return sum(jax.tree.leaves(sizes))
