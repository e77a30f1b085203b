"""Evaluates the last checkpoint of a run on its validation images.

python eval.py --config=configs/digits.py [--workdir=runs/digits] [--weights=ema]
"""

from functools import partial
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from convnext import checkpoint, cli, losses, metrics, profiling, sharding, steps
from convnext.data import augment, pipeline, sources
from convnext.errors import InputError
from convnext.model import ConvNeXt, abstract_params

WEIGHTS = flags.DEFINE_enum(
    "weights", "ema", ["ema", "raw"], "ema: the first average; raw: the parameters themselves."
)


def evaluate(config: ConfigDict, workdir: Path, weights: str) -> dict[str, float]:
    """loss, top1, top5 (of a regression: loss, mae) and count over all validation images."""
    train_source, val_source = sources.load(**config.data)
    problem_type = losses.problem_type(
        config.problem_type, config.model.num_classes, sources.first_label(val_source).dtype
    )
    num_classes = sources.check_num_classes(train_source, config.model.num_classes, problem_type)
    mesh = sharding.make_mesh(**config.mesh)
    sharding.check_batch_size(config.batch_size, mesh)
    if weights == "ema" and not config.ema_decays:
        raise InputError("--weights=ema, but config.ema_decays is empty; accepted: --weights=raw")

    profiling.cache_compiled_programs(workdir)
    model = ConvNeXt(**config.model).clone(num_classes=num_classes)
    params = checkpoint.restore_params(
        workdir,
        abstract_params(model),
        sharding.replicated(mesh),
        ema_decay=config.ema_decays[0] if weights == "ema" else None,
    )
    normalize = partial(steps.normalize, **config.normalize)
    eval_step = jax.jit(
        partial(
            steps.eval_step,
            model=model,
            normalize=normalize,
            measure=partial(metrics.accuracy, problem_type=problem_type),
        ),
        in_shardings=(sharding.replicated(mesh), sharding.of_batch(mesh)),
        out_shardings=sharding.replicated(mesh),
    )
    val_batches = pipeline.EvalBatches(
        val_source,
        partial(augment.eval_transform, image_size=config.image_size, **config.preprocess),
        batch_size=config.batch_size,
        rows=pipeline.process_rows(config.batch_size),
        max_bad_images=config.max_bad_images,
    )
    batches = pipeline.to_devices(
        val_batches, sharding.of_batch(mesh), num_workers=config.num_workers
    )
    return metrics.means(steps.evaluate(eval_step, {weights: params}, batches)[weights])


def main(config: ConfigDict, workdir: Path) -> None:
    means = evaluate(config, workdir, WEIGHTS.value)
    print(f"{workdir} at step {checkpoint.latest_step(workdir)}, {WEIGHTS.value} weights")
    for name, value in means.items():
        print(f"{name:5} {value!r}")


if __name__ == "__main__":
    cli.run(main)
