"""From a source to batches on the devices, with Grain.

A batch is a pure function of (seed, step), and an example in it of (seed, epoch, index), whatever
the number of workers and processes: a run resumes from the number of its last step alone.
"""

import mmap
import multiprocessing.resource_tracker
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import cloudpickle
import cv2
import grain
import jax
import numpy as np
from absl import flags

from convnext.data import shared_memory
from convnext.data.sources import Labelled, Source
from convnext.errors import InputError
from convnext.files import open_files
from convnext.runs import interruption
from convnext.training import losses

PART_SIZE = 64  # rows of a batch that a worker makes at a time
# Of each worker, all in shared memory: one that it makes, two and two in Grain's queues, one
# between these, and one that is read.
PARTS_AHEAD = 7


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Whole batches in an epoch. Raises InputError where there is none."""
    if not 0 < batch_size <= len(source):
        raise InputError(
            f"batch_size is {batch_size}", f"1 to {len(source)}, the number of images to train on"
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
        self.num_rows = len(range(batch_size)[rows])

    def __len__(self) -> int:
        return self.num_epochs * self.steps_per_epoch

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.part(step, slice(None))

    def part(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """These of the n rows of a batch."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = _order(len(self.source), self.seed, epoch)
        indices = order[batch * self.batch_size : (batch + 1) * self.batch_size][self.rows][rows]
        return _stack([self._example(epoch, index) for index in indices])

    def image_nbytes(self) -> int:
        """Of a row's image. One is read."""
        example, _ = _readable(self.source, 0, len(self.source) - 1)
        return self.transform(example["image"], np.random.default_rng(0)).nbytes

    def _example(self, epoch, index):
        example, bad = _readable(self.source, index, self.max_bad_images)
        rng = np.random.default_rng((self.seed, epoch, index))
        image = self.transform(example["image"], rng)
        return {"image": image, "label": example["label"], "bad": bad}


@lru_cache(maxsize=1)  # one, as each process makes its batches one after the other
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
        self.num_rows = len(range(batch_size)[rows])

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, np.ndarray]:
        return self.part(batch, slice(None))

    def part(self, batch: int, rows: slice) -> dict[str, np.ndarray]:
        """These of the n rows of a batch."""
        first = batch * self.batch_size
        indices = range(first, first + self.batch_size)[self.rows][rows]
        return _stack([self._example(index) for index in indices])

    def image_nbytes(self) -> int:
        """Of a row's image. One is read."""
        example, _ = _readable(self.source, 0, len(self.source) - 1)
        return self.transform(example["image"]).nbytes

    def _example(self, index):
        if index >= len(self.source):
            return self._blank
        example, bad = _readable(self.source, index, self.max_bad_images)
        counts = bad < 0
        return {
            "image": self.transform(example["image"]) * np.uint8(counts),
            "label": example["label"],
            "mask": np.float32(counts),
            "bad": bad,
        }

    @cached_property
    def _blank(self):
        example, _ = _readable(self.source, 0, self.max_bad_images)
        image = np.zeros_like(self.transform(example["image"]))
        return {"image": image, "label": example["label"], "mask": np.float32(0),
                "bad": np.int32(-1)}  # fmt: skip


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
    left_out: set[str] | None = None,
) -> Iterator[dict[str, jax.Array]]:
    """Global arrays of the batches from number `start` on, made ahead of their use.

    By num_workers processes of one thread each, or with 0 by a thread of this one.

    What is wrong with an image that was replaced is reported when it first occurs, and added to
    left_out, of what was met before. Raises InputError where there are more than
    batches.max_bad_images of them. Of several processes each reports, and counts, those of all:
    interruption.STEPS_BEHIND batches later, or at the end.
    """
    watch = _Watch(batches, sharding, report, set() if left_out is None else left_out)
    parts = _Parts(batches)
    first = start * parts.per_batch
    num_workers = min(num_workers, len(parts) - first)
    made = _by_workers(parts, first, num_workers) if num_workers > 0 else _by_thread(parts, first)
    with closing(made):
        for batch in _joined(made, batches.num_rows):
            watch.look(batch.pop("bad"))
            yield {
                name: jax.make_array_from_process_local_data(sharding, batch.pop(name))
                for name in list(batch)
            }
    watch.look_at_the_last()


