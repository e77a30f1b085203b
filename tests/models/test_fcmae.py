import json
import re
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from convnext.kernels import depthwise, outline
from convnext.models import fcmae
from convnext.models.fcmae import FCMAE, Masks
from convnext.weights import fcmae as names
from dev.benchmarks import dense_fcmae
from dev.benchmarks.dense_fcmae import DenseFCMAE, WholeFCMAE
from tests.helpers import autoencoder
from tests.helpers.inputs import refused

FIXTURE = Path(__file__).parents[1] / "fixtures" / "fcmae.json"


def loss_of(model, images, masks, **options):
    size = 4 * 2 ** (len(model.depths) - 1)

    def loss(params):
        predicted = model.apply({"params": params}, images, masks, train=True)
        target = fcmae.targets(images, masks, size, **options)
        return fcmae.losses(predicted, target).mean(), predicted

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def drawn(model, images, seed=0):
    grid = fcmae.grid_of(model, images.shape[1:3])
    order = fcmae.draw(jax.random.key(seed), len(images), grid=grid)
    return Masks(*order, fcmae.num_visible(model, grid), grid)


def random_params(model, images, masks):
    """Of which none is where training begins."""
    params = jax.jit(model.init)(jax.random.key(0), images, masks)["params"]
    keys = iter(jax.random.split(jax.random.key(1), 999))
    return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), params)


@pytest.fixture(scope="module")
def params():
    state = jax.tree.map(jnp.float32, names.to_ours(autoencoder.state()))
    return unflatten_dict(state, sep="/")


@pytest.fixture(scope="module")
def images():
    return jnp.float32(autoencoder.images())


def test_it_computes_what_sparse_convolutions_do(params, images):
    """Those of PyTorch, in float64: tests/parity/sparse.py."""
    expected = json.loads(FIXTURE.read_text())
    with jax.default_matmul_precision("highest"):
        step = loss_of(autoencoder.MODEL, images, autoencoder.masks())
        (loss, predicted), grads = step(params)
    assert float(loss) == pytest.approx(expected["loss"], rel=1e-6)
    found = {"predicted": predicted, **flatten_dict(grads, sep="/")}
    known = {"predicted": expected["predicted"], **expected["gradients"]}
    assert found.keys() == known.keys()
    for name, values in found.items():
        total, norm = known[name]
        values = np.float64(values)
        assert np.linalg.norm(values) == pytest.approx(norm, rel=1e-5), name
        assert values.sum() == pytest.approx(total, abs=1e-5 * norm * values.size**0.5), name


@pytest.mark.parametrize(
    "shape, options",
    [pytest.param((2, 64, 96, 3), {}, marks=pytest.mark.slow),
     ((2, 32, 16, 1), dict(depths=(1, 1), dims=(8, 16), patch_size=2)),
     pytest.param((2, 64, 64, 5), dict(decoder_depth=2, use_grn=False, layer_scale_init_value=0.5),
                  marks=pytest.mark.slow)],
    ids=str,
)  # fmt: skip
def test_visible_patches_alone_give_what_whole_masked_images_give(shape, options):
    fields = dict(depths=(1, 1, 2, 1), dims=(8, 12, 16, 24), decoder_dim=16, use_grn=True)
    fields |= dict(layer_scale_init_value=None, in_chans=shape[-1]) | options
    model, dense = FCMAE(**fields), DenseFCMAE(**fields)
    images = jax.random.normal(jax.random.key(2), shape)
    masks = drawn(model, images)
    params = random_params(model, images, masks)
    with jax.default_matmul_precision("highest"):
        here, there = (each.apply({"params": params}, images, masks) for each in (model, dense))
    np.testing.assert_allclose(here, there, rtol=2e-5, atol=2e-5 * np.abs(there).max())


