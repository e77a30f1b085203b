"""Trains a ConvNeXt.

    python train.py --config=configs/digits.py [--workdir=runs/digits] [--config.seed=1 ...]
        [--profile_steps=10:15] [--dry_run] [--start_anew]

The same command again goes on where the run stopped; after SIGTERM or SIGINT it saves first, and
exits with status 75. With --dry_run it says what would run: the model, steps and rates, what
happens to each parameter, memory, and the accuracy to expect.
"""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from convnext import hosts, sharding
from convnext.data import pipeline, sources
from convnext.errors import InputError, RunError, require
from convnext.images import augment
from convnext.models.convnext import ConvNeXt
from convnext.runs import (
    checkpoint,
    cli,
    interruption,
    memory,
    plan,
    plots,
    profiling,
    workdirs,
)
from convnext.runs import (
    log as logs,
)
from convnext.training import erasing, losses, metrics, mixup, optimizer, steps
from convnext.weights import pretrained

PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "Steps FIRST:END to trace into WORKDIR/profile, for xprof."
)
DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Say what would run, and stop.")
START_ANEW = flags.DEFINE_boolean(
    "start_anew", False, "Where a run had checkpoints and no sound one is left, or was of another "
    "recipe and had none: begin again at step 0. Its log is kept, as metrics.jsonl.1."
)  # fmt: skip


