"""From a source to batches on the devices, with Grain.

A batch is a pure function of (seed, step), and an example in it of (seed, epoch, index), whatever
the number of workers and processes: a run resumes from the number of its last step alone.
"""

import multiprocessing.resource_tracker
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, lru_cache, partial
from pathlib import Path

import cloudpickle
import cv2
import grain
import jax
import numpy as np
from absl import flags

from convnext import interruption, losses
from convnext.data.sources import Labelled, Source
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
    """Batches {image [n, H, W, 3], label [n], bad [n]} of num_epochs epochs, by the updates made
    before.

    Each epoch is shuffled anew and has floor(len(source) / batch_size) batches; what is left over
    is dropped. n is batch_size, or this process's `rows` of it. With max_bad_images the next image
    stands in for one that cannot be read, whose index is `bad`, -1 otherwise. Where the problem has
    a single label, an image whose label is of no class counts as one that cannot be read.
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
        max_bad_images: int = 0,
        problem_type: str = losses.SINGLE_LABEL,
    ):
        if problem_type == losses.SINGLE_LABEL:
            source = Labelled(source, "training image")
        self.source, self.transform, self.seed, self.rows = source, transform, seed, rows
        self.batch_size, self.max_bad_images = batch_size, max_bad_images
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
        example, bad = _readable(self.source, index, self.max_bad_images)
        rng = np.random.default_rng((self.seed, epoch, index))
        image = self.transform(example["image"], rng)
        return {"image": image, "label": example["label"], "bad": bad}


@lru_cache(maxsize=2)  # two, because batches are prefetched across the end of an epoch
def _order(size, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(np.arange(size, dtype=np.int32))


class EvalBatches:
    """Batches {image, label, mask, bad} of every example once, in order.

    The last one is filled up with blank images of mask 0. With max_bad_images so is the place of an
    image that cannot be read, whose index is `bad`, -1 otherwise. Where the problem has a single
    label, an image whose label is of no class counts as one that cannot be read.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[np.ndarray], np.ndarray],
        *,
        batch_size: int,
        rows: slice = slice(None),
        max_bad_images: int = 0,
        problem_type: str = losses.SINGLE_LABEL,
    ):
        if problem_type == losses.SINGLE_LABEL:
            source = Labelled(source, "evaluation image")
        self.source, self.transform = source, transform
        self.batch_size, self.rows = batch_size, rows
        self.max_bad_images = max_bad_images

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        first = batch * self.batch_size
        return _stack(
            [self._example(index) for index in range(first, first + self.batch_size)[self.rows]]
        )

    def _example(self, index):
        inside = index < len(self.source)
        example, bad = _readable(self.source, index if inside else 0, self.max_bad_images)
        image = self.transform(example["image"])
        counts = inside and bad < 0
        return {
            "image": image * np.uint8(counts),
            "label": example["label"],
            "mask": np.float32(counts),
            "bad": bad if inside else np.int32(-1),
        }


def _readable(source, index, max_bad_images):
    """The example at index, or the next one that can be read; and index if it cannot, or -1."""
    for offset in range(max_bad_images):
        with suppress(InputError):
            return source[(index + offset) % len(source)], np.int32(index if offset else -1)
    return source[(index + max_bad_images) % len(source)], np.int32(index if max_bad_images else -1)


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
    report: Callable[[str], None] = print,
) -> Iterator[dict[str, jax.Array]]:
    """Global arrays of the batches from number `start` on, made ahead of their use.

    By num_workers processes of one thread each, or with 0 by a thread of this one.

    What is wrong with an image that was replaced is reported when it first occurs. Raises
    InputError where there are more than batches.max_bad_images of them. Of several processes each
    reports, and counts, those of all: interruption.STEPS_BEHIND batches later, or at the end.
    """
    left_out = _LeftOut(batches, sharding, report)
    made = _by_workers(batches, start, num_workers) if num_workers else _by_thread(batches, start)
    with closing(made):
        for batch in made:
            left_out.look(batch.pop("bad"))
            yield {
                # Copied, since no view of a worker's memory may outlive the worker.
                name: jax.make_array_from_process_local_data(sharding, np.array(value))
                for name, value in batch.items()
            }
            del batch
    left_out.look_at_the_last()


