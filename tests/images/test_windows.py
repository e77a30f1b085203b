"""The window of an image that another one shows."""

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from convnext.images import likeness, windows


def margins(image, other, mirrored=0):
    """Of the window of the image that the other shows, and the other way round."""
    described = map(likeness.describe, (image, other))
    luma, coarse, _, level, _ = map(np.stack, zip(*described, strict=True))
    return windows.search(luma, coarse, level, np.array([(0, 1, mirrored)]))[0]


@pytest.fixture(scope="module")
def photo():
    return load_sample_image("china.jpg")[:400, :600]


@pytest.mark.parametrize(
    "left, right, above, below", [(0, 30, 20, 0), (15, 15, 3, 7), (0, 0, 0, 20), (30, 0, 0, 0)]
)
def test_a_crop_is_found_to_half_a_pixel(photo, left, right, above, below):
    crop = photo[above : 400 - below, left : 600 - right]
    expected = np.array([left / 600, right / 600, above / 400, below / 400])
    found, other = margins(photo, crop)
    np.testing.assert_allclose(found, expected, atol=0.5 / windows.SIDE)
    assert np.isnan(other).all()
    found = margins(crop, photo)[1]
    np.testing.assert_allclose(found, expected, atol=0.5 / windows.SIDE)
    found = margins(photo, crop[:, ::-1], mirrored=1)[0]
    np.testing.assert_allclose(found, expected, atol=0.5 / windows.SIDE)


def test_the_same_image_is_its_own_window(photo):
    np.testing.assert_allclose(margins(photo, photo), 0, atol=0.01 / windows.SIDE)


def test_a_larger_crop_has_no_window(photo):
    assert np.isnan(margins(photo, photo[:, :540])).all()


def test_a_window_that_lies_partly_outside_is_none(photo):
    """Both images are crops of a third one."""
    assert np.isnan(margins(photo[:, 24:], photo[:, :-24])).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_least_of_a_quadratic_form_is_found_within_its_limits(seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(2, 2))
    (a, b), (_, c) = root @ root.T
    p, q = rng.normal(size=2) * windows.MAX_CROP * 3
    x, y = np.mgrid[0:201, 0:201] * windows.MAX_CROP / 200
    values = (a * x * x + 2 * b * x * y + c * y * y) / 2 - p * x - q * y
    values[x + y > windows.MAX_CROP * 1.0001] = np.inf
    best = np.unravel_index(values.argmin(), values.shape)
    found = windows._least(a, b, c, p, q)
    np.testing.assert_allclose(found, np.array(best) * windows.MAX_CROP / 200, atol=2e-3)


def test_halving_keeps_levels_and_mirror_images():
    image = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    np.testing.assert_allclose(
        windows.halved(image[:, ::-1].copy()), windows.halved(image)[:, ::-1]
    )
    assert (windows.halved(np.full((32, 32), 200, np.float32)) == 200).all()
