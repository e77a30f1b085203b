import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext.training import erasing

COUNT, SIZE = 4000, 24
erase = jax.jit(erasing.erase, static_argnames="prob")


@pytest.fixture(scope="module")
def erased():
    """What became of 4,000 images of the value 9, and of each box its mask."""
    images = np.full((COUNT, SIZE, SIZE, 3), 9.0, np.float32)
    out = np.asarray(erase(jax.random.key(0), images))
    changed = out != 9
    assert np.array_equal(changed.any(-1), changed.all(-1))  # all channels of a pixel, or none
    return out, changed[..., 0]


def boxes(mask):
    """top, left, height and width of each image's changed pixels, which are a rectangle."""
    found = mask[mask.any((1, 2))]
    rows, columns = found.any(2), found.any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    assert np.array_equal(heights * widths, found.sum((1, 2)))
    return rows.argmax(1), columns.argmax(1), heights, widths


def test_a_quarter_of_the_images_lose_a_box(erased):
    _, mask = erased
    assert mask.any((1, 2)).mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / COUNT))


def test_boxes_have_the_drawn_areas_and_aspects(erased):
    _, _, heights, widths = boxes(erased[1])
    areas = heights * widths / SIZE**2
    # Sides are rounded: by up to half a pixel of each.
    slack = 0.5 * (heights + widths) / SIZE**2
    assert (areas > 0.02 - slack).all() and (areas < 1 / 3 + slack).all()
    assert heights.max() < SIZE and widths.max() < SIZE
    # Uniform, but for elongated boxes of over 0.3 that do not fit: mean (0.02 + 1/3) / 2.
    assert areas.mean() == pytest.approx(0.1767, abs=4 * 0.0905 / np.sqrt(len(areas)))
    log_aspect = np.log(heights / widths)
    assert np.abs(log_aspect).max() < np.log(1 / 0.3) + 0.5
    # Uniform in the logarithm.
    assert log_aspect.mean() == pytest.approx(0, abs=4 * 0.695 / np.sqrt(len(areas)))
    assert log_aspect.std() == pytest.approx(np.log(1 / 0.3) / np.sqrt(3), rel=0.08)


def test_boxes_lie_anywhere_inside_up_to_the_border(erased):
    tops, lefts, heights, widths = boxes(erased[1])
    for start, side in ((tops, heights), (lefts, widths)):
        free = SIZE - side
        assert (start == 0).any() and (start == free).any() and (start <= free).all()
        assert (start / free).mean() == pytest.approx(0.5, abs=0.05)


def test_what_is_filled_in_is_standard_normal_noise(erased):
    out, mask = erased
    noise = out[mask]
    assert noise.mean() == pytest.approx(0, abs=4 / np.sqrt(noise.size))
    assert noise.std() == pytest.approx(1, rel=0.01)
    assert len(np.unique(noise)) > 0.9 * noise.size  # of each pixel and channel its own


def test_examples_draw_for_themselves_and_prob_is_kept():
    images = np.full((64, 8, 8, 3), 9.0, np.float32)
    key = jax.random.key(3)
    always = np.asarray(erase(key, images, prob=1.0)) != 9
    assert always.any((1, 2, 3)).all()
    assert len({mask.tobytes() for mask in always}) > 32
    assert erasing.erase(key, images, prob=0.0) is images
    half = jax.eval_shape(erasing.erase, key, images.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_where_no_box_fits_nothing_is_erased():
    images = np.full((16, 1, 1, 3), 9.0, np.float32)
    assert (np.asarray(erase(jax.random.key(0), images, prob=1.0)) == 9).all()
