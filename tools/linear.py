"""Makes a model of your own images in seconds: published weights, whose last layer is fitted anew.

    python -m tools.linear my_images [--model=SOURCE] [--workdir=runs/linear]

The features of each image are computed once, and a regularised logistic regression is fitted to
them; how strongly it is regularised, cross-validation on the training images says. my_images is as
for configs/finetune.py (docs/own_data.md), SOURCE whatever convnext.from_pretrained takes. The
workdir is that of a run: tools.predict, tools.report, tools.convert and --config.init_from take it.
"""

import time
from pathlib import Path
from typing import Any

import jax
import optax

from configs import finetune
from convnext import commands, sharding, tasks
from convnext.data.epochs import Epochs
from convnext.errors import InputError, reported, require_local
from convnext.runs import checkpoint, plan, programs, workdirs
from convnext.runs.log import Log
from convnext.tasks import scoring
from convnext.training import steps


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("linear", __doc__)
    default = finetune.get_config()
    parser.add_argument("images", metavar="IMAGES", help="a folder of classes, or a table")
    parser.add_argument(
        "--model", metavar="SOURCE", default=default.init_from, help="weights (%(default)s)"
    )
    parser.add_argument("--workdir", type=Path, default=Path("runs/linear"), help="(%(default)s)")
    parser.add_argument("--image_size", type=int, help="pixels; default: the model's")
    parser.add_argument(
        "--val_fraction", type=float, default=default.data.val_fraction, help="(%(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--num_workers", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args(argv)
    with reported(), programs.kept():
        require_local("--workdir", args.workdir)
        config = recipe(**vars(args))
        scores = write(config, args.workdir.expanduser())
        count = scores.pop("count")
        told = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        print(f"on {count:,} validation images: {told}")
        print(commands.typed(f"try it: python -m tools.predict IMAGE --model={args.workdir}"))


def recipe(
    images: str,
    *,
    model: str,
    image_size: int | None = None,
    val_fraction: float = 0.2,
    batch_size: int = 32,
    num_workers: int = 0,
    **_,
) -> Any:
    """The config of a run that trains nothing but the last layer, and that at once."""
    config = finetune.get_config()
    config.update(init_from=model, image_size=image_size, batch_size=batch_size)
    config.data.update(root=images, val_fraction=val_fraction)
    config.update(num_steps=1, num_workers=num_workers, frozen="^(?!head/)", ema_decays=())
    config.linear.is_baseline = False
    return config


def write(config: Any, workdir: Path) -> dict[str, float]:
    """Fits the last layer and writes the workdir; returns its scores on the validation images.
    Raises InputError where the workdir has a run already."""
    if (workdir / "config.json").exists() or checkpoint.latest_step(workdir):
        raise InputError(f"{workdir} has a run already", "another --workdir")
    begun = time.monotonic()
    print("reading the weights", flush=True)
    task = tasks.make(config, sharding.make_mesh())
    config, evaluation = task.config, task.evaluation
    params = plan.parameter_count(jax.eval_shape(task.init, jax.random.key(0)))
    source, val_source = task.train_source, evaluation.source
    print(f"{config.init_from}, licence: {config.licence}; {params:,} parameters", flush=True)
    print(
        f"computing the features of {len(source):,} training and {len(val_source):,} validation "
        f"images of {len(task.class_names):,} classes",
        flush=True,
    )
    variables = task.pretrained(config.init_from, jax.random.key(config.seed))
    state = steps.start(jax.device_put(variables), tx=optax.identity())
    state = state.replace(step=state.step + 1)
    weights = {"val": state.variables}
    totals = scoring.totals(
        evaluation, weights, batch_size=config.batch_size, num_workers=config.num_workers
    )
    scores = steps.scores(evaluation, totals)
    epochs = Epochs(len(source), config.batch_size, num_epochs=1, num_steps=1)
    with (
        workdirs.locked(workdir),
        checkpoint.Checkpoints(workdir, config.keep_checkpoints, f"val/{task.best}") as checkpoints,
        Log(workdir, 0, epochs, plan.record(config, task), f"val/{task.best}",
            **config.log) as log,
    ):  # fmt: skip
        log.save("classes.json", list(task.class_names))
        log.step(1, {})
        log.add(scores)
        checkpoints.save(1, state, metrics=scores, before=log.to_disk)
    if evaluation.report:
        print(evaluation.report(totals["val"]))
    print(f"{workdir}: {time.monotonic() - begun:.1f} s")
    count = len(evaluation.source)
    return {**{name.removeprefix("val/"): value for name, value in scores.items()}, "count": count}


if __name__ == "__main__":
    main()
