"""Batches on the host, as functions of their number alone.

A batch is a function of (seed, step), and an example in it of (seed, epoch, index), whatever the
number of workers and processes: a run resumes from the number of its last step alone.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import numpy as np

from convnext.data import sources
from convnext.data.epochs import Epochs
from convnext.errors import InputError, require
from convnext.task import Source

Example = dict[str, Any]


class TrainBatches:
    """Batches of the transformed examples of a run, by the updates made before: {name: [n, ...]},
    and int32 [n]: epoch; index, the number of an example in its source; and bad.

    n is the batch size, or this process's `rows` of it. With max_bad_images the next example of the
    group stands in for one that cannot be read, whose index is `bad`, -1 otherwise.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Example, np.random.Generator], Example] | None,
        epochs: Epochs,
        *,
        rows: slice = slice(None),
        max_bad_images: int = 0,
    ):
        self.source, self.transform, self.epochs = source, transform, epochs
        self.rows, self.max_bad_images = rows, max_bad_images
        self.num_rows = len(range(epochs.batch_size)[rows])
        # Whether a batch is only taken from memory, for which no other thread or process is needed.
        self.is_at_hand = transform is None and sources.rows(source, np.arange(0)) is not None
        self._members = _members(epochs.groups, len(source))

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.part(step, slice(None))

    def part(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns these of the n rows of a batch."""
        epochs, indices = (each[self.rows][rows] for each in self.epochs[step])
        if self.is_at_hand and (made := sources.rows(self.source, indices)) is not None:
            numbers = dict(epoch=epochs, index=indices, bad=np.full(len(indices), -1))
            return made | {name: each.astype(np.int32) for name, each in numbers.items()}
        numbers = zip(epochs.tolist(), indices.tolist(), strict=True)
        return _stacked([self._example(*each) for each in numbers])

    def row_nbytes(self) -> int:
        """Bytes of a row, in the group where they are the most. One example of each is read."""
        read = partial(self._transformed, epoch=0, index=0)
        return max(_nbytes(_first(read, members)) for members in self._members)

    def _example(self, epoch, index):
        if self.epochs.groups is None:
            members, place = self._members[0], index
        else:
            members = self._members[self.epochs.groups[index]]
            place = int(np.searchsorted(members, index))
        read = partial(self._transformed, epoch=epoch, index=index)
        example, found = _readable(read, members, place, self.max_bad_images)
        numbers = dict(epoch=epoch, index=index, bad=-1 if found == index else index)
        return example | {name: np.int32(number) for name, number in numbers.items()}

    def _transformed(self, found, epoch, index):
        """The example number `found` with the transform of number `index`."""
        example = self.source[found]
        if self.transform is None:
            return example
        return self.transform(example, np.random.default_rng((self.epochs.seed, epoch, index)))


class EvalBatches:
    """Batches of every transformed example once, in order: {name: [n, ...]}, mask float32 [n],
    index int32 [n], the number of an example in its source, and bad int32 [n].

    groups, int [examples]: a batch has examples of one group, group after group. The last batch of
    a group is filled up with blank examples of mask 0 and index -1. With max_bad_images a blank one
    also takes the place of an example that cannot be read, whose index is `bad`, -1 otherwise.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Example], Example],
        groups: np.ndarray | None = None,
        *,
        batch_size: int,
        rows: slice = slice(None),
        max_bad_images: int = 0,
    ):
        require(batch_size > 0, "batch_size", batch_size, "1 and more")
        self.source, self.transform, self.is_at_hand = source, transform, False
        self.batch_size, self.rows, self.max_bad_images = batch_size, rows, max_bad_images
        self.num_rows = len(range(batch_size)[rows])
        self._members = _members(groups, len(source))
        # (group, its batch) of each batch.
        self._numbers = [
            (group, number)
            for group, members in enumerate(self._members)
            for number in range(-(-len(members) // batch_size))
        ]
        self._blanks: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        return self.part(batch, slice(None))

    def part(self, batch: int, rows: slice) -> dict[str, np.ndarray]:
        """Returns these of the n rows of a batch."""
        group, number = self._numbers[batch]
        first = number * self.batch_size
        places = range(first, first + self.batch_size)[self.rows][rows]
        return _stacked([self._example(group, place) for place in places])

    def row_nbytes(self) -> int:
        """Bytes of a row, in the group where they are the most. One example of each is read."""
        return max(_nbytes(_first(self._transformed, members)) for members in self._members)

    def _example(self, group, place):
        members = self._members[group]
        index = int(members[place]) if place < len(members) else -1
        bad, example = -1, None
        if index >= 0:
            try:
                example = self.source[index]
            except InputError:
                if self.max_bad_images == 0:
                    raise
                bad = index
        return {
            **(self._blank(group) if example is None else self.transform(example)),
            "mask": np.float32(example is not None),
            "index": np.int32(index),
            "bad": np.int32(bad),
        }

    def _blank(self, group):
        if group not in self._blanks:
            members = self._members[group]
            example, _ = _readable(self._transformed, members, 0, self.max_bad_images)
            self._blanks[group] = {name: np.zeros_like(each) for name, each in example.items()}
        return self._blanks[group]

    def _transformed(self, index):
        return self.transform(self.source[index])


def _members(groups, count):
    """Indices of the examples of each group, in order."""
    if groups is None:
        return [range(count)]
    require(len(groups) == count, "the length of groups", len(groups), count)
    _, counts = np.unique(groups, return_counts=True)
    return np.split(np.argsort(groups, kind="stable"), np.cumsum(counts)[:-1])


def _readable(read, members, place, max_bad_images):
    """The example of the member at this place, or of one of the max_bad_images that follow, if it
    cannot be read; and its index."""
    for offset in range(max_bad_images):
        index = int(members[(place + offset) % len(members)])
        with suppress(InputError):
            return read(index), index
    index = int(members[(place + max_bad_images) % len(members)])
    return read(index), index


def _first(read, members):
    """The first example that can be read."""
    return _readable(read, members, 0, len(members) - 1)[0]


def _nbytes(example):
    return sum(np.asarray(each).nbytes for each in example.values())


def _stacked(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    stacked = {}
    for name in examples[0]:
        arrays = [example[name] for example in examples]
        shapes = sorted({np.shape(array) for array in arrays})
        accepted = "one shape; groups part examples of several"
        require(len(shapes) == 1, f"shapes of {name} in one batch", shapes, accepted)
        stacked[name] = np.stack(arrays)
    return stacked


def process_rows(batch_size: int) -> slice:
    """The contiguous rows of a global batch that this process reads."""
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
