"""Shows what masked pre-training has learned: a picture of images, of what the model sees of them,
and of what it makes of the rest.

    python -m tools.reconstruct --workdir=RUN [IMAGE ...] [--count=12] [--out=FILE.png]

IMAGE is a file, a folder, a pattern or an address; without one, the first validation images of the
run, with the masks that its loss is computed with.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from convnext import commands, sharding, tasks
from convnext.errors import InputError, reported, require
from convnext.evaluation import reconstruction
from convnext.images import augment
from convnext.models import fcmae
from convnext.models.fcmae import Masks
from convnext.runs import checkpoint, chosen, programs
from convnext.tasks.fcmae import masks_of
from tools import named_images

SHOWN = 112  # pixels: smaller images are enlarged to about this side


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("reconstruct", __doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument("--workdir", type=Path, required=True, metavar="RUN")
    parser.add_argument("--weights", help="best (default), best_raw, ema, raw or a step")
    parser.add_argument("--count", type=int, default=12, help="images at most (%(default)s)")
    parser.add_argument("--out", type=Path, help="a picture; default: RUN/reconstruction.png")
    parser.add_argument("--data_root", help="where the images of the run lie now")
    with reported(), programs.kept():
        write(**vars(parser.parse_args(argv)))


def write(
    images: Sequence[str],
    workdir: Path,
    weights: str | None,
    count: int,
    out: Path | None,
    data_root: str | None,
) -> None:
    """Writes the picture. Raises InputError for a run of another task, and for images that cannot
    be read."""
    require(count >= 1, "--count", count, "1 and more")
    config = tasks.restored(workdir / "config.json")
    require(config.task == "fcmae", f"the task of {workdir}", config.task, "fcmae")
    if data_root:
        config.data.root = data_root
    mesh = sharding.make_mesh()
    task = tasks.make(config, mesh, stand_in=bool(images))
    found = chosen.find(workdir, weights or "best", ema_decays=config.ema_decays, best=task.best)
    variables = checkpoint.restore_variables(
        workdir,
        found.step,
        jax.eval_shape(task.init, jax.random.key(0)),
        sharding.replicated(mesh),
        ema_decay=found.ema_decay,
    )
    pixels = _named(images, count, config) if images else _of_the_run(task.evaluation, count)
    grid = fcmae.grid_of(task.model, pixels.shape[1:3])
    order, ranks = masks_of(config.seed, np.arange(len(pixels)), grid=grid)
    show = jax.jit(
        partial(
            reconstruction.pictures,
            model=task.model,
            norm_pix=config.norm_pix_loss,
            **config.normalize,
        )
    )
    masks = Masks(order, ranks, fcmae.num_visible(task.model, grid), grid)
    shown = jax.device_get(show(variables, pixels, masks))
    out = out or workdir / "reconstruction.png"
    picture = reconstruction.strip(shown, scale=max(round(SHOWN / pixels.shape[1]), 1))
    try:
        Image.fromarray(picture).save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"--out is {out}: {error}", "a picture, such as FILE.png") from error
    print(f"{out}: {len(pixels)} images, of {workdir} {found}")


def _of_the_run(evaluation, count):
    """The first validation images, as the run sees them."""
    examples = [evaluation.source[index] for index in range(min(count, len(evaluation.source)))]
    return np.stack([evaluation.transform(example)["image"] for example in examples])


def _named(names, count, config):
    """The images that these name, prepared as validation images."""
    bad: list[InputError] = []
    found, _ = named_images.find(names)
    images = [image for _, image in named_images.read(found[:count], bad)]
    if bad:
        raise bad[0]
    options = dict(image_size=config.image_size, **config.preprocess)
    return np.stack([augment.eval_transform(image, **options) for image in images])


if __name__ == "__main__":
    main()
