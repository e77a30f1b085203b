"""Trains a ConvNeXt.

    python train.py --config=configs/digits.py [--workdir=runs/digits] [--config.seed=1 ...]
        [--profile_steps=10:15]

The same command again goes on where the run stopped.
"""

from functools import partial
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from convnext import (
    checkpoint,
    cli,
    erasing,
    logs,
    losses,
    metrics,
    mixup,
    optimizer,
    plots,
    pretrained,
    profiling,
    sharding,
    steps,
    summary,
)
from convnext.data import augment, pipeline, sources
from convnext.model import ConvNeXt

PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "Steps FIRST:END to trace into WORKDIR/profile, for xprof."
)


def train(config: ConfigDict, workdir: Path, profile_steps: str | None = None) -> steps.TrainState:
    """Trains to the end of config.num_epochs; returns the last state."""
    # Data.
    train_source, val_source = sources.load(**config.data)
    problem_type = losses.problem_type(
        config.problem_type, config.model.num_classes, sources.first_label(train_source).dtype
    )
    num_classes = sources.check_num_classes(train_source, config.model.num_classes, problem_type)
    steps_per_epoch = pipeline.steps_per_epoch(train_source, config.batch_size)
    num_steps = steps_per_epoch * config.num_epochs
    profiled = profiling.step_range(profile_steps, num_steps)

    # Model and optimizer.
    model = ConvNeXt(**config.model).clone(num_classes=num_classes)
    schedule = optimizer.warmup_cosine(steps_per_epoch, config.num_epochs, **config.schedule)
    tx = optimizer.adamw(schedule, num_steps=num_steps, frozen=config.frozen, **config.optimizer)

    # State: sharded from birth, or from this workdir's last checkpoint.
    mesh = sharding.make_mesh(**config.mesh)
    by_batch, replicated = sharding.of_batch(mesh), sharding.replicated(mesh)
    sharding.check_batch_size(config.batch_size, mesh, config.accumulation_steps)
    mixup.capped_group_size(config.batch_size, config.mix.group_size)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    init = partial(steps.init, model=model, tx=tx, image_size=config.image_size,
                   ema_decays=config.ema_decays)  # fmt: skip
    abstract_state = jax.eval_shape(init, init_key)
    profiling.cache_compiled_programs(workdir)
    state_sharding = sharding.of_state(abstract_state, mesh)
    start_step = checkpoint.latest_step(workdir)
    if start_step:
        state = checkpoint.restore(workdir, abstract_state, state_sharding)
    elif config.init_from:
        params = pretrained.initial_params(config.init_from, model, init_key)
        start = partial(steps.start, tx=tx, ema_decays=config.ema_decays)
        state = jax.jit(start, out_shardings=state_sharding)(params)
    else:
        state = jax.jit(init, out_shardings=state_sharding)(init_key)
    if start_step >= num_steps:
        print(f"{workdir} is complete at step {start_step}; nothing to do")
        return state

    # Compiled steps.
    normalize = partial(steps.normalize, **config.normalize)
    erase = partial(erasing.erase, **config.erase)
    mix = partial(mixup.mix, num_classes=num_classes, problem_type=problem_type, **config.mix)
    train_step = jax.jit(
        partial(steps.train_step, model=model, tx=tx, normalize=normalize,
                problem_type=problem_type, erase=erase, mix=mix, key=train_key,
                ema_decays=config.ema_decays, ema_warmup=config.ema_warmup, frozen=config.frozen,
                accumulation_steps=config.accumulation_steps),
        in_shardings=(state_sharding, by_batch),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )  # fmt: skip
    train_step = profiling.traced(train_step, steps=profiled, folder=workdir / "profile")
    eval_step, confusion_step = (
        jax.jit(
            partial(steps.eval_step, model=model, normalize=normalize, measure=measure),
            in_shardings=(state_sharding.params, by_batch),
            out_shardings=replicated,
        )
        for measure in (partial(metrics.accuracy, problem_type=problem_type), metrics.confusion)
    )

    # Batches.
    rows = pipeline.process_rows(config.batch_size)
    train_batches = pipeline.TrainBatches(
        train_source,
        partial(augment.train_transform, image_size=config.image_size, **config.augment),
        seed=config.seed, num_epochs=config.num_epochs, batch_size=config.batch_size, rows=rows,
        max_bad_images=config.max_bad_images,
    )  # fmt: skip
    val_batches = pipeline.EvalBatches(
        val_source,
        partial(augment.eval_transform, image_size=config.image_size, **config.preprocess),
        batch_size=config.batch_size, rows=rows, max_bad_images=config.max_bad_images,
    )  # fmt: skip

    # Loop.
    is_regression = problem_type == losses.REGRESSION
    best = "val_ema" if config.ema_decays else "val"
    best_metric = f"{best}/loss" if is_regression else f"{best}/top1"
    with (
        logs.Log(workdir, start_step=start_step, num_steps=num_steps,
                 batch_size=config.batch_size,
                 config={**config.to_dict(), "problem_type": problem_type}, **config.log) as log,
        checkpoint.open_checkpoints(workdir, keep=config.keep_checkpoints,
                                    best_metric=best_metric, lowest=is_regression) as checkpoints,
    ):  # fmt: skip
        to_devices = partial(pipeline.to_devices, sharding=by_batch,
                             num_workers=config.num_workers, report=log.bad_image)  # fmt: skip
        log.save("classes.json", list(train_source.class_names))
        log.print(summary.describe(
            model=model, params=abstract_state.params, image_size=config.image_size, mesh=mesh,
            train_size=len(train_source), val_size=len(val_source), batch_size=config.batch_size,
            steps_per_epoch=steps_per_epoch, num_epochs=config.num_epochs,
            warmup_epochs=config.schedule.warmup_epochs, schedule=schedule,
        ))  # fmt: skip
        batches = log.timed(to_devices(train_batches, start=start_step))
        for step, batch in enumerate(batches, start_step + 1):
            state, values = train_step(step, state, batch)
            log.step(step, {**values, "lr": schedule(step - 1)})

            epoch, rest = divmod(step, steps_per_epoch)
            last = step == num_steps
            scores = None
            if rest == 0 and (epoch % config.eval_every_epochs == 0 or last):
                weights = steps.weights(state, config.ema_decays)
                with log.paused("evaluation"):
                    totals = steps.evaluate(eval_step, weights, to_devices(val_batches))
                scores = metrics.scores(totals)
                log.add(scores)
            # The matrix is num_classes**2 large.
            if last and problem_type == losses.SINGLE_LABEL and num_classes <= 1000:
                reported = {best: weights[best]}
                confusion = steps.evaluate(confusion_step, reported, to_devices(val_batches))
                log.print(plots.confusion_table(confusion[best], train_source.class_names))
            if last:
                log.flush()
                log.save_curves()
            if rest == 0 and (epoch % config.checkpoint_every_epochs == 0 or last):
                log.flush()  # what a checkpoint follows from is on disk before it is
                with log.paused("checkpoint"):
                    checkpoints.save_async(step, state, metrics=scores)
    return state


def main(config: ConfigDict, workdir: Path) -> None:
    train(config, workdir, PROFILE_STEPS.value)


if __name__ == "__main__":
    cli.run(main)