class _LeftOut:
    """The images that any process has left out, from the `bad` of the batches."""

    def __init__(self, batches, sharding, report):
        self.source, self.limit, self.report = batches.source, batches.max_bad_images, report
        self.indices: set[int] = set()
        # By what all know, they stop at the same batch. None waits for it.
        self._is_alone = jax.process_count() == 1
        self._behind = 0 if self._is_alone else interruption.STEPS_BEHIND
        self._sharding = sharding
        self._unseen: deque[np.ndarray | jax.Array] = deque()

    def look(self, bad: np.ndarray) -> None:
        if self.limit == 0:  # one would have ended the run
            return
        self._unseen.append(bad if self._is_alone else _of_all_processes(bad, self._sharding))
        if len(self._unseen) > self._behind:
            self._take(self._unseen.popleft())

    def look_at_the_last(self) -> None:
        while self._unseen:
            self._take(self._unseen.popleft())

    def _take(self, bad):
        for index in sorted(set(np.asarray(bad).tolist()) - {-1} - self.indices):
            self.indices.add(index)
            self.report(_damage(self.source, index))
        if len(self.indices) > self.limit:
            raise InputError(
                f"{len(self.indices)} images cannot be read, the last of them {index}; accepted: "
                f"max_bad_images, which is {self.limit}"
            )


def _of_all_processes(rows, sharding):
    """The rows of all, in each: an array, not waited for."""
    return _gathering(sharding)(jax.make_array_from_process_local_data(sharding, rows))


@cache
def _gathering(sharding):
    everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.jit(lambda rows: rows, out_shardings=everywhere)


def _damage(source, index):
    try:
        source[index]
    except InputError as error:
        return str(error)
    return f"image {index} could not be read at first, but can be now"


def _by_thread(batches, start):
    # One, as more would wait for the interpreter's lock.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    dataset = grain.MapDataset.source(batches)[start:].to_iter_dataset(options)
    with closing(iter(dataset)) as iterator:
        yield from iterator


def _by_workers(batches, start, num_workers):
    if not flags.FLAGS.is_parsed():
        # Grain reads a flag, which raises outside of absl's app.run (google/grain#1355).
        flags.FLAGS.mark_as_parsed()
    with tempfile.NamedTemporaryFile() as file:
        cloudpickle.dump(batches, file)
        file.flush()
        # A worker is one core's work, its own thread's.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        dataset = grain.MapDataset.source(_InFile(batches, file.name))[start:]
        dataset = dataset.to_iter_dataset(options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
            worker_init_fn=partial(_init_worker, file.name),
        )
        with closing(iter(dataset)) as iterator:
            with _signals_held():
                batch = next(iterator, None)
            while batch is not None:
                yield batch
                del batch
                batch = next(iterator, None)


class _InFile:
    """Batches that workers read from a file. multiprocessing sends what is pickled through a pipe
    of which it holds both ends: were it more than the pipe holds, 64 KiB, a worker that dies
    before it reads would leave this process waiting for ever."""

    def __init__(self, batches: TrainBatches | EvalBatches, path: str):
        self.batches, self.path = batches, path

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.batches[index]

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return _read, (self.path,)


def _read(path):
    with open(path, "rb") as file:
        return cloudpickle.load(file)


@contextmanager
def _signals_held():
    """Threads and processes that begin inside, which are all of Grain's, start with them blocked: a
    signal to the whole process group must not end the workers before the trainer is done. They
    ignore it as soon as they can."""
    # When multiprocessing starts this one, it unblocks them (before Python 3.13).
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, interruption.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init_worker(path, worker_index, worker_count):
    for number in interruption.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interruption.SIGNALS)
    # The trainer's own end, however sudden, must end a worker.
    threading.Thread(target=_end_with_parent, args=(path,), daemon=True).start()
    cv2.setNumThreads(1)
    jax.config.update("jax_platforms", "cpu")  # the accelerator is the trainer's


def _end_with_parent(path):
    multiprocessing.parent_process().join()
    Path(path).unlink(missing_ok=True)
    os._exit(1)
