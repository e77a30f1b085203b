import numpy as np
import pytest
from PIL import Image

from convnext.images import resample


def pillow(image, height, width):
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def hard_image(rng, height, width):
    """Black and white noise: the filter overshoots both ends."""
    return rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * np.uint8(255)


def test_pixels_are_pillows_at_any_size():
    rng = np.random.default_rng(0)
    for _ in range(400):
        height, width, *size = (int(2 ** rng.uniform(0, 7)) for _ in range(4))
        image = hard_image(rng, height, width)
        made = resample.bicubic(image, *size)
        np.testing.assert_array_equal(made, pillow(image, *size), err_msg=f"{image.shape} {size}")


@pytest.mark.parametrize(
    "shape, size", [((375, 500), (256, 341)), ((500, 333), (224, 224)), ((90, 30), (40, 40))]
)
def test_a_window_is_a_part_of_the_whole(shape, size):
    image = hard_image(np.random.default_rng(0), *shape)
    window = slice(3, size[0] - 5), slice(7, size[1] - 1)
    made = resample.bicubic(image, *size, window)
    np.testing.assert_array_equal(made, pillow(image, *size)[window])


def test_a_part_of_a_larger_image_need_not_be_contiguous():
    image = hard_image(np.random.default_rng(0), 50, 60)[5:40, 11:50]
    made = resample.bicubic(image, 24, 24)
    np.testing.assert_array_equal(made, pillow(np.ascontiguousarray(image), 24, 24))


def test_the_order_of_the_axes_is_that_of_the_pillow_that_is_installed(monkeypatch):
    """It matters: rounding and clipping between them do not commute."""
    image = hard_image(np.random.default_rng(0), 90, 30)
    made = {}
    for version in (12, 13):
        monkeypatch.setattr(resample, "PILLOW", version)
        made[version] = resample.bicubic(image, 40, 40)
    assert (made[12] != made[13]).any()
    version = max(int(Image.__version__.partition(".")[0]), 12)
    np.testing.assert_array_equal(made[min(version, 13)], pillow(image, 40, 40))
