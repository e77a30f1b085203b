"""Trains what a config describes.

    python train.py --config=configs/digits.py [--workdir=runs/digits] [--config.seed=1 ...]
        [--profile_steps=10:15] [--dry_run] [--start_anew]

Run the same command again to resume. SIGTERM and Ctrl-C save a checkpoint first and exit with
status 75. --dry_run prints the plan (model, schedule, memory, expected accuracy) and stops;
it needs neither the data nor an accelerator.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from convnext import hosts, sharding, tasks
from convnext.data.batches import EvalBatches, TrainBatches, process_rows
from convnext.data.epochs import Epochs
from convnext.data.pipeline import Feed
from convnext.kernels.outline import compiler_options
from convnext.runs import checkpoint, cli, interruption, plan, profiling, workdirs
from convnext.runs.log import Log
from convnext.task import Task
from convnext.training import optimizer, steps

PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps", None, "Steps FIRST:END to trace into WORKDIR/profile, for xprof."
)
DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Print the plan, and stop.")
START_ANEW = flags.DEFINE_boolean(
    "start_anew",
    False,
    "Begin again where no sound checkpoint is left, or none was made and the recipe is another. "
    "The log is kept, as metrics.jsonl.1.",
)


def train(
    config: ConfigDict,
    workdir: Path,
    watch: interruption.Watch | None = None,
    *,
    profile_steps: str | None = None,
    dry_run: bool = False,
    start_anew: bool = False,
    changed: Sequence[str] = (),
    make: Callable[..., Task] = tasks.make,
) -> steps.TrainState:
    """Trains to the last step, or until `watch` stops it. Returns the last state, a dry run only
    its shapes. changed: fields that are not as in the recipe. make: makes the task."""
    watch = watch or interruption.Watch()
    asked = dict(profile_steps=profile_steps, dry_run=dry_run, start_anew=start_anew)
    config = workdirs.with_decided(config, workdir)
    hosts.require_same(lambda: {"config": config.to_dict(), **asked})

    # The task: a model, its data, a loss, what is measured; and what it decides of the config.
    mesh = sharding.make_mesh(**config.mesh)
    by_batch, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    task = make(config, mesh, stand_in=dry_run)
    config, evaluation = task.config, task.evaluation
    plan.check(config, task, mesh)

    # How long the run is, and what is due when.
    lengths = dict(num_epochs=config.num_epochs, num_steps=config.num_steps)
    order = dict(seed=config.seed, groups=task.train_groups)
    epochs = Epochs(len(task.train_source), config.batch_size, **lengths, **order)
    num_steps = epochs.num_steps
    is_evaluated = epochs.every("eval", config.eval_every_epochs, config.eval_every_steps)
    is_saved = epochs.every(
        "checkpoint", config.checkpoint_every_epochs, config.checkpoint_every_steps
    )
    profiled = profiling.step_range(profile_steps, num_steps)

    # Where the run begins in this workdir, and whether it may.
    record = plan.record(config, task)
    start_step = checkpoint.start_step(workdir, start_anew)
    if start_step or not start_anew:
        workdirs.check_config(workdir, record, task.class_names, stand_in=task.is_stand_in)

    # The optimizer, and a state that is sharded from birth.
    schedule = optimizer.schedule(num_steps, epochs.steps_per_epoch, **config.schedule)
    options = dict(num_steps=num_steps, frozen=config.frozen, **config.optimizer, **task.rules)
    tx = optimizer.adamw(schedule, **options)
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    start = partial(steps.start, tx=tx, ema_decays=config.ema_decays)
    init = lambda key: start(task.init(key))  # noqa: E731
    abstract_state = jax.eval_shape(init, init_key)
    layout = sharding.state_sharding(abstract_state, mesh)

    # The two functions that are compiled.
    update = steps.Update(
        tx, config.ema_decays, config.ema_warmup, config.frozen, config.accumulation_steps
    )
    train_step = jax.jit(
        partial(steps.train_step, task=task, update=update, key=train_key, gathered=replicated),
        in_shardings=(layout, by_batch),
        out_shardings=(layout, replicated),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )
    eval_step = jax.jit(
        partial(steps.eval_step, measure=evaluation.measure, gathered=replicated),
        in_shardings=(layout.variables, by_batch),
        out_shardings=replicated,
        compiler_options=compiler_options(),
    )

    description = plan.describe(config, task, epochs, schedule, mesh, abstract_state)
    if dry_run:
        begins = f"step {start_step:,} of {workdir}" if start_step else config.init_from
        memory = plan.memory(config, task, mesh, train_step, abstract_state, layout)
        details = plan.details(config, task, abstract_state, begins, memory, changed)
        print(description, details, sep="\n")
        return abstract_state

    # Weights to start from are read before anything is written.
    weights = None
    if config.init_from and not start_step:
        weights = task.pretrained(config.init_from, init_key)

    best, keep = update.best(task.best), config.keep_checkpoints
    with (
        workdirs.locked(workdir),
        checkpoint.Checkpoints(workdir, keep, best, config.on_save_error) as checkpoints,
    ):
        first = checkpoints.latest_step
        if first:
            state = checkpoints.restore(abstract_state, layout)
        elif weights is not None:
            state = jax.jit(start, out_shardings=layout)(weights)
        else:
            state = jax.jit(init, out_shardings=layout)(init_key)
        if first >= num_steps:
            print(f"{workdir} is complete at step {first}; nothing to do")
            return state

        options = dict(rows=process_rows(config.batch_size), max_bad_images=config.max_bad_images)
        train_batches = TrainBatches(task.train_source, task.train_transform, epochs, **options)
        to_score = evaluation.source, evaluation.transform, evaluation.groups
        val_batches = EvalBatches(*to_score, batch_size=config.batch_size, **options)
        with (
            Log(workdir, first, epochs, record, best, **config.log) as log,
            Feed(by_batch, config.num_workers, log.bad_image, set(log.bad_images)) as feed,
        ):
            log.begin(description, task.class_names)

            def evaluate(state):
                """The totals of each of the weights; None where the run stops before they are
                known."""
                with log.paused("evaluation"):
                    weights, batches = update.weights(state), feed.evaluate(val_batches)
                    return steps.evaluate(
                        eval_step, evaluation, weights, batches, watch.interrupted
                    )

            # Where the run was stopped before an evaluation, this comes first.
            if first and is_evaluated(first) and not checkpoints.latest_has_scores:
                if (totals := evaluate(state)) is None:
                    log.stopped(first)
                    watch.leave()
                scores = steps.scores(evaluation, totals)
                log.add(scores)
                log.flush()
                checkpoints.add_scores(first, scores)

            if log.has_waited(config.patience):
                log.finished(task.commands)
                return state

            batches = log.timed(feed.train(train_batches, start=first))
            train_step = profiling.traced(train_step, steps=profiled, folder=workdir / "profile")
            for step, batch in enumerate(batches, first + 1):
                state, values = train_step(step, state, batch)
                in_a_row = values.pop("skipped_in_a_row")
                log.step(step, {**values, "lr": schedule(step - 1)})
                is_last = step == num_steps
                stop = watch.stops_after(step, in_a_row, config.max_skipped, last=is_last)
                scores = None
                if is_evaluated(step):
                    if not stop:
                        totals = evaluate(state)
                        scores = totals and steps.scores(evaluation, totals)
                        stop = scores is None
                    log.add(scores or {})
                    is_last = is_last or log.has_waited(config.patience)
                if is_last and scores and evaluation.report:
                    log.print(f"{update.reported}: {evaluation.report(totals[update.reported])}")
                if is_saved(step) or is_last or stop:
                    with log.paused("checkpoint"):
                        checkpoints.save(step, state, metrics=scores, before=log.to_disk)
                if stop:
                    log.stopped(step)
                    break
                if is_last:
                    log.finished(task.commands)
                    break
    watch.leave()
    return state


def main(config: ConfigDict, workdir: Path) -> None:
    changed = cli.changed()
    cli.shorten_warmup(config, changed)
    asked = dict(dry_run=DRY_RUN.value, start_anew=START_ANEW.value, changed=changed)
    with interruption.Watch() as watch:
        train(config, workdir, watch, profile_steps=PROFILE_STEPS.value, **asked)


if __name__ == "__main__":
    cli.run(main)
