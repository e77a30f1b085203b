import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from convnext import VARIANTS, ConvNeXt

# With 1,000 classes. Computed from facebookresearch/ConvNeXt and ConvNeXt-V2, and from timm.
PARAMETERS = {
    "atto": 3_695_520,
    "femto": 5_217_784,
    "pico": 9_045_672,
    "nano": 15_593_560,
    "tiny": 28_589_128,
    "tiny_hnf": 28_589_128,
    "small": 50_223_688,
    "base": 88_591_464,
    "large": 197_767_336,
    "large_mlp": 200_128_168,
    "xlarge": 350_196_968,
    "xxlarge": 846_471_016,
    "isotropic_small": 22_308_712,
    "isotropic_base": 87_083_752,
    "isotropic_large": 305_942_504,
    "v2_atto": 3_708_400,
    "v2_femto": 5_233_240,
    "v2_pico": 9_066_280,
    "v2_nano": 15_623_800,
    "v2_tiny": 28_635_496,
    "v2_base": 88_717_800,
    "v2_large": 197_956_840,
    "v2_huge": 660_289_640,
}
PARAMETERS_22K = {
    "tiny": 44_615_857,
    "small": 66_250_417,
    "base": 109_953_489,
    "large": 229_799_953,
    "xlarge": 392_900_177,
}


def abstract_params(model, image_size=64):
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_every_variant_has_its_count_in_the_table():
    assert PARAMETERS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_count_is_the_official_one(name):
    assert count(abstract_params(ConvNeXt(**VARIANTS[name], num_classes=1000))) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS_22K)
def test_parameter_count_with_21841_classes_is_the_official_one(name):
    params = abstract_params(ConvNeXt(**VARIANTS[name], num_classes=21841))
    assert count(params) == PARAMETERS_22K[name]


def test_tiny_has_182_tensors_all_float32_whatever_the_model_computes_in():
    params = abstract_params(ConvNeXt(**VARIANTS["tiny"], dtype=jnp.bfloat16))
    assert len(jax.tree.leaves(params)) == 182
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def official_params(arrays, prefix):
    """Parameters in the official names and torch layouts -> ours."""
    renames = [
        (r"^(downsample_layers\.0\.0|stem)\.", "stem_conv."),
        (r"^downsample_layers\.0\.1\.", "stem_norm."),
        (r"^downsample_layers\.(\d)\.0\.", r"downsample_\1_norm."),
        (r"^downsample_layers\.(\d)\.1\.", r"downsample_\1_conv."),
        (r"^stages\.(\d)\.(\d+)\.", r"stage_\1_block_\2."),
        (r"^blocks\.(\d+)\.", r"stage_0_block_\1."),
        (r"norm\.weight$", "norm.scale"),
        (r"\.weight$", ".kernel"),
    ]
    params = {}
    for key in arrays:
        if not key.startswith(prefix):
            continue
        name, value = key.removeprefix(prefix), arrays[key]
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim]
        params[name] = jnp.asarray(value.transpose(axes))
    return unflatten_dict(params, sep=".")


@pytest.fixture(scope="session")
def parity():
    return np.load(Path(__file__).parent / "fixtures" / "parity.npz")


PARITY_MODELS = {
    "hierarchical": dict(depths=(1, 2, 1, 1), dims=(4, 8, 12, 16), num_classes=7),
    "isotropic": dict(depths=(2,), dims=(12,), patch_size=16, stem_norm=False, num_classes=5),
}


def relative_error(ours, reference):
    return np.abs(np.asarray(ours, np.float64) - reference).max() / np.abs(reference).max()


@pytest.mark.parametrize("name", PARITY_MODELS)
def test_logits_are_those_of_pytorch(parity, name):
    params = official_params(parity, f"{name}/params/")
    model = ConvNeXt(**PARITY_MODELS[name])
    expected = flatten_dict(abstract_params(model), sep="/")
    assert {k: v.shape for k, v in flatten_dict(params, sep="/").items()} == {
        k: v.shape for k, v in expected.items()
    }
    logits = jax.jit(model.apply)({"params": params}, parity["images"])
    assert logits.shape == parity[f"{name}/logits"].shape
    assert relative_error(logits, parity[f"{name}/logits"]) < 1e-5


@pytest.mark.parametrize("remat", [False, True])
def test_bfloat16_keeps_float32_logits_near_the_reference(parity, remat):
    params = official_params(parity, "hierarchical/params/")
    model = ConvNeXt(**PARITY_MODELS["hierarchical"], dtype=jnp.bfloat16, remat=remat)
    logits = jax.jit(model.apply)({"params": params}, parity["images"])
    assert logits.dtype == jnp.float32
    assert 1e-5 < relative_error(logits, parity["hierarchical/logits"]) < 3e-2


