"""The images of a task: where they come from, and where those to train on are augmented."""

from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import numpy as np

from convnext.data import sources
from convnext.errors import InputError, require
from convnext.images import augment
from convnext.task import Batch, Source
from convnext.training import augmentation

PLACES = ("host", "device")
Transform = Callable[[dict[str, Any], np.random.Generator], dict[str, Any]]


def load(
    config: Mapping[str, Any], num_classes: int | None, *, stand_in: bool, is_labelled: bool = True
) -> tuple[Source, Source]:
    """Returns the training and validation images of config.data; of a dry run without them, where
    it is published how many there are, as many blank ones of num_classes. Raises InputError as
    `sources.load`."""
    sources.check_val_fraction(config.data.val_fraction)
    try:
        train, val = sources.load(**config.data, is_labelled=is_labelled)
    except InputError as error:
        published = config.published
        if not (stand_in and published.train_size and num_classes):
            raise
        print(f"data       {error.problem}; the sizes are those published")
        sizes = (published.train_size, published.val_size)
        train, val = (sources.Announced(size, num_classes) for size in sizes)
    sources.require_same(train=train, val=val)
    return train, val


def on_its_place(
    config: Mapping[str, Any], source: Source, on_host: Transform
) -> tuple[Source, Transform | None, Callable[[Batch], jax.Array], list[str]]:
    """Returns the training source, its transform on the host or None, what the device makes of the
    images of a batch, and lines about it. Raises InputError for another place."""
    place, size = config.augment_on, config.image_size
    require(place in PLACES, "augment_on", place, " or ".join(PLACES))
    as_they_come = itemgetter("image")
    missing = augmentation.not_here(**config.augment)
    if place == "host" or missing:
        said = f"augments   on the host: {missing}, which the device does not have"
        lines = [said] if place == "device" else []
        return sources.decoded_on_demand(source), on_host, as_they_come, lines
    source = sources.resized(source, partial(augment.resize, height=size, width=size))
    on_device = partial(augment_batch, seed=config.seed, **config.augment)
    return source, None, on_device, ["augments   on the device"]


def augment_batch(batch: Batch, *, seed: int, **fields: Any) -> jax.Array:
    """The images of a batch, augmented by these fields of config.augment. Those of an image are a
    function of (seed, epoch, index), as on the host."""
    keys = augmentation.keys_of(seed, batch["epoch"], batch["index"])
    return augmentation.augment(keys, batch["image"], **fields)
