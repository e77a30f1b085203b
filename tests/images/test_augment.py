from collections import Counter
from functools import partial

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from convnext.images import augment
from convnext.images.randaugment import RandAugment


def gradient(height, width):
    """Red counts rows, green columns: a pixel says where it came from."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(height)[:, None]
    image[..., 1] = np.arange(width)
    return image


def rng(seed=0):
    return np.random.default_rng(seed)


def test_random_crops_have_the_area_and_shape_that_were_asked_for():
    image, areas, ratios = gradient(240, 240), [], []
    for seed in range(300):
        crop = augment.random_resized_crop(image, rng(seed), 64, scale=(0.2, 0.6), ratio=(0.5, 2.0))
        assert crop.shape == (64, 64, 3) and crop.dtype == np.uint8
        # The slope of the gradient across the 64 pixels is the size of the crop.
        height = (float(crop[-9, 32, 0]) - float(crop[8, 32, 0])) * 64 / 47
        width = (float(crop[32, -9, 1]) - float(crop[32, 8, 1])) * 64 / 47
        areas.append(height * width / 240**2)
        ratios.append(width / height)
    assert min(areas) > 0.18 and max(areas) < 0.63
    assert 0.45 < min(ratios) < 0.55 and 1.8 < max(ratios) < 2.2
    assert abs(np.mean(areas) - 0.4) < 0.03  # uniform
    assert abs(np.mean(np.log(ratios))) < 0.07  # log-uniform


def test_a_crop_that_cannot_fit_is_the_largest_central_one():
    image = gradient(20, 200)
    crop = augment.random_resized_crop(image, rng(), 20, scale=(0.9, 1.0), ratio=(3 / 4, 4 / 3))
    np.testing.assert_array_equal(crop, augment.resize(image[:, 86:113], 20, 20))


def test_a_padded_crop_is_the_image_moved_within_a_black_frame():
    image = gradient(6, 8) + 1
    shifts = set()
    for seed in range(400):
        crop = augment.random_crop(image, rng(seed), padding=2)
        assert crop.shape == image.shape
        top, left = (int(crop[3, 4, i]) - (4, 5)[i] for i in range(2))
        shifts.add((top, left))
        for y, x in ((0, 0), (0, 7), (5, 0), (5, 7)):
            inside = 0 <= y + top < 6 and 0 <= x + left < 8
            expected = (y + top + 1, x + left + 1, 1) if inside else (0, 0, 0)
            assert tuple(crop[y, x]) == expected
    assert shifts == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}  # all of them


def test_a_padded_crop_takes_the_place_of_a_resized_one():
    image = gradient(8, 8)
    train = partial(augment.train_transform, image, image_size=8, flip_prob=0.0)
    np.testing.assert_array_equal(train(rng(), crop_padding=0), image)
    moved = [train(rng(seed), crop_padding=1) for seed in range(20)]
    assert {int(m[4, 4, 0]) for m in moved} == {3, 4, 5}


def test_a_flip_is_left_to_right_and_as_frequent_as_asked():
    image = gradient(3, 4)
    flipped = [augment.random_flip(image, rng(seed), prob=0.3)[0, 0, 1] == 3 for seed in range(400)]
    assert abs(np.mean(flipped) - 0.3) < 0.07
    np.testing.assert_array_equal(augment.random_flip(image, rng(), prob=1.0), image[:, ::-1])


@pytest.mark.parametrize("end, power", [(0, 0.5), (1, 2.0)])
def test_gamma_raises_levels_to_a_power(end, power):
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    out = augment.random_gamma(image, Fixed(end), strength=np.log(2))
    np.testing.assert_array_equal(out, np.round(255 * (image / 255) ** power))


class Fixed:
    """A generator that always draws one end of the range."""

    def __init__(self, end):
        self.end = end

    def uniform(self, low, high):
        return (low, high)[self.end]


@pytest.mark.parametrize(
    "change, expected_row, expected_column",
    [  # where the pixel 6 rows below and 4 columns right of the centre comes from
        (dict(), 6, 4),
        (dict(degrees=90), -4, 6),  # counter-clockwise on the screen is negative: rows point down
        (dict(scale=(2.0, 2.0)), 3, 2),
        (dict(translate=0.25), 6 - 10, 4 - 10),
        (dict(shear=45), 6, 4 - 6),
    ],
)
def test_an_affine_map_moves_pixels_as_it_says(change, expected_row, expected_column):
    image = gradient(41, 41)  # the centre is the pixel (20, 20)
    keywords = dict(degrees=0, translate=0.0, scale=(1.0, 1.0), shear=0) | change
    if "translate" in change:
        image = gradient(40, 40)
    moved = augment.random_affine(image, Fixed(1), **keywords)
    row, column = moved[26, 24, :2].astype(int) - 20
    assert abs(row - expected_row) <= 1 and abs(column - expected_column) <= 1


def test_an_affine_map_leaves_black_outside_and_the_size_alone():
    image = np.full((10, 14, 3), 200, np.uint8)
    moved = augment.random_affine(
        image, Fixed(1), degrees=0, translate=0.5, scale=(1.0, 1.0), shear=0
    )
    assert moved.shape == image.shape
    assert (moved[:4] == 0).all() and (moved[-4:, -6:] == 200).all()


def test_the_training_transform_is_a_function_of_its_generator():
    image = rng().integers(0, 256, (50, 60, 3), dtype=np.uint8)
    keywords = dict(image_size=32, affine_degrees=10.0, affine_scale=(0.9, 1.1))
    first, again, other = (
        augment.train_transform(image, rng(seed), **keywords) for seed in (1, 1, 2)
    )
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_with_nothing_switched_on_training_only_resizes():
    image = rng().integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = augment.train_transform(image, rng(), image_size=16, crop_scale=None, flip_prob=0.0)
    np.testing.assert_array_equal(out, augment.resize(image, 16, 16))


@pytest.mark.parametrize(
    "shape, image_size, crop_pct, resized",
    [
        ((500, 375), 224, 0.875, (341, 256)),  # int(256 * 500 / 375)
        ((375, 500), 224, 0.875, (256, 341)),
        ((300, 300), 288, 0.875, (329, 329)),
        ((8, 8), 16, 1.0, (16, 16)),
    ],
)
def test_evaluation_resizes_the_short_side_and_cuts_the_centre(
    shape, image_size, crop_pct, resized
):
    image = rng().integers(0, 256, (*shape, 3), dtype=np.uint8)
    out = augment.eval_transform(image, image_size=image_size, crop_pct=crop_pct)
    whole = augment.resize(image, *resized)
    top, left = (round((side - image_size) / 2) for side in resized)
    np.testing.assert_array_equal(out, whole[top : top + image_size, left : left + image_size])


def test_from_384_pixels_up_evaluation_warps():
    image = rng().integers(0, 256, (100, 200, 3), dtype=np.uint8)
    out = augment.eval_transform(image, image_size=384, crop_pct=0.875)
    np.testing.assert_array_equal(out, augment.resize(image, 384, 384))


@pytest.mark.parametrize("side, first", [(5, 0), (7, 2), (8, 2), (9, 2), (11, 4)])
def test_the_offset_of_the_centre_is_rounded_half_to_even(side, first):
    crop = gradient(side, side)[augment.center(side, side, 4)]
    assert (crop[0, 0, 0], crop[0, 0, 1]) == (first, first)


def test_three_augment_is_grey_or_solarized_or_blurred_each_as_often():
    photo = load_sample_image("flower.jpg")[180:204, 300:332]
    grey = np.asarray(Image.fromarray(photo).convert("L"))[..., None].repeat(3, -1)
    solarized = np.where(photo < 128, photo, 255 - photo)
    counts = Counter()
    for seed in range(600):
        made = augment.random_three_augment(photo, rng(seed))
        if np.array_equal(made, grey):
            counts["grey"] += 1
        elif np.array_equal(made, solarized):
            counts["solarized"] += 1
        else:  # a blur keeps the mean and loses detail
            assert np.abs(made.mean((0, 1)) - photo.mean((0, 1))).max() < 2
            assert made.std() <= photo.std()
            counts["blurred"] += 1
    assert all(abs(counts[kind] - 200) < 4 * 11.5 for kind in ("grey", "solarized", "blurred"))


def test_colour_jitter_changes_brightness_contrast_and_saturation():
    photo = load_sample_image("flower.jpg")[180:204, 300:332]
    flat = np.full((8, 8, 3), 100, np.uint8)  # brightness alone changes it
    levels = [augment.random_color_jitter(flat, rng(s), strength=0.3).mean() for s in range(300)]
    assert 69 <= min(levels) < 73 and 127 < max(levels) <= 130
    assert abs(np.mean(levels) - 100) < 4 * 17.3 / np.sqrt(300)
    made = [augment.random_color_jitter(photo, rng(s), strength=0.4) for s in range(100)]
    for spread in (lambda x: x.std(axis=(0, 1)).mean(), lambda x: np.ptp(x, axis=-1).mean()):
        ratios = np.array([spread(x.astype(float)) for x in made]) / spread(photo.astype(float))
        assert ratios.min() < 0.7 and ratios.max() > 1.2


def test_the_recipes_augmentation_is_applied_in_its_order():
    photo, fields = load_sample_image("flower.jpg")[100:228, 200:360], dict(prob=1.0)
    made = augment.train_transform(
        photo, rng(3), image_size=32, randaugment=fields, three_augment=True, color_jitter=0.3
    )
    one = rng(3)
    expected = augment.random_resized_crop(photo, one, 32, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    expected = augment.random_flip(expected, one, prob=0.5)
    expected = RandAugment(prob=1.0)(expected, one)
    expected = augment.random_three_augment(expected, one)
    expected = augment.random_color_jitter(expected, one, strength=0.3)
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    "given, fill",
    [
        ({}, (124, 116, 104)),
        ({"mean": (0.485, 0.456, 0.406)}, (124, 116, 104)),
        ({"mean": (0.5, 0.0, 1.01)}, (128, 0, 255)),
    ],
)
def test_randaugment_fills_with_the_mean_as_timm_rounds_it(monkeypatch, given, fill):
    """min(255, round(255 * x)), data/transforms_factory.py."""
    fills = []

    def made(*, fill, **_):
        fills.append(fill)
        return lambda image, rng: image

    monkeypatch.setattr(augment, "RandAugment", made)
    augment.train_transform(gradient(8, 8), rng(), image_size=8, randaugment={}, **given)
    assert fills == [fill] and all(type(level) is int for level in fills[0])


def test_of_an_example_the_image_is_transformed_and_the_rest_is_kept():
    image = gradient(20, 30)
    example = {"image": image, "label": np.int32(3), "size": (20, 30)}
    trained = augment.train(example, rng(), image_size=8)
    np.testing.assert_array_equal(
        trained.pop("image"), augment.train_transform(image, rng(), image_size=8)
    )
    evaluated = augment.evaluate(example, image_size=8, crop_pct=0.5)
    np.testing.assert_array_equal(
        evaluated.pop("image"), augment.eval_transform(image, image_size=8, crop_pct=0.5)
    )
    assert trained == evaluated == {"label": 3, "size": (20, 30)}
    assert example["image"] is image
