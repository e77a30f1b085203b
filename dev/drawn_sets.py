"""Draws a data set of JPEG files to compare ways of training on, without a download.

    python -m dev.drawn_sets letters --out=DIR --images=30

makes DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg, for --config=configs/folder.py. An image
is a function of seed, split, class and index alone: the first 10 of 30 images are those of 10, and
the validation images are the same for any number of training images.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rich import progress

from convnext.errors import InputError, reported, require
from dev.drawing.sets import SETS

SPLITS = "train", "val"
QUALITY = 80, 92  # of a JPEG file, least and greatest


def main(argv: list[str] | None = None) -> None:
    names = "\n".join(
        f"  {name:<10} {len(drawn.pictures):>3} classes: {drawn.description}"
        for name, drawn in SETS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m dev.drawn_sets",
        description=f"{__doc__}\nsets:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="SET", help="one of the sets above")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--images", type=int, default=100, metavar="N", help="to train, a class")
    parser.add_argument("--val_images", type=int, default=40, metavar="N", help="to validate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, metavar="PIXELS", help="other than the set's own")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that draw")
    with reported():
        write(**vars(parser.parse_args(argv)))


def write(
    name: str,
    out: Path,
    *,
    images: int,
    val_images: int = 40,
    seed: int = 0,
    size: int | None = None,
    jobs: int = 1,
) -> None:
    """Raises InputError for a set that is not there, and where out is not empty.

    images and val_images are of each class; size is the square root of an image's area, pixels.
    """
    require(name in SETS, "SET", name, ", ".join(SETS))
    require(images >= 1, "--images", images, "1 and more")
    require(val_images >= 1, "--val_images", val_images, "1 and more")
    require(seed >= 0, "--seed", seed, "0 and more")
    require(size is None or size >= 32, "--size", size, "32 pixels and more")
    require(jobs >= 1, "--jobs", jobs, "1 and more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out is {out}, which is there", "a new or empty folder")
    counts = dict(zip(SPLITS, (images, val_images), strict=True))
    folders = [(split, label) for label in sorted(SETS[name].pictures) for split in SPLITS]
    draw = partial(_write_folder, name, out, counts, seed, size)
    if jobs == 1:
        for folder in progress.track(folders, "drawing"):
            draw(folder)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, cv2.setNumThreads, (1,)) as pool:
        for _ in progress.track(pool.map(draw, folders), "drawing", total=len(folders)):
            pass


def image(
    name: str, split: str, label: str, index: int, *, seed: int = 0, size: int | None = None
) -> tuple[np.ndarray, int]:
    """Returns an image, uint8 [H, W, 3], and the quality that its file has."""
    rng = np.random.default_rng((seed, SPLITS.index(split), index, *label.encode()))
    pixels = SETS[name].draw(label, split, rng, size)
    return pixels, int(rng.integers(QUALITY[0], QUALITY[1] + 1))


def _write_folder(name, out, counts, seed, size, folder):
    split, label = folder
    path = out / split / label
    path.mkdir(parents=True, exist_ok=True)
    for index in range(counts[split]):
        pixels, quality = image(name, split, label, index, seed=seed, size=size)
        Image.fromarray(pixels).save(path / f"{index:04d}.jpg", quality=quality)


if __name__ == "__main__":
    main()
