"""What workers hold of the host's memory, once their buffers are full."""

import argparse
import multiprocessing
import os
import re
import time
from pathlib import Path

import jax
import numpy as np

from convnext.data import pipeline
from convnext.data.batches import Example, TrainBatches
from convnext.data.epochs import Epochs
from dev.benchmarks.measure import Cells


class Noise:
    """Images of the size that training takes, without files."""

    class_names = ("noise",)

    def __init__(self, num_images: int, image_size: int):
        self.num_images, self.image_size = num_images, image_size

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        shape = (self.image_size, self.image_size, 3)
        image = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
        return {"image": image, "label": np.int32(0)}


def unchanged(example: Example, rng: np.random.Generator) -> Example:
    return example


def benchmark(arguments: argparse.Namespace) -> None:
    cells = Cells(arguments.json)
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for num_workers in arguments.workers:
        source = Noise(4 * arguments.batch_size, arguments.image_size)
        epochs = Epochs(len(source), arguments.batch_size, num_epochs=1000)
        before = _shared()
        with pipeline.Feed(placed, num_workers) as feed:
            made = feed.train(TrainBatches(source, unchanged, epochs))
            next(made)
            private, shared = _when_full()
        each = [private / num_workers / 1e9, (shared - before) / num_workers / 1e9]
        cells.add(
            batch=arguments.batch_size,
            workers=num_workers,
            **{
                "private GB a worker": each[0],
                "shared GB a worker": each[1],
                "GB of all": sum(each) * num_workers,
            },
        )


def _when_full():
    """Bytes that are private to the workers, and of shared memory, at most, until the latter has
    not grown for ten seconds."""
    private, shared, grown = 0, 0, time.monotonic()
    while time.monotonic() - grown < 10:
        private = max(private, sum(_private(c.pid) for c in multiprocessing.active_children()))
        if (now := _shared()) > shared:
            shared, grown = now, time.monotonic()
        time.sleep(0.1)
    return private, shared


def _private(pid):
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB", rollup, re.MULTILINE)))


def _shared():
    found = os.statvfs("/dev/shm")
    return (found.f_blocks - found.f_bfree) * found.f_frsize