def train(
    config: ConfigDict,
    workdir: Path,
    profile_steps: str | None = None,
    dry_run: bool = False,
    start_anew: bool = False,
    interrupted: interruption.Interruption | None = None,
) -> steps.TrainState:
    """Trains to the end of config.num_epochs, or until it is interrupted; returns the last state,
    of a dry run its shapes."""
    interrupted = interrupted or interruption.Interruption()
    for name in ("num_epochs", "eval_every_epochs", "checkpoint_every_epochs", "image_size"):
        require(config[name] > 0, name, config[name], "1 and more")
    for name in ("seed", "num_workers", "max_bad_images"):
        require(config[name] >= 0, name, config[name], "0 and more")
    divergence = interruption.Divergence(config.max_skipped)

    # Data; a dry run makes do with its published size.
    try:
        train_source, val_source = sources.load(**config.data)
    except InputError as error:
        if not (dry_run and config.published.train_size and config.model.num_classes):
            raise
        print(f"data       {error.problem}; the sizes are those published")
        sizes = (config.published.train_size, config.published.val_size)
        train_source, val_source = (
            sources.Announced(size, config.model.num_classes) for size in sizes
        )
    hosts.require_same(
        lambda: dict(
            config=config.to_dict(), profile_steps=profile_steps, dry_run=dry_run,
            start_anew=start_anew,
            train=sources.fingerprint(train_source), val=sources.fingerprint(val_source),
        )
    )  # fmt: skip
    label = sources.first_label(train_source)
    problem_type = losses.problem_type(config.problem_type, config.model.num_classes, label.dtype)
    num_classes = sources.check_num_classes(train_source, config.model.num_classes, problem_type)
    steps_per_epoch = pipeline.steps_per_epoch(train_source, config.batch_size)
    num_steps = steps_per_epoch * config.num_epochs
    profiled = profiling.step_range(profile_steps, num_steps)

    # Where it starts in this workdir, and whether it may.
    start_step = checkpoint.start_step(workdir, start_anew)
    written_config = {**config.to_dict(), "problem_type": problem_type,
                      "train_size": len(train_source), "val_size": len(val_source)}  # fmt: skip
    is_announced = isinstance(train_source, sources.Announced)
    if not is_announced and (start_step or not start_anew):
        workdirs.check_config(workdir, written_config, train_source.class_names)

    # Model and optimizer.
    model = ConvNeXt(**config.model).clone(num_classes=num_classes)
    schedule = optimizer.warmup_cosine(steps_per_epoch, config.num_epochs, **config.schedule)
    tx = optimizer.adamw(schedule, num_steps=num_steps, frozen=config.frozen, **config.optimizer)

    # The state's shapes, and where its parts lie.
    mesh = sharding.make_mesh(**config.mesh)
    by_batch, replicated = sharding.of_batch(mesh), sharding.replicated(mesh)
    sharding.check_batch_size(config.batch_size, mesh, config.accumulation_steps)
    mixup.capped_group_size(config.batch_size, config.mix.group_size)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    init = partial(steps.init, model=model, tx=tx, image_size=config.image_size,
                   ema_decays=config.ema_decays)  # fmt: skip
    abstract_state = jax.eval_shape(init, init_key)
    state_sharding = sharding.of_state(abstract_state, mesh)

    # Compiled steps.
    normalize = partial(steps.normalize, **config.normalize)
    erase = partial(erasing.erase, **config.erase)
    mix = partial(mixup.mix, num_classes=num_classes, problem_type=problem_type, mesh=mesh,
                  **config.mix)  # fmt: skip
    train_transform = partial(augment.train_transform, image_size=config.image_size,
                              mean=config.normalize.mean, **config.augment)  # fmt: skip
    eval_transform = partial(augment.eval_transform, image_size=config.image_size,
                             **config.preprocess)  # fmt: skip
    # Tried on black images, so that what is out of range is said before anything is written.
    black = np.zeros((config.image_size, config.image_size, model.in_chans), np.uint8)
    train_transform(black, np.random.default_rng(0))
    eval_transform(black)
    jax.eval_shape(
        lambda images, labels: mix(init_key, erase(init_key, normalize(images)), labels),
        *(jax.ShapeDtypeStruct((config.batch_size, *x.shape), x.dtype) for x in (black, label)),
    )
    train_step = jax.jit(
        partial(steps.train_step, model=model, tx=tx, normalize=normalize,
                problem_type=problem_type, erase=erase, mix=mix, key=train_key,
                ema_decays=config.ema_decays, ema_warmup=config.ema_warmup, frozen=config.frozen,
                accumulation_steps=config.accumulation_steps, gathered=replicated),
        in_shardings=(state_sharding, by_batch),
        out_shardings=(state_sharding, replicated),
        donate_argnums=0,
    )  # fmt: skip
    eval_step, confusion_step = (
        jax.jit(
            partial(steps.eval_step, model=model, normalize=normalize, measure=measure,
                    gathered=replicated),
            in_shardings=(state_sharding.params, by_batch),
            out_shardings=replicated,
        )
        for measure in (partial(metrics.accuracy, problem_type=problem_type), metrics.confusion)
    )  # fmt: skip

    # What will run.
    description = plan.describe(
        model=model, params=abstract_state.params, image_size=config.image_size, mesh=mesh,
        train_size=len(train_source), val_size=len(val_source), batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps, steps_per_epoch=steps_per_epoch,
        num_epochs=config.num_epochs, warmup_epochs=config.schedule.warmup_epochs,
        schedule=schedule,
    )  # fmt: skip
    if dry_run:
        start = f"step {start_step:,} of {workdir}" if start_step else config.init_from
        print(
            description,
            plan.mixing(config.batch_size, mesh.size, **config.mix),
            plan.averages(config.ema_decays, config.ema_warmup),
            f"start      {start or 'random weights'}",
            plan.published(config.published.top1, config.published.source),
            memory.describe(
                train_step, abstract_state, state_sharding, model=model, mesh=mesh,
                image_size=config.image_size, batch_size=config.batch_size, label=label,
                accumulation_steps=config.accumulation_steps,
            ),
            plan.updates(abstract_state.params, frozen=config.frozen, **config.optimizer),
            sep="\n",
        )  # fmt: skip
        return abstract_state

    # Weights to start from: read before anything is written.
    if config.init_from and not start_step:
        params = pretrained.initial_params(config.init_from, model, init_key)

    is_regression = problem_type == losses.REGRESSION
    best = "val_ema" if config.ema_decays else "val"
    best_metric = f"{best}/loss" if is_regression else f"{best}/top1"
    with (
        workdirs.locked(workdir),
        checkpoint.Checkpoints(workdir, keep=config.keep_checkpoints, best_metric=best_metric,
                               lowest=is_regression,
                               on_save_error=config.on_save_error) as checkpoints,
    ):  # fmt: skip
        # State: sharded from birth, or from this workdir's last checkpoint.
        profiling.cache_compiled_programs(workdir)
        start_step = checkpoints.latest_step
        if start_step:
            state = checkpoints.restore(abstract_state, state_sharding)
        elif config.init_from:
            start = partial(steps.start, tx=tx, ema_decays=config.ema_decays)
            state = jax.jit(start, out_shardings=state_sharding)(params)
        else:
            state = jax.jit(init, out_shardings=state_sharding)(init_key)
        if start_step >= num_steps:
            print(f"{workdir} is complete at step {start_step}; nothing to do")
            return state

        # Batches.
        rows = pipeline.process_rows(config.batch_size)
        train_batches = pipeline.TrainBatches(
            train_source,
            train_transform,
            seed=config.seed, num_epochs=config.num_epochs, batch_size=config.batch_size, rows=rows,
            max_bad_images=config.max_bad_images, problem_type=problem_type,
        )  # fmt: skip
        val_batches = pipeline.EvalBatches(
            val_source,
            eval_transform,
            batch_size=config.batch_size, rows=rows, max_bad_images=config.max_bad_images,
            problem_type=problem_type,
        )  # fmt: skip

        # Loop.
        train_step = profiling.traced(train_step, steps=profiled, folder=workdir / "profile")
        with logs.Log(workdir, start_step=start_step, num_steps=num_steps,
                      batch_size=config.batch_size, config=written_config,
                      **config.log) as log:  # fmt: skip
            to_devices = partial(pipeline.to_devices, sharding=by_batch,
                                 num_workers=config.num_workers, report=log.bad_image,
                                 left_out=set(log.bad_images))  # fmt: skip
            log.save("classes.json", list(train_source.class_names))
            log.print(description)
            if start_step:
                log.print(f"goes on from step {start_step}")

            def is_evaluated(step):
                epoch, rest = divmod(step, steps_per_epoch)
                return rest == 0 and (epoch % config.eval_every_epochs == 0 or step == num_steps)

            def evaluate(step, state):
                """The scores; None where the run is to stop before they are known."""
                weights = steps.weights(state, config.ema_decays)
                stops = (
                    partial(interrupted.stops_after, step) if step < num_steps else (lambda: False)
                )
                with log.paused("evaluation"):
                    totals = steps.evaluate(eval_step, weights, to_devices(val_batches), stops)
                return totals and metrics.scores(totals)

            # Where the run was stopped before an evaluation, this comes first.
            if start_step and is_evaluated(start_step) and not checkpoints.latest_has_scores:
                scores = evaluate(start_step, state)
                if scores is None:
                    log.print(f"stopped at step {start_step}; the same command again goes on")
                    raise SystemExit(interruption.EXIT_STATUS)
                log.add(scores)
                log.flush()
                checkpoints.add_scores(start_step, scores)

            batches = log.timed(to_devices(train_batches, start=start_step))
            for step, batch in enumerate(batches, start_step + 1):
                state, values = train_step(step, state, batch)
                in_a_row = values.pop("skipped_in_a_row")
                log.step(step, {**values, "lr": schedule(step - 1)})

                last = step == num_steps
                diverged = divergence.stops_after(step, in_a_row, last)
                stop = (interrupted.stops_after(step) or diverged) and not last
                scores = None
                if is_evaluated(step):
                    if not stop:
                        scores = evaluate(step, state)
                        stop = scores is None
                    log.add(scores or {})
                # The matrix is num_classes**2 large.
                if last and problem_type == losses.SINGLE_LABEL and num_classes <= 1000:
                    reported = {best: steps.weights(state, config.ema_decays)[best]}
                    confusion = steps.evaluate(confusion_step, reported, to_devices(val_batches))
                    log.print(f"labels (rows) and predictions (columns), {best}")
                    log.print(plots.confusion_table(confusion[best], train_source.class_names))
                if last:
                    log.flush()
                    log.save_curves()
                due = step % (steps_per_epoch * config.checkpoint_every_epochs) == 0
                if due or last or stop:
                    with log.paused("checkpoint"):
                        checkpoints.save(step, state, metrics=scores, before=log.to_disk)
                if stop:
                    log.print(f"stopped after step {step}; the same command again goes on")
                    break
    if divergence.message:
        raise RunError(divergence.message)
    if stop:
        raise SystemExit(interruption.EXIT_STATUS)
    return state


def main(config: ConfigDict, workdir: Path) -> None:
    with interruption.Interruption() as interrupted:
        train(config, workdir, PROFILE_STEPS.value, DRY_RUN.value, START_ANEW.value, interrupted)


if __name__ == "__main__":
    cli.run(main)
