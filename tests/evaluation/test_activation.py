import jax
import jax.numpy as jnp
import numpy as np

from convnext import ConvNeXt
from convnext.evaluation import activation

MODEL = ConvNeXt(depths=(1, 1), dims=(8, 16), patch_size=2, num_classes=3,
                 layer_scale_init_value=1.0, head_init_scale=20.0)  # fmt: skip
IMAGES = np.random.default_rng(0).normal(size=(4, 16, 24, 3)).astype(np.float32)
PARAMS = jax.jit(MODEL.init)(jax.random.key(0), IMAGES)["params"]
CLASSES = jnp.array([0, 1, 2, 1])


def test_the_map_is_grad_cam():
    heat = activation.class_activation(PARAMS, IMAGES, CLASSES, model=MODEL)
    maps = MODEL.apply({"params": PARAMS}, IMAGES, method="features")["last_hidden_state"]

    def logits_of(maps):  # the head, written out
        pooled = maps.mean(axis=(1, 2))
        centred = pooled - pooled.mean(axis=-1, keepdims=True)
        normed = centred / jnp.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
        normed = normed * PARAMS["norm"]["scale"] + PARAMS["norm"]["bias"]
        logits = normed @ PARAMS["head"]["kernel"] + PARAMS["head"]["bias"]
        return logits[jnp.arange(4), CLASSES].sum()

    weights = jax.grad(logits_of)(maps).mean(axis=(1, 2), keepdims=True)
    expected = np.maximum((weights * maps).sum(axis=-1), 0)
    expected /= expected.max(axis=(1, 2), keepdims=True)
    assert heat.shape == (4, 4, 6)
    np.testing.assert_allclose(heat, expected, atol=1e-5)


def test_each_image_has_its_own_map_with_its_highest_place_at_1():
    heat = activation.class_activation(PARAMS, IMAGES, CLASSES, model=MODEL)
    np.testing.assert_allclose(heat.max(axis=(1, 2)), 1)
    alone = activation.class_activation(PARAMS, IMAGES[2:3], CLASSES[2:3], model=MODEL)
    np.testing.assert_allclose(alone[0], heat[2], atol=1e-5)


def test_a_class_that_nothing_speaks_for_has_an_empty_map():
    params = {**PARAMS, "head": jax.tree.map(jnp.zeros_like, PARAMS["head"])}
    assert not activation.class_activation(params, IMAGES, CLASSES, model=MODEL).any()


def test_a_model_that_recomputes_its_blocks_has_the_same_map():
    heat = activation.class_activation(PARAMS, IMAGES, CLASSES, model=MODEL)
    again = activation.class_activation(PARAMS, IMAGES, CLASSES, model=MODEL.clone(remat=True))
    np.testing.assert_array_equal(again, heat)


def test_the_overlay_colours_the_image_where_the_map_is_high():
    image = np.full((32, 32, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    over = activation.overlay(image, heat)
    assert (over[:3, :3] != 100).any(axis=-1).all()
    np.testing.assert_array_equal(over[16:, 16:], 100)
