"""The host's side: JPEG files to batches, on one core and in workers, beside timm's transforms."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import jax
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from convnext.data import folders, pipeline, sources
from convnext.data.batches import EvalBatches, TrainBatches
from convnext.data.epochs import Epochs
from convnext.images import augment, decode
from convnext.images.randaugment import RandAugment
from dev.benchmarks.measure import Cells, Peer, spread

BATCH_SIZE = 40
SHAPE = 375, 500  # of most images of ImageNet


def benchmark(arguments: argparse.Namespace) -> None:
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        nbytes = write_images(Path(folder), arguments.images)
        source = folders.class_folders(Path(folder))
        cells = Cells(None)
        print(
            f"{len(source)} JPEG files of {SHAPE[1]}x{SHAPE[0]}, {nbytes / 1e3:.0f} kB on average"
        )
        for name, ms in _stages(source, arguments.image_size).items():
            cells.add(stage=name, ms=spread(ms))

        batches = _batches(source, arguments.image_size)
        figures = _on_one_core(batches, folder, arguments)
        for name, figure in figures.items():
            cells.add(pipeline=name, **figure)
        for name, rates in _by_workers(batches, arguments.rounds).items():
            for workers, rate in rates.items():
                of_one = np.divide(rate, rates[1]).tolist()
                cells.add(
                    pipeline=name,
                    workers=workers,
                    **{"images/s": spread(rate), "of one": spread(of_one)},
                )
            figures[name]["by workers"] = rates
    if arguments.json:
        arguments.json.write_text(json.dumps({**cells.facts, **_flat(figures)}, indent=1) + "\n")


def write_images(folder: Path, count: int) -> float:
    """JPEG files cut from scikit-learn's two photographs; the mean of their sizes, some 75 kB."""
    rng = np.random.default_rng(0)
    sizes = []
    for index in range(count):
        path = folder / "ab"[index % 2] / f"{index:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        photo = load_sample_images().images[index % 2]
        part = augment.random_resized_crop(photo, rng, 500, scale=(0.6, 1.0), ratio=(4 / 3, 4 / 3))
        Image.fromarray(augment.resize(part, *SHAPE)).save(path, quality=95)
        sizes.append(path.stat().st_size)
    return statistics.mean(sizes)


def _stages(source, size):
    """Milliseconds of an image, of each."""
    data = [source.path(index).read_bytes() for index in range(len(source))]
    images = [decode.decode_file(image, "") for image in data]
    crop = partial(augment.random_resized_crop, size=size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    rng = np.random.default_rng(0)
    crops = [crop(image, rng) for image in images]
    on_demand = [decode.decode_on_demand(image, "") for image in data]
    randaugment = RandAugment()

    def augmented(image):
        return randaugment(augment.random_flip(image, rng, prob=0.5), rng)

    return {
        "decode": _milliseconds(lambda image: decode.decode_file(image, ""), data),
        "random resized crop": _milliseconds(lambda image: crop(image, rng), images),
        "both, of the crop alone": _milliseconds(lambda image: crop(image, rng), on_demand),
        "flip and RandAugment": _milliseconds(augmented, crops),
        "evaluation's resize and crop": _milliseconds(
            lambda image: augment.eval_transform(image, image_size=size), images
        ),
    }


def _milliseconds(function: Callable, items: Sequence, passes: int = 5) -> list[float]:
    times = []
    for _ in range(passes):
        begin = time.perf_counter()
        for item in items:
            function(item)
        times.append((time.perf_counter() - begin) / len(items) * 1e3)
    return times


def _batches(source, size):
    """Those of the recipe."""
    transform = partial(augment.train, image_size=size, randaugment={})
    epochs = Epochs(len(source), BATCH_SIZE, num_epochs=1000)
    return {
        "train": TrainBatches(sources.decoded_on_demand(source), transform, epochs),
        "eval": _Repeated(
            source, partial(augment.evaluate, image_size=size), batch_size=BATCH_SIZE
        ),
    }


def _on_one_core(batches, folder, arguments):
    """Images a second of this process alone, and of the peer's, in turns."""
    peer = arguments.peer and Peer(
        arguments.peer_python, "peer_data", folder=folder, image_size=arguments.image_size
    )
    rounds: dict[str, list[float]] = {name: [] for name in batches}
    theirs: dict[str, list[float]] = {name: [] for name in batches}
    count = len(batches["eval"].source) // BATCH_SIZE  # batches of a turn
    for _ in range(arguments.rounds):
        for name, batch in batches.items():
            begin = time.perf_counter()
            for step in range(count):
                batch[step]
            rounds[name].append(count * BATCH_SIZE / (time.perf_counter() - begin))
        for name, rate in peer.measure().items() if peer else ():
            theirs[name].append(rate)
    figures = {name: {"images/s": spread(rates)} for name, rates in rounds.items()}
    if peer:
        peer.close()
        for name, rates in theirs.items():
            figures[name][f"{arguments.peer} images/s"] = spread(rates)
            figures[name]["ratio"] = spread(np.divide(rounds[name], rates).tolist())
            figures[name]["its versions"] = " ".join(map(" ".join, peer.versions.items()))
    return figures


def _by_workers(batches, rounds):
    """{pipeline: {workers: images a second in each round}}, in turns."""
    rates = {name: {workers: [] for workers in (0, 1, 2)} for name in batches}
    for _ in range(rounds):
        for name, by_workers in rates.items():
            for workers, rounds_of_it in by_workers.items():
                rounds_of_it.append(_rate(batches[name], workers))
    return rates


def _rate(batches: TrainBatches | EvalBatches, workers: int) -> float:
    """Images a second that reach the device, when the workers have started."""
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    warm, count = 10, 50
    with pipeline.Feed(placed, workers) as feed:
        is_training = isinstance(batches, TrainBatches)
        made = feed.train(batches) if is_training else feed.evaluate(batches)
        for _ in islice(made, warm):
            pass
        begin = time.perf_counter()
        for _ in islice(made, count):
            pass
        return count * BATCH_SIZE / (time.perf_counter() - begin)


class _Repeated(EvalBatches):
    """The batches of an evaluation, again and again."""

    def __len__(self) -> int:
        return 1000 * super().__len__()

    def part(self, batch: int, rows: slice) -> dict[str, np.ndarray]:
        return super().part(batch % super().__len__(), rows)


def _flat(figures):
    """The medians, by names such as train_images_per_s_per_core."""
    flat = {}
    for name, figure in figures.items():
        flat[f"{name}_images_per_s_per_core"] = figure["images/s"][1]
        for workers, rate in figure["by workers"].items():
            flat[f"{name}_images_per_s_{workers}_workers"] = statistics.median(rate)
        for key, value in figure.items():
            if key.endswith(" images/s"):
                flat[f"{name}_{key.split()[0]}_images_per_s_per_core"] = value[1]
        if "ratio" in figure:
            flat[f"{name}_ratio"] = figure["ratio"][1]
    return flat
