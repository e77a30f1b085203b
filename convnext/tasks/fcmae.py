"""Masked pre-training of ConvNeXt V2 (https://arxiv.org/abs/2301.00808): images without labels, of
which the model predicts what is masked."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from convnext.data import sources, survey
from convnext.data.folders import Files
from convnext.images import augment
from convnext.models import fcmae
from convnext.models.convnext import smallest_side
from convnext.models.fcmae import FCMAE, Masks
from convnext.runs import plan
from convnext.task import Batch, Evaluation, Task, Variables
from convnext.tasks import inputs
from convnext.training import steps
from convnext.weights import pretrained

COMMANDS = (
    "python -m tools.reconstruct --workdir={workdir}",
    "python train.py --config=configs/finetune.py --config.init_from={workdir} "
    "--config.data.root=IMAGES",
)
RATE = 1.5e-4  # of 256 images (main_pretrain.py of ConvNeXt-V2)
DECAYED = ("kernel", "mask_token", "grn/gamma", "grn/beta")


def make(config: ConfigDict, mesh: jax.sharding.Mesh, stand_in: bool = False) -> Task:
    """Makes the task of configs/fcmae.py. An example has "image", uint8 [H, W, 3]; a
    label is not looked at. Raises InputError for what is out of range."""
    train_source, val_source = inputs.load(config, 1, stand_in=stand_in, is_labelled=False)
    is_stand_in = isinstance(train_source, sources.Announced)
    found = []
    if isinstance(train_source, Files) and isinstance(val_source, Files):
        found = survey.of_files(train_source, val_source)
    if config.schedule.peak_lr is None:
        config = config.copy_and_resolve_references()
        config.schedule.peak_lr = RATE * config.batch_size / 256
    model = FCMAE(**config.model)
    model.check()
    size = config.image_size
    grid = fcmae.grid_of(model, (size, size))
    shown = dict(grid=grid, num_visible=fcmae.num_visible(model, grid))
    normalize = partial(steps.normalize, **config.normalize)
    train_transform = partial(
        augment.train, image_size=size, mean=config.normalize.mean, **config.augment
    )
    eval_transform = partial(augment.evaluate, image_size=size, **config.preprocess)
    # Tried on a black image, so that what is out of range is refused before anything is written.
    black = {"image": np.zeros((size, size, model.in_chans), np.uint8)}
    jax.eval_shape(normalize, black["image"])
    eval_transform(black)
    example = train_transform(black, np.random.default_rng(0))
    train_source, train_transform, augmented, said = inputs.on_its_place(
        config, train_source, train_transform
    )
    options = dict(model=model, norm_pix=config.norm_pix_loss, **shown)

    def describe(params: Any) -> list[str]:
        return [*_architecture(model, params, size, **shown), plan.precision(model), *said, *found]

    return Task(
        config=config,
        model=model,
        init=partial(fcmae.init, model=model, **shown),
        pretrained=partial(start, model=model, **shown),
        train_source=train_source,
        train_transform=train_transform,
        example=example,
        prepare=partial(prepare, augmented=augmented, normalize=normalize, grid=grid),
        loss=partial(loss, **options),
        evaluation=Evaluation(
            source=val_source,
            transform=eval_transform,
            measure=partial(measure, seed=config.seed, normalize=normalize, **options),
            scores=scores,
        ),
        best="-loss",
        describe=describe,
        commands=COMMANDS,
        is_stand_in=is_stand_in,
        activations=partial(fcmae.activations, model, **shown),
        rules={"decay_mask": decay_mask},
    )


def start(source: str, key: jax.Array, *, model: FCMAE, **shown: Any) -> Variables:
    """Reads the encoder, and where the source has one the decoder; the rest is drawn. Raises
    InputError where its architecture is another one."""
    drawn = jax.device_get(fcmae.init(key, model=model, **shown))
    return {"params": pretrained.into(source, drawn["params"])}


def prepare(
    keys: jax.Array,
    batch: Batch,
    *,
    augmented: Callable[[Batch], jax.Array],
    normalize: Callable,
    grid: tuple[int, int],
) -> Batch:
    """Augments the images of a batch, normalises them, and draws what is masked: {"image", "order",
    "ranks"}."""
    images = normalize(augmented(batch))
    order, ranks = fcmae.draw(keys[0], len(images), grid=grid)
    return {"image": images, "order": order, "ranks": ranks}


def loss(
    variables: Variables, batch: Batch, key: jax.Array, **options: Any
) -> tuple[jax.Array, tuple[dict, dict]]:
    """Computes the mean loss of a part of a batch; no other variables change, nothing else is
    logged. options: `losses`."""
    return losses(variables, batch, key=key, **options).mean(), ({}, {})


def losses(
    variables: Variables,
    batch: Batch,
    *,
    model: FCMAE,
    grid: tuple[int, int],
    num_visible: int,
    norm_pix: bool,
    key: jax.Array | None = None,
) -> jax.Array:
    """Computes the loss of each image, [N], float32. key: of drop path, in training."""
    images, masks = batch["image"], Masks(batch["order"], batch["ranks"], num_visible, grid)
    is_training = key is not None
    rngs = {"dropout": key} if is_training else None
    predicted = model.apply(variables, images, masks, train=is_training, rngs=rngs)
    target = fcmae.targets(images, masks, smallest_side(model), norm_pix=norm_pix)
    return fcmae.losses(predicted, target)


def measure(
    variables: Variables,
    batch: Batch,
    *,
    seed: int,
    normalize: Callable,
    grid: tuple[int, int],
    **options: Any,
) -> dict[str, jax.Array]:
    """Sums up the losses. The masks of an image are a function of its number and of the seed."""
    order, ranks = masks_of(seed, batch["index"], grid=grid)
    batch = {**batch, "image": normalize(batch["image"]), "order": order, "ranks": ranks}
    each, mask = losses(variables, batch, grid=grid, **options), batch["mask"]
    return {"loss": (each * mask).sum(), "count": mask.sum()}


def masks_of(seed: int, index: jax.Array, *, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns order and ranks, int32 [N, L], of the validation images of these numbers."""

    def draw(index):
        key = jax.random.fold_in(jax.random.key(seed), index)
        return tuple(each[0] for each in fcmae.draw(key, 1, grid=grid))

    return jax.vmap(draw)(index)


def scores(total: Mapping[str, Any]) -> dict[str, float]:
    """The mean loss of a total."""
    return {"loss": float(total["loss"] / total["count"])}


def decay_mask(params: Any) -> Any:
    """True for what the official script decays: all that it has in two dimensions or more, GRN and
    the mask token among it. Fine-tuning decays neither."""

    def is_decayed(path, _):
        return "/".join(entry.key for entry in path).endswith(DECAYED)

    return jax.tree.map_with_path(is_decayed, params)


def _architecture(model, params, size, *, grid, num_visible):
    """Lines of the plan about the model and what it sees."""
    gmacs = fcmae.macs(model, grid, num_visible) / 1e9
    decoder = plan.parameter_count(
        {name: leaf for name, leaf in params.items() if fcmae.is_of_decoder(name)}
    )
    return [
        f"model      {plan.parameter_count(params):,} parameters, {decoder:,} of them of the "
        f"decoder, {gmacs:.4g} GMACs at {size} px, depths {tuple(model.depths)}, "
        f"dims {tuple(model.dims)}",
        f"masks      {num_visible} of {grid[0] * grid[1]} patches of {smallest_side(model)} px are "
        "visible",
    ]