class _Parts:
    """The parts of batches, of PART_SIZE rows and the last one of a batch of what remains."""

    def __init__(self, batches: TrainBatches | EvalBatches):
        self.batches, self.size = batches, PART_SIZE
        self.per_batch = -(-batches.num_rows // PART_SIZE)

    def __len__(self) -> int:
        return len(self.batches) * self.per_batch

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        batch, part = divmod(number, self.per_batch)
        return self.batches.part(batch, slice(part * self.size, (part + 1) * self.size))


def _joined(parts, num_rows):
    """Batches, each in memory of its own, since no view of a worker's may outlive the worker."""
    filled = 0
    for part in parts:
        if filled == 0:
            batch = {
                name: np.empty((num_rows, *rows.shape[1:]), rows.dtype)
                for name, rows in part.items()
            }
        end = filled + len(part["bad"])
        for name in list(part):
            batch[name][filled:end] = part.pop(name)
        filled = end % num_rows
        if filled == 0:
            yield batch


class _Watch:
    """Over the images that any process has left out, from the `bad` of the batches."""

    def __init__(self, batches, sharding, report, left_out):
        self.source, self.limit, self.report = batches.source, batches.max_bad_images, report
        self.left_out = left_out
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
        new = sorted(set(np.asarray(bad).tolist()) - {-1} - self.indices)
        for index in new:
            self.indices.add(index)
            self.left_out.add(damage := _damage(self.source, index))
            self.report(damage)
        if new and len(self.left_out) > self.limit:
            raise InputError(
                f"{len(self.left_out)} images cannot be read, the last of them {index}",
                f"max_bad_images, which is {self.limit}",
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


def _by_thread(parts, first):
    # One, as more would wait for the interpreter's lock.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2 * parts.per_batch)
    dataset = grain.MapDataset.source(parts)[first:].to_iter_dataset(options)
    with closing(iter(dataset)) as iterator:
        yield from iterator


def _by_workers(parts, first, num_workers):
    if not flags.FLAGS.is_parsed():
        # Grain reads a flag, which raises outside of absl's app.run (google/grain#1355).
        flags.FLAGS.mark_as_parsed()
    owner = shared_memory.owner()
    _make_room(parts, num_workers)
    with tempfile.NamedTemporaryFile(prefix=f"{owner or 'convnext'}-") as file:
        begin = _write(parts, file)
        # A worker is one core's work, its own thread's.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        dataset = grain.MapDataset.source(_InFile(parts, file.name, begin))[first:]
        dataset = dataset.to_iter_dataset(options).mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
            worker_init_fn=partial(_init_worker, file.name, owner),
        )
        with closing(iter(dataset)) as iterator, _shortage_said():
            with _signals_held():
                part = next(iterator, None)
            while part is not None:
                yield part
                del part
                part = next(iterator, None)


def _make_room(parts, num_workers):
    """Raises InputError where there is not enough shared memory for the workers."""
    count, nbytes = shared_memory.remove_left_over(
        [shared_memory.FOLDER, Path(tempfile.gettempdir())]
    )
    if count:
        print(f"removed {count} files, {nbytes / 1e6:,.1f} MB, of runs that were killed, in "
              f"{shared_memory.FOLDER} and {tempfile.gettempdir()}", file=sys.stderr)  # fmt: skip
    batches = parts.batches
    part = min(parts.size, batches.num_rows) * batches.image_nbytes()
    # While a run evaluates, the workers that it trains with keep theirs.
    times = 2 if isinstance(batches, TrainBatches) else 1
    shared_memory.check(times * num_workers * PARTS_AHEAD * part, num_workers)


@contextmanager
def _shortage_said():
    try:
        yield
    except RuntimeError as error:  # of Grain
        if f"exit code {-signal.SIGBUS}." in str(error):
            raise shared_memory.exhausted() from error
        raise


class _InFile:
    """Parts that workers read from a file. multiprocessing sends what is pickled through a pipe
    of which it holds both ends: were it more than the pipe holds, 64 KiB, a worker that dies
    before it reads would leave this process waiting for ever."""

    def __init__(self, parts: _Parts, path: str, begin: int):
        self.parts, self.path, self.begin = parts, path, begin

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        return self.parts[number]

    def __reduce__(self) -> tuple[Callable, tuple[str, int]]:
        return _read, (self.path, self.begin)


def _write(value: Any, file: Any) -> int:
    """Pickles value, behind the arrays in it, which `_read` does not copy; where it begins."""
    buffers: list[pickle.PickleBuffer] = []
    data = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    spans = []
    for buffer in buffers:
        file.write(bytes(-file.tell() % 64))  # aligned
        spans.append((file.tell(), file.tell() + buffer.raw().nbytes))
        file.write(buffer.raw())
    begin = file.tell()
    cloudpickle.dump((data, spans), file)
    file.flush()
    return begin


def _read(path, begin):
    with open(path, "rb") as file:
        # All workers have the same pages, until one writes to its own: a listing may be large.
        pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        file.seek(begin)
        data, spans = cloudpickle.load(file)
    return cloudpickle.loads(data, buffers=[pages[start:end] for start, end in spans])


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


def _init_worker(path, owner, worker_index, worker_count):
    for number in interruption.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, interruption.SIGNALS)
    # The trainer's own end, however sudden, must end a worker.
    threading.Thread(target=_end_with_parent, args=(path,), daemon=True).start()
    if owner:
        shared_memory.name_after(owner)
    open_files.raise_limit()
    cv2.setNumThreads(1)
    jax.config.update("jax_platforms", "cpu")  # the accelerator is the trainer's


def _end_with_parent(path):
    multiprocessing.parent_process().join()
    Path(path).unlink(missing_ok=True)
    os._exit(1)
