"""From a source to batches on the devices, with Grain.

A batch is a pure function of (seed, step), and an example in it of (seed, epoch, index), whatever
the number of workers and processes: a run resumes from the number of its last step alone.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import grain
import jax
import numpy as np
from absl import flags

from convnext.data.sources import Source
from convnext.errors import InputError


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Whole batches in an epoch. Raises InputError where there is none."""
    if not 0 < batch_size <= len(source):
        raise InputError(
            f"batch_size is {batch_size}; accepted: 1 to {len(source)}, the number of images to "
            "train on"
        )
    return len(source) // batch_size


class TrainBatches:
    """Batches {image [n, H, W, 3], label [n]} of num_epochs epochs, by the updates made before.

    Each epoch is shuffled anew and has floor(len(source) / batch_size) batches; what is left over
    is dropped. n is batch_size, or this process's `rows` of it.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[np.ndarray, np.random.Generator], np.ndarray],
        *,
        seed: int,
        num_epochs: int,
        batch_size: int,
        rows: slice = slice(None),
    ):
        self.source, self.transform, self.seed, self.rows = source, transform, seed, rows
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch(source, batch_size)
        self.num_epochs = num_epochs

    def __len__(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = _order(len(self.source), self.seed, epoch)
        indices = order[batch * self.batch_size : (batch + 1) * self.batch_size][self.rows]
        examples = [self._example(epoch, index) for index in indices]
        return _stack(examples)

    def _example(self, epoch, index):
        example = self.source[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        return {"image": self.transform(example["image"], rng), "label": example["label"]}


@lru_cache(maxsize=2)  # two, because batches are prefetched across the end of an epoch
def _order(size, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(np.arange(size, dtype=np.int32))


class EvalBatches:
    """Batches {image, label, mask} of every example once, in order.

    The last one is filled up with blank images of mask 0.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[np.ndarray], np.ndarray],
        *,
        batch_size: int,
        rows: slice = slice(None),
    ):
        self.source, self.transform = source, transform
        self.batch_size, self.rows = batch_size, rows

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        first = batch * self.batch_size
        return _stack(
            [self._example(index) for index in range(first, first + self.batch_size)[self.rows]]
        )

    def _example(self, index):
        inside = index < len(self.source)
        example = self.source[index if inside else 0]
        image = self.transform(example["image"])
        mask = np.float32(inside)
        return {"image": image * np.uint8(inside), "label": example["label"], "mask": mask}


def _stack(examples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def process_rows(batch_size: int) -> slice:
    """The contiguous rows of a global batch that this process reads."""
    rows = batch_size // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def to_devices(
    batches: TrainBatches | EvalBatches,
    sharding: jax.sharding.Sharding,
    *,
    start: int = 0,
    num_workers: int = 0,
) -> Iterator[dict[str, jax.Array]]:
    """Global arrays of the batches from number `start` on, made ahead of their use.

    By num_workers processes, or with 0 by a thread of this one: more would wait for the
    interpreter's lock.
    """
    dataset = grain.MapDataset.source(batches)[start:].to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    )
    if num_workers:
        if not flags.FLAGS.is_parsed():
            # Grain reads a flag, which raises outside of absl's app.run (google/grain#1355).
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_init_worker)

    iterator = iter(dataset)
    try:
        for batch in iterator:
            yield {
                # Copied, since no view of a worker's memory may outlive the worker.
                name: jax.make_array_from_process_local_data(sharding, np.array(value))
                for name, value in batch.items()
            }
            del batch
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def _init_worker(worker_index, worker_count):
    jax.config.update("jax_platforms", "cpu")  # the accelerator is the trainer's
    # A signal to the whole process group must not end the workers before the trainer is done.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
