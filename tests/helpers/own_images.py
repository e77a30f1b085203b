"""Images of one's own, as small as can be: two classes that a colour tells apart."""

import numpy as np
from PIL import Image


def write(root, height, width, count=20):
    """So many images of each class, blue and red, in a folder each."""
    rng = np.random.default_rng(0)
    for name, channel in dict(blue=2, red=0).items():
        (root / name).mkdir()
        for index in range(count):
            pixels = rng.integers(150, size=(height, width, 3))
            pixels[..., channel] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
