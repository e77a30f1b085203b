"""Batches on the devices, made ahead of their use from batches on the host, with Grain."""

import mmap
import multiprocessing.resource_tracker
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cloudpickle
import cv2
import grain
import jax
import numpy as np
from absl import flags

from convnext import hosts
from convnext.data import damaged, shared_memory
from convnext.data.batches import EvalBatches, TrainBatches
from convnext.files import open_files

PART_SIZE = 64  # rows of a batch that a worker makes at a time
# Of each worker, all in shared memory: one that it makes, two and two in Grain's queues, one
# between these, and one that is read.
PARTS_AHEAD = 7


class Feed:
    """Puts batches on the devices, made ahead of their use. A context manager, which ends all that
    makes them.

    They are made by num_workers processes of one thread each, or with 0 by a thread of this one;
    those that are at hand are taken when they are due.
    The workers of an evaluation stay for the next one, and begin it as soon as one ends.

    What is wrong with an example that was skipped is reported when it first occurs, and added to
    `skipped`, of what was met before. Raises InputError where there are more than
    batches.max_bad_images of them. Of several processes each reports, and counts, those of all:
    hosts.STEPS_BEHIND batches later, or at the end.
    """

    def __init__(
        self,
        sharding: jax.sharding.Sharding,
        num_workers: int = 0,
        report: Callable[[str], None] = print,
        skipped: set[str] | None = None,
    ):
        self.sharding, self.num_workers, self.report = sharding, num_workers, report
        self.skipped = set() if skipped is None else skipped
        self._on_cpu = next(iter(sharding.device_set)).platform == "cpu"
        self._begun = ExitStack()
        # What the workers that stayed have begun, by the batches of the evaluation.
        self._ahead: dict[EvalBatches, Iterator[dict[str, np.ndarray]]] = {}

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_) -> None:
        self._begun.close()

    def train(self, batches: TrainBatches, start: int = 0) -> Iterator[dict[str, jax.Array]]:
        """Yields the batches from number `start` on."""
        # There is room for the workers of an evaluation, too, if they are not there yet.
        with closing(self._begin(batches, start, times=1 if self._ahead else 2)) as parts:
            yield from self._on_devices(batches, parts)

    def evaluate(self, batches: EvalBatches) -> Iterator[dict[str, jax.Array]]:
        """Yields all batches once."""
        parts = self._ahead.pop(batches, None) or self._begin(batches, endless=True)
        with ExitStack() as ends:
            # Left early, or with an error, they are not where the next evaluation begins.
            ends.callback(parts.close)
            yield from self._on_devices(batches, islice(parts, len(batches) * _per_batch(batches)))
            if self.num_workers > 0:
                self._ahead[batches] = parts
                ends.pop_all()

    def _begin(self, batches, start=0, *, endless=False, times=1):
        """Makes the parts of the batches from number `start` on, again and again if endless."""
        parts = _Parts(batches)
        first = start * parts.per_batch
        # No more workers than there are parts: the others would start for nothing.
        num_workers = min(self.num_workers, len(parts) - first)
        if batches.is_at_hand:
            made = (parts[number] for number in range(first, len(parts)))
        elif num_workers > 0:
            made = _by_workers(parts, first, num_workers, endless=endless, times=times)
        else:
            made = _by_thread(parts, first)
        self._begun.callback(made.close)
        return made

    def _on_devices(self, batches, parts):
        bad_images = damaged.BadImages(
            batches.source, batches.max_bad_images, self.report, self.skipped
        )
        sent = deque()  # the last batches, on the host and on the devices
        for batch in _joined(parts, batches.num_rows, sent):
            bad_images.look(batch.pop("bad"))
            yield self._placed(batch, sent)
        bad_images.look_at_the_last()

    def _placed(self, batch, sent):
        """The batch on the devices. Those that have memory of their own leave its own to `sent`."""
        if self.sharding.is_fully_addressable:  # the same at half the price
            placed = jax.device_put(dict(batch), self.sharding)
        else:
            placed = {
                name: jax.make_array_from_process_local_data(self.sharding, rows)
                for name, rows in batch.items()
            }
        if not self._on_cpu:
            sent.append((dict(batch), list(placed.values())))
        batch.clear()  # so that nothing else holds it
        return placed


class _Parts:
    """The parts of batches, of PART_SIZE rows and the last one of a batch of what remains."""

    def __init__(self, batches: TrainBatches | EvalBatches):
        self.batches, self.size = batches, PART_SIZE
        self.per_batch = _per_batch(batches)

    def __len__(self) -> int:
        return len(self.batches) * self.per_batch

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        batch, part = divmod(number, self.per_batch)
        return self.batches.part(batch, slice(part * self.size, (part + 1) * self.size))


def _per_batch(batches):
    """Parts of a batch."""
    return -(-batches.num_rows // PART_SIZE)


def _joined(parts, num_rows, sent):
    """Batches, in memory of this process, since no view of a worker's may outlive the worker."""
    filled = 0
    for part in parts:
        if filled == 0:
            batch = _memory(part, num_rows, sent)
        end = filled + len(part["bad"])
        for name in list(part):
            batch[name][filled:end] = part.pop(name)
        filled = end % num_rows
        if filled == 0:
            yield batch


def _memory(part, num_rows, sent):
    """For a batch of such rows: that of the last batch but one, once it is on the devices. Of new
    memory the system has to clear every page, which takes longer than to fill it."""
    old, placed = sent.popleft() if len(sent) > 1 else ({}, [])
    jax.block_until_ready([array for array in placed if not array.is_deleted()])
    batch = {}
    for name, rows in part.items():
        shape = (num_rows, *rows.shape[1:])
        fits = name in old and (old[name].shape, old[name].dtype) == (shape, rows.dtype)
        batch[name] = old[name] if fits else np.empty(shape, rows.dtype)
    return batch


def _by_thread(parts, first):
    # One, as more would wait for the interpreter's lock.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2 * parts.per_batch)
    dataset = grain.MapDataset.source(parts)[first:].to_iter_dataset(options)
    with closing(iter(dataset)) as iterator:
        yield from iterator


def _by_workers(parts, first, num_workers, *, endless, times):
    if not flags.FLAGS.is_parsed():
        # Grain reads a flag, which raises outside of absl's app.run (google/grain#1355).
        flags.FLAGS.mark_as_parsed()
    owner = shared_memory.owner()
    _make_room(parts, num_workers, times)
    with tempfile.NamedTemporaryFile(prefix=f"{owner or 'convnext'}-") as file:
        begin = _write(parts, file)
        # A worker is one core's work, its own thread's.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        dataset = grain.MapDataset.source(_InFile(parts, file.name, begin))
        dataset = dataset.repeat() if endless else dataset[first:]
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


def _make_room(parts, num_workers, times):
    """Raises InputError where there is not enough shared memory for the workers, so many times."""
    count, nbytes = shared_memory.remove_left_over(
        [shared_memory.FOLDER, Path(tempfile.gettempdir())]
    )
    if count:
        print(
            f"removed {count} files, {nbytes / 1e6:,.1f} MB, of runs that were killed, in "
            f"{shared_memory.FOLDER} and {tempfile.gettempdir()}",
            file=sys.stderr,
        )
    batches = parts.batches
    part = min(parts.size, batches.num_rows) * batches.row_nbytes()
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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, hosts.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init_worker(path, owner, worker_index, worker_count):
    for number in hosts.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, hosts.SIGNALS)
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
