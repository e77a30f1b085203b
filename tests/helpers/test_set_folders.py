"""Small folders in the layouts of ImageNet's test sets: an image or none of each class."""

import io
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


@cache
def jpeg(seed: int) -> bytes:
    """Of noise, 24 pixels wide and 20 high."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((24, 20), Image.NEAREST).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write(root: Path, class_names: Iterable[str], name: str = "{}.jpg") -> Path:
    """An image of each class, `name` with its number from 1 on."""
    for number, class_name in enumerate(class_names, 1):
        folder = root / class_name
        folder.mkdir(parents=True)
        (folder / name.format(number)).write_bytes(jpeg(number % 50))
    return root
