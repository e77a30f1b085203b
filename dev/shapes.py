"""Draws a data set of JPEG files to try a training run on: 20 classes, 5 shapes in 4 colours.

    python -m dev.shapes --out=DIR

makes DIR/train/<class>/*.jpg and DIR/val/<class>/*.jpg, for --config=configs/folder.py. Each shape
has a place, a size and an angle of its own and lies on grey noise between lines of every colour, so
that neither one pixel nor the mean of them tells the class.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich import progress

from convnext.errors import InputError, reported, require

SHAPE = 96, 128  # of an image, pixels
VAL_SHARE = 5  # of each class, one in so many is to validate on
COLORS = {"red": (200, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 210),
          "yellow": (220, 200, 40)}  # fmt: skip


def _polygon(corners, depth=1.0):
    """Points of a regular polygon, or with a depth below 1 of a star."""
    angles = np.arange(2 * corners) * np.pi / corners
    radii = np.where(np.arange(2 * corners) % 2, depth * np.cos(np.pi / corners), 1.0)
    return radii * np.exp(1j * angles)


SHAPES = {
    "circle": _polygon(16),
    "triangle": _polygon(3),
    "square": _polygon(4),
    "star": _polygon(5, depth=0.5),
    "bar": np.array([1 + 0.25j, -1 + 0.25j, -1 - 0.25j, 1 - 0.25j]),
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.shapes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--images", type=int, default=150, metavar="N", help="of each class")
    parser.add_argument("--seed", type=int, default=0)
    with reported():
        write(**vars(parser.parse_args(argv)))


def write(out: Path, *, images: int, seed: int = 0) -> None:
    """Raises InputError where out is not empty."""
    require(images >= VAL_SHARE, "--images", images, f"{VAL_SHARE} and more")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out is {out}, which is there", "a new or empty folder")
    classes = [(color, shape) for color in COLORS for shape in SHAPES]
    for color, shape in progress.track(classes, "drawing"):
        for index in range(images):
            split = "train" if index % VAL_SHARE else "val"
            path = out / split / f"{color}_{shape}" / f"{index:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng((seed, index, *f"{color}_{shape}".encode()))
            draw(color, shape, rng).save(path, quality=90)


def draw(color: str, shape: str, rng: np.random.Generator) -> Image.Image:
    height, width = SHAPE
    image = Image.fromarray(rng.integers(60, 190, (height, width, 1), np.uint8).repeat(3, axis=2))
    canvas = ImageDraw.Draw(image)
    for other in COLORS.values():
        ends = rng.uniform((0, 0), (width, height), (2, 2))
        canvas.line([tuple(end) for end in ends], fill=other, width=3)
    radius = rng.uniform(0.25, 0.45) * height
    center = rng.uniform((radius, radius), (width - radius, height - radius))
    points = SHAPES[shape] * np.exp(1j * rng.uniform(0, 2 * np.pi)) * radius + complex(*center)
    shade = np.clip(np.array(COLORS[color]) + rng.integers(-30, 31, 3), 0, 255)
    canvas.polygon([(point.real, point.imag) for point in points], fill=tuple(map(int, shade)))
    return image


if __name__ == "__main__":
    main()