@pytest.mark.slow
def test_the_loss_of_all_patches_masked_is_that_of_the_masked_ones(params, images):
    """What the benchmark has for a decoder that predicts every patch."""
    masks = autoencoder.masks()
    whole = WholeFCMAE(autoencoder.DEPTHS, autoencoder.DIMS, **autoencoder.FIELDS)

    def loss(params):
        predicted = whole.apply({"params": params}, images, masks, train=True)
        return dense_fcmae.loss(predicted, images, masks, 32)

    with jax.default_matmul_precision("highest"):
        found, grads = jax.jit(jax.value_and_grad(loss))(params)
        (expected, _), here = loss_of(autoencoder.MODEL, images, masks)(params)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    for name, value in flatten_dict(grads, sep="/").items():
        other = np.asarray(flatten_dict(here, sep="/")[name])
        np.testing.assert_allclose(value, other, atol=1e-5 * np.abs(other).max(), err_msg=name)


def test_the_encoder_sees_nothing_of_what_is_masked(params, images):
    """Not in one bit."""
    masks = autoencoder.masks()
    encode = jax.jit(
        lambda images: autoencoder.MODEL.apply({"params": params}, images, masks, method="features")
    )
    before = encode(images)
    is_masked = fcmae.unpatched(masks.is_masked[..., None, None, None].repeat(32, 2).repeat(32, 3),
                                masks.grid)  # fmt: skip
    after = encode(jnp.where(is_masked, images + 5, images))
    np.testing.assert_array_equal(before, after)
    seen = encode(jnp.where(is_masked, images, images + 0.1))
    assert np.abs(np.asarray(before - seen)).max() > 1e-3


def test_a_model_of_which_nothing_is_learned_predicts_zeros(images):
    """The first loss is the mean square of a target: about 1, as 3071 / 3072."""
    model = FCMAE(**{**dict(depths=(1, 2, 1, 1), dims=(6, 8, 10, 12)), **autoencoder.FIELDS})
    masks = autoencoder.masks()
    params = jax.jit(model.init)(jax.random.key(0), images, masks)["params"]
    (loss, _), _ = loss_of(model, images, masks)(params)
    assert float(loss) == pytest.approx(1, abs=0.02)
    flat = flatten_dict(params, sep="/")
    kernels = {key: leaf for key, leaf in flat.items() if key.endswith(("kernel", "mask_token"))}
    large = {key: float(leaf.std()) for key, leaf in kernels.items() if leaf.size > 500}
    assert large and all(std == pytest.approx(0.02, rel=0.1) for std in large.values()), large


def test_the_target_is_a_patch_of_mean_0_and_deviation_1():
    images = np.random.default_rng(0).normal(2, 3, (2, 16, 24, 3)).astype(np.float32)
    order = jnp.array([[1, 0, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])
    masks = Masks(order, jnp.argsort(order, axis=1), 2, (2, 3))
    found = np.asarray(fcmae.targets(images, masks, 8))
    plain = np.asarray(fcmae.targets(images, masks, 8, norm_pix=False))
    assert found.shape == plain.shape == (2, 4, 8 * 8 * 3)
    third = images[1, 8:, :8].astype(np.float64)  # patch 3, the first that is masked
    np.testing.assert_array_equal(plain[1, 0], third.astype(np.float32).ravel())
    expected = (third - third.mean()) / np.sqrt(third.var(ddof=1) + 1e-6)
    np.testing.assert_allclose(found[1, 0], expected.ravel(), atol=1e-5)


def test_masks_are_drawn_alike():
    """Each patch is visible as often, in each image in its own order."""
    order, ranks = fcmae.draw(jax.random.key(0), 6000, grid=(2, 3))
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(6), (6000, 1)))
    np.testing.assert_array_equal(np.take_along_axis(np.asarray(ranks), np.asarray(order), 1),
                                  np.tile(np.arange(6), (6000, 1)))  # fmt: skip
    counts = Counter(tuple(sorted(row[:2])) for row in np.asarray(order).tolist())
    assert len(counts) == 15 and all(abs(count - 400) < 80 for count in counts.values())


