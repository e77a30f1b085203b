"""timm's side of `python -m dev.benchmark data`, started by it; measures when it is told to.

The argument is a JSON object. Answers are JSON lines on standard output: the versions, then for
each request the images a second, by pipeline, that one thread makes of the files.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path

import torch
from PIL import Image

import dev.torchvision_operators  # noqa: F401
from dev.benchmarks.peer import answer


def main(request):
    from timm.data import create_transform

    torch.set_num_threads(1)
    size = request["image_size"]
    transforms = {
        "train": create_transform(
            size,
            is_training=True,
            auto_augment="rand-m9-mstd0.5-inc1",
            interpolation="bicubic",
            re_prob=0.25,
        ),
        "eval": create_transform(size, interpolation="bicubic", crop_pct=0.875),
    }
    paths = sorted(Path(request["folder"]).glob("*/*.jpg"))
    answer({name: metadata.version(name) for name in ("timm", "torchvision", "pillow")})
    for _ in sys.stdin:
        answer({name: _rate(transform, paths) for name, transform in transforms.items()})


def _rate(transform, paths):
    begin = time.perf_counter()
    for path in paths:
        with Image.open(path) as image:
            try:
                transform(image.convert("RGB"))
            except ValueError:  # posterizing to no bits, which Pillow refuses; counted as made
                continue
    return len(paths) / (time.perf_counter() - begin)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
