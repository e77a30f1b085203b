"""Augmentation on the device beside that of the host, from the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext.images import augment as host
from convnext.training import augmentation

ONE_LEVEL = 1.001  # the host rounds, or cuts off, what the device has in float32
N = 40


FIELDS = dict(
    crop_padding=2, flip_prob=0.3, color_jitter=0.3, gamma=0.5, affine_degrees=10.0,
    affine_translate=0.2, affine_scale=(0.8, 1.6), affine_shear=20.0,
)  # fmt: skip


class Scripted:
    """In place of a numpy Generator: what was drawn before."""

    def __init__(self, *values):
        self.values = list(values)

    def uniform(self, low, high):
        return self.values.pop(0)

    random = permutation = integers = lambda self, *args, **options: self.values.pop(0)


@pytest.fixture(params=[(16, 16), (7, 12)])
def images(request):
    smooth = np.random.default_rng(0).normal(size=(N, *request.param, 3)).cumsum(1).cumsum(2)
    return np.uint8(np.clip(128 + 40 * smooth, 0, 255))


def near(found, expected):
    assert np.abs(np.asarray(found) - np.float32(expected)).max() < ONE_LEVEL


def test_affine_maps_have_the_hosts_pixels(images):
    rng = np.random.default_rng(1)
    lows = np.array([-30, -20, 0.7, 0.7, -0.2, -0.2])
    draws = lows + rng.random((N, 6)) * np.array([60, 40, 0.6, 0.6, 0.4, 0.4])
    angle, shear, *rest = draws.T
    names = ("zoom_x", "zoom_y", "shift_x", "shift_y")
    found = augmentation.affine(
        jnp.float32(images), angle=np.radians(angle), slant=np.tan(np.radians(shear)),
        **dict(zip(names, rest, strict=True)),
    )  # fmt: skip
    unused = dict(degrees=0, translate=0, scale=(1, 1), shear=0)
    expected = [
        host.random_affine(image, Scripted(*draw), **unused)
        for image, draw in zip(images, draws, strict=True)
    ]
    near(found, expected)
    assert (np.array(expected)[:, 0] == 0).any() and (np.array(expected) != images).any()


def test_a_crop_from_a_frame_and_a_mirror_image_are_the_hosts(images):
    corners = np.random.default_rng(1).integers(9, size=(N, 2))
    found = augmentation.crop(jnp.asarray(images), *jnp.asarray(corners.T), padding=4)
    expected = [
        host.random_crop(image, Scripted(corner), padding=4)
        for image, corner in zip(images, corners, strict=True)
    ]
    np.testing.assert_array_equal(found, expected)
    where = np.arange(N) % 3 == 0
    expected = [
        host.random_flip(image, Scripted(1 - is_flipped), prob=0.5)
        for image, is_flipped in zip(images, where, strict=True)
    ]
    np.testing.assert_array_equal(augmentation.flip(jnp.asarray(images), where), expected)


def test_levels_to_a_power_are_the_hosts(images):
    u = np.random.default_rng(1).uniform(-0.7, 0.7, N)
    expected = [
        host.random_gamma(image, Scripted(each), strength=0.7)
        for image, each in zip(images, u, strict=True)
    ]
    near(augmentation.power(jnp.float32(images), jnp.exp(u)), expected)


@pytest.mark.parametrize("which", ["brightness", "contrast", "color"])
def test_each_change_of_colour_is_the_hosts(images, which):
    factors = np.random.default_rng(1).uniform(0, 2, N)
    names = ("brightness", "contrast", "color")
    given = {name: jnp.asarray(factors) if name == which else jnp.ones(N) for name in names}
    order = jnp.tile(jnp.arange(3), (N, 1))
    change = getattr(host.operations, which)
    expected = [change(image, each) for image, each in zip(images, factors, strict=True)]
    near(augmentation.jitter(jnp.float32(images), order, **given), expected)


def test_changes_of_colour_come_in_the_order_of_each_image(images):
    orders = np.array(augmentation.ORDERS)
    images = images[: len(orders)]
    factors = dict(brightness=1.6, contrast=0.4, color=0.2)
    found = augmentation.jitter(
        jnp.float32(images), jnp.asarray(orders), **{k: jnp.full(6, v) for k, v in factors.items()}
    )
    expected = [
        host.random_color_jitter(
            image, Scripted(order, *np.array([*factors.values()])[order]), strength=1
        )
        for image, order in zip(images, orders, strict=True)
    ]
    # Three operations, each of which is rounded on the host, and what follows multiplies that.
    assert np.abs(np.asarray(found) - np.float32(expected)).max() < 2 * 1.6 + 1
    assert len({np.asarray(image).tobytes() for image in expected}) > 1


def keys(count):
    return augmentation.keys_of(0, jnp.zeros(count, jnp.int32), jnp.arange(count))


def test_what_is_drawn_has_the_hosts_distributions():
    count = 3000
    drawn = {name: np.asarray(x) for name, x in augmentation.draw(keys(count), **FIELDS).items()}
    assert_uniform(np.log(drawn["exponent"]), -0.5, 0.5)
    assert_uniform(np.degrees(drawn["angle"]), -10, 10)
    assert_uniform(np.degrees(np.arctan(drawn["slant"])), -20, 20)
    for name in ("brightness", "contrast", "color"):
        assert_uniform(drawn[name], 0.7, 1.3)
    for side in "xy":
        assert_uniform(drawn[f"zoom_{side}"], 0.8, 1.6)
        assert_uniform(drawn[f"shift_{side}"], -0.2, 0.2)
    corners = 5 * drawn["top"] + drawn["left"]  # of 120 each
    values, times = np.unique(corners, return_counts=True)
    assert list(values) == list(range(25)) and times.min() > 70 and times.max() < 170
    _, times = np.unique(drawn["order"], axis=0, return_counts=True)
    assert len(times) == 6 and times.min() > 400 and times.max() < 600
    assert abs(drawn["is_flipped"].mean() - 0.3) < 0.03
    continuous = [x for x in drawn.values() if x.dtype == np.float32]
    correlations = np.corrcoef(continuous) - np.eye(len(continuous))
    assert np.abs(correlations).max() < 0.08 and len(continuous) == 10


def assert_uniform(values, low, high):
    """By the largest distance of the distributions (Kolmogorov and Smirnov), at one in 10,000."""
    share = (np.sort(values) - low) / (high - low)
    assert share.min() > -1e-3 and share.max() < 1 + 1e-3
    assert np.abs(share - np.arange(len(share)) / len(share)).max() < 2.23 / len(share) ** 0.5


def test_an_image_depends_on_its_key_alone(images):
    order = np.random.default_rng(0).permutation(N)
    whole = augmentation.augment(keys(N), jnp.asarray(images), **FIELDS)
    part = augmentation.augment(keys(N)[order[:9]], jnp.asarray(images[order[:9]]), **FIELDS)
    np.testing.assert_allclose(part, whole[order[:9]], atol=1e-3)
    other = augmentation.keys_of(0, jnp.ones(N, jnp.int32), jnp.arange(N))
    assert (augmentation.augment(other, jnp.asarray(images), **FIELDS) != whole).any()
    assert len(np.unique(jax.random.key_data(jnp.concatenate([keys(N), other])), axis=0)) == 2 * N


def test_what_reads_a_mapped_image_does_not_compute_it_anew():
    """XLA on CPU would, fused into the stem, which took six times as long."""
    step = jax.jit(lambda keys, x: augmentation.augment(keys, x, **FIELDS).swapaxes(1, 3) * 2)
    images = jnp.zeros((N, 16, 16, 3), jnp.uint8)
    text = step.lower(jax.random.split(jax.random.key(0), N), images).compile().as_text()
    assert "to_apply=%bicubic" in text


def test_fields_that_change_nothing_leave_the_image(images):
    nothing = dict.fromkeys(FIELDS, 0.0) | dict(crop_padding=None, affine_scale=(1.0, 1.0))
    found = augmentation.augment(keys(N), jnp.asarray(images), **nothing)
    np.testing.assert_array_equal(found, images)


RECIPE = dict(
    crop_scale=None, crop_padding=None, randaugment=dict(num_ops=0), three_augment=False, gamma=1
)


@pytest.mark.parametrize(
    "changed, said",
    [
        ({}, None),
        (dict(crop_scale=(0.1, 1), crop_padding=4), None),
        (dict(crop_scale=(0.1, 1)), "augment.crop_scale is (0.1, 1)"),
        (dict(randaugment=dict(num_ops=2)), "augment.randaugment.num_ops is 2"),
        (dict(three_augment=True), "augment.three_augment is True"),
    ],
)
def test_what_the_device_does_not_have_is_named(changed, said):
    assert augmentation.not_here(**RECIPE | changed) == said
