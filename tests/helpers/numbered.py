"""Images that show the number of their example, and a draw."""

import numpy as np

from convnext.data import in_memory
from convnext.data.batches import TrainBatches
from convnext.data.epochs import Epochs
from convnext.errors import InputError


def source(count, kind=in_memory.Arrays):
    """Example i is an image of value i."""
    images = np.zeros((count, 4, 4, 3), np.uint8)
    images += np.arange(count, dtype=np.uint8)[:, None, None, None]
    return kind(images, np.arange(count, dtype=np.int32) % 3, ["a", "b", "c"])


class Damaged(in_memory.Arrays):
    """Some of these images cannot be read."""

    damaged = (0, 5, 6, 21)

    def __getitem__(self, index):
        if index in self.damaged:
            raise InputError(f"cannot read the image {index}.jpg: cut off", "whole ones")
        return super().__getitem__(index)


class TwoShapes(Damaged):
    """Every other image is twice as high."""

    damaged = ()

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return example | {"image": np.repeat(example["image"], 1 + index % 2, axis=0)}


class Counted(in_memory.Arrays):
    """Notes which images are read."""

    def __init__(self, *arrays):
        super().__init__(*arrays)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def jitter(example, rng):
    """Keeps the number of the example in one pixel and a draw in another."""
    image = example["image"].copy()
    image[0, 1] = rng.integers(0, 256)
    return example | {"image": image}


def unchanged(example):
    return example


def train_batches(
    source,
    *,
    seed=3,
    num_epochs=3,
    num_steps=None,
    batch_size=8,
    groups=None,
    transform=jitter,
    **keywords,
):
    epochs = Epochs(
        len(source),
        batch_size,
        num_epochs=num_epochs,
        num_steps=num_steps,
        seed=seed,
        groups=groups,
    )
    return TrainBatches(source, transform, epochs, **keywords)


def numbers(batches):
    return [int(i) for batch in batches for i in batch["image"][:, 0, 0, 0]]


def draws(batches):
    return [int(i) for batch in batches for i in batch["image"][:, 0, 1, 0]]