def test_what_is_picked_is_placed_by_gathers_alone():
    order, ranks = fcmae.draw(jax.random.key(0), 3, grid=(2, 4))
    masks = Masks(order, ranks, 3, (2, 4))
    patches = jax.random.normal(jax.random.key(1), (3, 8, 2, 2, 5))
    placed = masks.place_visible(masks.visible(patches))
    is_masked = np.asarray(masks.is_masked)
    assert is_masked.sum(axis=1).tolist() == [5, 5, 5]
    np.testing.assert_array_equal(placed[is_masked], 0)
    np.testing.assert_array_equal(placed[~is_masked], patches[~is_masked])

    weights = jax.random.normal(jax.random.key(2), patches.shape)
    for name in ("visible", "masked"):

        def total(patches, name=name):
            picked = getattr(masks, name)(patches)
            return (picked * getattr(masks, name)(weights)).sum()

        grads = jax.grad(total)(patches)
        is_kept = is_masked if name == "masked" else ~is_masked
        np.testing.assert_array_equal(grads[is_kept], weights[is_kept])
        np.testing.assert_array_equal(grads[~is_kept], 0)
        assert not re.search("scatter", str(jax.make_jaxpr(jax.grad(total))(patches)))


@pytest.mark.parametrize("side", [8, 3, 40])
def test_a_patch_is_convolved_with_what_is_seen_around_it(side):
    """As the map of the whole image is, with zeros where nothing is seen; the gradients too."""
    grid = (3, 4) if side < 9 else (1, 2)
    num_visible = 7 if side < 9 else 1
    masks = Masks(*fcmae.draw(jax.random.key(0), 2, grid=grid), num_visible, grid)
    places = fcmae.Visible(masks, side, side)
    shape = (2, num_visible * side, side, 3)
    x, g = (jax.random.normal(jax.random.key(seed), shape) for seed in (1, 2))
    kernel = jax.random.normal(jax.random.key(3), (7, 7, 1, 3))

    def by_map(x, kernel):
        return places.collect(depthwise.grouped_conv(places.spread(x), kernel))

    found, back = jax.vjp(places.convolve, x, kernel)
    expected, back_of_map = jax.vjp(by_map, x, kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for here, there in zip(back(g), back_of_map(g), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-5 * np.abs(there).max())
    with outline.portable():
        np.testing.assert_allclose(places.convolve(x, kernel), expected, atol=1e-5)


@pytest.mark.parametrize(
    "ratio, sides, visible",
    [(0.6, (224, 224), 19), (0.6, (384, 384), 57), (0.6, (96, 96), 3), (0.6, (64, 64), 1),
     (0.9, (320, 320), 9), (0.75, (224, 224), 12), (0.5, (64, 96), 3)],
)  # fmt: skip
def test_as_many_patches_stay_visible_as_in_the_official_code(ratio, sides, visible):
    model = FCMAE((1,) * 4, (8,) * 4, mask_ratio=ratio)
    assert fcmae.num_visible(model, fcmae.grid_of(model, sides)) == visible


def test_images_and_ratios_that_cannot_be_are_refused():
    model = FCMAE((1,) * 4, (8,) * 4)
    refused(r"height and width of the images is \(224, 200\); accepted: multiples of 32",
            fcmae.grid_of, model, (224, 200))  # fmt: skip
    refused("model.mask_ratio is 0.6, which leaves 0 of the 1 patches of an image visible; acce",
            fcmae.num_visible, model, (1, 1))  # fmt: skip
    all_seen = model.clone(mask_ratio=0.01)
    assert fcmae.num_visible(all_seen, (7, 7)) == 48
    for name, value in dict(mask_ratio=1.0, decoder_dim=0, decoder_depth=0).items():
        refused(f"model.{name} is {value}; accepted: ", model.clone(**{name: value}).check)