@pytest.mark.parametrize("num_classes", [None, 0])
def test_without_classes_the_output_is_the_input_of_the_head(parity, num_classes):
    params = official_params(parity, "hierarchical/params/")
    head = params.pop("head")
    model = ConvNeXt(**{**PARITY_MODELS["hierarchical"], "num_classes": num_classes})
    features = jax.jit(model.apply)({"params": params}, parity["images"])
    assert features.shape == (2, 16) and features.dtype == jnp.float32
    logits = features @ head["kernel"] + head["bias"]
    assert relative_error(logits, parity["hierarchical/logits"]) < 1e-5


def test_initial_weights_are_those_of_the_paper():
    model = ConvNeXt(depths=(1, 1), dims=(64, 96), num_classes=100, head_init_scale=0.5)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    params = flatten_dict(params, sep="/")
    for name, value in params.items():
        leaf = name.rsplit("/")[-1]
        if leaf == "kernel":
            std = 0.01 if name == "head/kernel" else 0.02
            assert abs(value.std() / std - 1) < 0.03, name
            assert value.size < 5000 or jnp.abs(value).max() > 2.5 * std  # not truncated at 2 std
        else:
            expected = {"bias": 0.0, "scale": 1.0, "gamma": 1e-6}[leaf]
            assert (value == jnp.float32(expected)).all(), name


@pytest.fixture(scope="module")
def drop_path_outputs():
    """Features of 4,000 copies of one image with drop path, and without it."""
    model = ConvNeXt(
        depths=(3,), dims=(4,), patch_size=2, num_classes=None, drop_path_rate=0.5,
        layer_scale_init_value=1.0,
    )  # fmt: skip
    image = jax.random.normal(jax.random.key(0), (1, 4, 4, 3))
    params = jax.jit(model.init)(jax.random.key(1), image)["params"]

    def branch_scales(train):
        """Factor on each block's residual branch [3 blocks, N], read from its output."""
        images = jnp.broadcast_to(image, (4000, 4, 4, 3))
        _, state = model.apply(
            {"params": params}, images, train=train, rngs={"dropout": jax.random.key(2)},
            capture_intermediates=lambda module, _: module.name in ("pwconv2", "drop_path"),
        )  # fmt: skip
        blocks = [state["intermediates"][f"stage_0_block_{j}"] for j in range(3)]
        before = [b["pwconv2"]["__call__"][0] for b in blocks]
        after = [b["drop_path"]["__call__"][0] for b in blocks]
        return np.stack([a / b for a, b in zip(after, before, strict=True)])

    return branch_scales(True), branch_scales(False)


def test_drop_path_drops_whole_examples_and_rescales_the_others(drop_path_outputs):
    scales, _ = drop_path_outputs
    for j, rate in enumerate([0.0, 0.25, 0.5]):  # rises linearly from 0 at the first block
        per_example = scales[j].reshape(4000, -1)
        kept = per_example[:, 0] != 0
        assert (per_example[~kept] == 0).all()
        np.testing.assert_allclose(per_example[kept], 1 / (1 - rate), rtol=1e-5)
        assert abs(kept.mean() - (1 - rate)) < 0.03  # 4 standard errors
        assert abs(per_example[:, 0].mean() - 1) < 0.07


def test_drop_path_draws_differently_in_each_block(drop_path_outputs):
    kept = drop_path_outputs[0].reshape(3, 4000, -1)[:, :, 0] != 0
    # Independent blocks both drop 1/8 of the examples; with one key they would drop 1/4.
    assert abs((~kept[1] & ~kept[2]).mean() - 0.125) < 0.025


def test_drop_path_is_off_in_evaluation(drop_path_outputs):
    assert (drop_path_outputs[1] == 1).all()


def test_remat_changes_no_gradient(tiny_model, tiny_params):
    images = jax.random.normal(jax.random.key(3), (4, 12, 12, 3))

    def gradient(model):
        def loss(params):
            rngs = {"dropout": jax.random.key(4)}
            return (model.apply({"params": params}, images, train=True, rngs=rngs) ** 2).sum()

        return jax.jit(jax.grad(loss))(tiny_params)

    plain = gradient(tiny_model.clone(drop_path_rate=0.5))
    remat = gradient(tiny_model.clone(drop_path_rate=0.5, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, remat)


@pytest.mark.parametrize("size", [(31, 64), (64, 16)])
def test_an_image_side_smaller_than_the_stride_is_refused(size):
    model = ConvNeXt(**VARIANTS["tiny"])
    with pytest.raises(ValueError, match="sides of at least 32"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
