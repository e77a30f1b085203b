"""What is kept of an image to compare it with others, and the comparison."""

import numpy as np
import pytest

from convnext.images import likeness
from tests.helpers.inputs import noise


@pytest.mark.parametrize(
    "shape, level",
    [((500, 375), 128), ((107, 300), 128), ((106, 300), 64), ((28, 28), 32), ((8, 8), 16)],
)
def test_an_image_is_compared_at_what_it_has_of_pixels(shape, level):
    assert likeness.describe(noise(*shape, 3)).level == level


def test_the_shorter_side_is_that_of_the_whole_image():
    assert likeness.describe(noise(64, 64, 3), shorter=500).level == 128
    assert likeness.describe(noise(200, 200, 3), shorter=20).level == 16


def test_thumbnails_show_grey_levels_and_colors():
    image = np.full((200, 300, 3), (200, 100, 50), np.uint8)
    luma, coarse, chroma, _, is_plain = likeness.describe(image)
    assert (luma == 124).all() and (coarse == 124).all() and is_plain  # 0.299 R + 0.587 G + 0.114 B
    assert (chroma[0] == -42).all() and (chroma[1] == 54).all()


def test_a_gradient_is_plain_and_a_few_strong_lines_are_not():
    image = np.linspace(100, 200, 300).astype(np.uint8)[None, :, None].repeat(200, 0).repeat(3, 2)
    assert likeness.describe(image).is_plain
    image[90:110, 140:144] = image[90:94, 130:160] = 0
    assert not likeness.describe(image).is_plain


def test_thumbnails_are_filled_in_one_by_one():
    thumbnails, described = likeness.empty(2), likeness.describe(noise(40, 50, 3))
    for values, value in zip(thumbnails, described, strict=True):
        assert values.dtype == value.dtype and values.shape == (2, *value.shape)
