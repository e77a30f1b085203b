"""All but rotation, which is in test_randaugment.py, against Pillow."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

from convnext.images import operations

FACTORS = (0.0, 0.1, 0.19, 1.0, 1.37, 1.9)
OF_PILLOW = {
    "auto_contrast": (ImageOps.autocontrast, [()]),
    "equalize": (ImageOps.equalize, [()]),
    "solarize": (ImageOps.solarize, [(0,), (26,), (128,), (255,), (256,)]),
    "color": (lambda p, f: ImageEnhance.Color(p).enhance(f), [(f,) for f in FACTORS]),
    "contrast": (lambda p, f: ImageEnhance.Contrast(p).enhance(f), [(f,) for f in FACTORS]),
    "brightness": (lambda p, f: ImageEnhance.Brightness(p).enhance(f), [(f,) for f in FACTORS]),
    "sharpness": (lambda p, f: ImageEnhance.Sharpness(p).enhance(f), [(f,) for f in FACTORS]),
}


def images():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8)
    two_levels = np.full((20, 30, 3), 77, np.uint8)
    two_levels[3:5, 2:9] = (1, 250, 77)
    yield from (noise, noise // 8 + 40, two_levels)
    yield load_sample_image("flower.jpg")[100:324, 200:424]
    # Smaller than the filter, of one level, and so dark that a flat histogram would pass 255.
    yield from (noise[:1, :5], noise[:2, :2], noise[:3, :3], np.full((9, 9, 3), 255, np.uint8))
    yield (rng.random((224, 224, 3)) ** 9 * 90).astype(np.uint8)


@pytest.mark.parametrize("name", OF_PILLOW)
def test_pixels_are_pillows(name):
    of_pillow, cases = OF_PILLOW[name]
    for image in images():
        for arguments in cases:
            expected = np.asarray(
                of_pillow(Image.fromarray(np.ascontiguousarray(image)), *arguments)
            )
            made = getattr(operations, name)(image, *arguments)
            np.testing.assert_array_equal(made, expected, err_msg=f"{image.shape} {arguments}")


@pytest.mark.parametrize("amount", [0.0, 0.001, 0.27, -0.2913, 0.45, -0.5, 1.0, -7.3, 40.0])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y"])
def test_pixels_that_are_moved_are_pillows(name, amount):
    fill = (124, 116, 104)
    for image in images():
        height, width, _ = image.shape
        matrix = {
            "shear_x": (1, amount, 0, 0, 1, 0),
            "shear_y": (1, 0, 0, amount, 1, 0),
            "translate_x": (1, 0, amount * width, 0, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, amount * height),
        }[name]
        expected = Image.fromarray(image).transform(
            (width, height),
            Image.Transform.AFFINE,
            matrix,
            resample=Image.Resampling.BICUBIC,
            fillcolor=fill,
        )
        made = getattr(operations, name)(image, amount, fill)
        np.testing.assert_array_equal(made, np.asarray(expected), err_msg=f"{image.shape}")
