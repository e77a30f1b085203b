import re
from functools import cache, partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import convnext
from convnext import VARIANTS, Backbone, ConvNeXt
from convnext.errors import InputError
from convnext.kernels import outline
from convnext.models.convnext import Block, abstract_params, macs
from tests.helpers.places import Padded, Tall

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

# GMACs in convolutions and linear layers, computed from the official code.
GMACS = {
    ("tiny", 224): 4.456, ("small", 224): 8.684, ("base", 224): 15.355, ("large", 224): 34.361,
    ("xlarge", 224): 60.921, ("tiny", 288): 7.365, ("xlarge", 288): 100.705,
    ("tiny", 384): 13.092, ("base", 384): 45.122, ("large", 384): 100.978, ("xlarge", 384): 179.029,
    ("tiny", 512): 23.275, ("isotropic_small", 224): 4.286, ("isotropic_base", 224): 16.896,
    ("isotropic_large", 224): 59.699, ("large_mlp", 224): 34.364,
}  # fmt: skip


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_every_variant_has_its_count_in_the_table():
    assert PARAMETERS.keys() == VARIANTS.keys()


@pytest.mark.parametrize("name", VARIANTS)
def test_parameter_count_is_the_official_one(name, params_of):
    assert count(params_of(ConvNeXt(**VARIANTS[name]))) == PARAMETERS[name]


@pytest.mark.parametrize("name", PARAMETERS_22K)
def test_parameter_count_with_21841_classes_is_the_official_one(name, params_of):
    params = params_of(ConvNeXt(**VARIANTS[name], num_classes=21841))
    assert count(params) == PARAMETERS_22K[name]


def test_tiny_has_182_tensors_all_float32_whatever_the_model_computes_in():
    params = abstract_params(ConvNeXt(**VARIANTS["tiny"], dtype=jnp.bfloat16))
    assert len(jax.tree.leaves(params)) == 182
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name, image_size", GMACS)
def test_gmacs_are_those_of_the_official_code(name, image_size):
    model = ConvNeXt(**VARIANTS[name])
    assert round(macs(model, image_size) / 1e9, 3) == GMACS[name, image_size]


FOLDER = Path(__file__).parents[1] / "fixtures" / "pretrained"


@pytest.fixture(scope="module")
def references():
    return np.load(FOLDER / "references.npz")


def relative_error(ours, reference):
    return np.abs(np.asarray(ours, np.float64) - reference).max() / np.abs(reference).max()


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("name, bound", [("official_v1.pth", 3e-2), ("official_v2.pt", 5e-2)])
def test_bfloat16_keeps_float32_logits_near_the_reference(references, name, bound, remat):
    model, params = convnext.from_pretrained(FOLDER / name, dtype=jnp.bfloat16)
    logits = jax.jit(model.clone(remat=remat).apply)({"params": params}, references["images"])
    assert logits.dtype == jnp.float32
    assert 1e-5 < relative_error(logits, references[name]) < bound


@pytest.mark.parametrize("num_classes", [None, 0])
def test_without_classes_the_output_is_the_input_of_the_head(references, num_classes):
    name = "timm_convnext_large_mlp"
    model, params = convnext.from_pretrained(FOLDER / name)
    head = params.pop("head")
    model = model.clone(num_classes=num_classes)
    features = jax.jit(model.apply)({"params": params}, references["images"])
    assert features.shape == (2, 10) and features.dtype == jnp.float32
    logits = features @ head["kernel"] + head["bias"]
    assert relative_error(logits, references[name]) < 1e-5


@pytest.mark.parametrize("norm", ["stem_norm", "final_norm"])
def test_an_eps_acts_where_it_is_given(norm):
    """On a nearly constant input the eps decides: x / sqrt(var + eps)."""
    field = {"stem_norm": "norm_eps", "final_norm": "final_norm_eps"}[norm]
    model = ConvNeXt(depths=(1,), dims=(4,), patch_size=2, num_classes=None)
    image = np.linspace(0, 1e-3, 48, dtype=np.float32).reshape(1, 4, 4, 3)
    params = jax.jit(model.init)(jax.random.key(0), image)["params"]
    params["stage_0_block_0"] = jax.tree.map(np.zeros_like, params["stage_0_block_0"])
    if norm == "final_norm":  # the stem's norm then has an output near zero
        params["stem_norm"]["scale"] = np.full(4, 1e-3, np.float32)

    def output(**changes):
        changed = model.clone(**changes)
        maps = jax.jit(partial(changed.apply, method="features"))({"params": params}, image)
        return np.asarray(maps["stem"] if norm == "stem_norm" else maps["pooler_output"])

    ratio = output(**{field: 1e-6}) / output(**{field: 1e-12})
    assert ((ratio > 0.01) & (ratio < 0.9)).all()


def test_in_bfloat16_the_last_norm_computes_in_float32():
    model = ConvNeXt(depths=(1,), dims=(4,), patch_size=2, dtype="bfloat16",
                     residual_dtype="bfloat16")  # fmt: skip
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(1), image)["params"]
    features = jax.jit(partial(model.apply, method="features"))({"params": params}, image)
    assert features["stage1"].dtype == jnp.bfloat16
    pooled = features["pooler_output"]
    assert pooled.dtype == jnp.float32 and (pooled != pooled.astype(jnp.bfloat16)).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "platform, remat", [("cpu", False), ("tpu", False), ("cuda", False), ("cpu", True)]
)
def test_in_bfloat16_a_block_with_a_small_gamma_adds_its_part(platform, remat):
    model = ConvNeXt(depths=(1,), dims=(16,), num_classes=10, layer_scale_init_value=1e-4,
                     remat=remat)  # fmt: skip
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(1), images)["params"])
    params = jax.tree.map(lambda x: 10 * x if x.ndim > 1 else x, params)

    def added_and_gradients(**changes):
        changed = model.clone(**changes)

        def loss(params):
            logits = changed.apply({"params": params}, images)
            maps = changed.apply({"params": params}, images, method="features")
            added = maps["stage1"].astype(jnp.float32) - maps["stem"].astype(jnp.float32)
            return jnp.square(logits).sum(), added

        with outline.compiling_for(platform):
            gradients, added = jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(params))
        return {"added": added, **flatten_dict(gradients, sep="/")}

    exact = added_and_gradients()
    for name, value in added_and_gradients(dtype="bfloat16").items():
        error = np.linalg.norm(value - exact[name]) / np.linalg.norm(exact[name])
        assert error < 0.1, name


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, dict(use_grn=True, layer_scale_init_value=None)])
def test_on_gpus_a_block_of_other_formulas_has_the_same_gradients(fields):
    """LayerNorm is a part of the first linear layer there; the parameters are the same."""
    model = ConvNeXt(depths=(1, 1), dims=(16, 32), num_classes=10, **fields)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
    params = jax.tree.map(
        lambda x: rng.normal(0.1, 0.3, x.shape).astype(np.float32), abstract_params(model)
    )

    def logits_and_gradients(platform):
        with outline.compiling_for(platform):
            assert jax.tree.structure(params) == jax.tree.structure(
                jax.eval_shape(model.init, jax.random.key(0), images)["params"]
            )

            def weighted(params, images):
                logits = model.apply({"params": params}, images)
                return (logits * np.arange(10)).sum(), logits

            gradients, logits = jax.jit(jax.grad(weighted, (0, 1), has_aux=True))(params, images)
        return flatten_dict({"logits": logits, "images": gradients[1], **gradients[0]}, sep="/")

    exact, errors = logits_and_gradients("tpu"), {}
    for name, value in logits_and_gradients("cuda").items():
        errors[name] = np.linalg.norm(value - exact[name]) / np.linalg.norm(exact[name])
    assert max(errors.values()) < 2e-6, errors


@pytest.mark.parametrize(
    "fields", [{}, dict(stem_norm=False, layer_scale_init_value=None), dict(use_grn=True)]
)
def test_the_maps_of_bfloat16_are_sums_in_float32(fields):
    def shapes(**dtypes):
        model = ConvNeXt(depths=(1, 1), dims=(4, 8), **fields, **dtypes)
        apply = lambda params, x: model.apply({"params": params}, x, method="features")  # noqa: E731
        return jax.eval_shape(apply, abstract_params(model), jnp.zeros((1, 8, 8, 3)))

    in_float32 = shapes()
    assert shapes(dtype="bfloat16") == in_float32
    # A model that computes in float32 adds up in it, too.
    assert shapes(dtype="float32", residual_dtype="bfloat16") == in_float32
    rounded = shapes(dtype="bfloat16", residual_dtype="bfloat16")
    assert rounded["stem"].dtype == rounded["stage2"].dtype == jnp.bfloat16


def precisions(function, *inputs, platform):
    """Of all products and convolutions, as they are handed to the compiler of a platform."""
    with outline.compiling_for(platform):
        lowered = jax.jit(function).trace(*inputs).lower(lowering_platforms=(platform,))
    products = [
        line for line in lowered.as_text().splitlines()
        if re.search(r"stablehlo\.(dot_general|convolution)", line)
    ]  # fmt: skip
    found = {tuple(re.findall(r"\b(DEFAULT|HIGH|HIGHEST)\b", line)) for line in products}
    return {name for names in found for name in names or ("none",)}


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_float32_is_computed_as_such_but_for_training(platform):
    model = ConvNeXt(depths=(1, 1), dims=(4, 8), head_hidden_size=5)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)

    def of(model, train=False, **options):
        params = abstract_params(model)
        apply = lambda params, x: model.apply({"params": params}, x, train=train, **options)  # noqa: E731
        return precisions(apply, params, images, platform=platform)

    assert of(model) == of(model.clone(use_grn=True)) == of(model.clone(remat=True)) == {"HIGHEST"}
    assert of(model, method="features") == of(Backbone(depths=(1, 1), dims=(4, 8))) == {"HIGHEST"}
    assert of(model, train=True) == of(model.clone(dtype="bfloat16")) == {"DEFAULT"}
    in_full = model.clone(train_precision="highest")
    assert of(in_full, train=True) == {"HIGHEST"}
    assert of(in_full.clone(dtype="bfloat16"), train=True) == {"DEFAULT"}
    with pytest.raises(
        InputError, match="model.train_precision is 'float64'; accepted: default or"
    ):
        of(model.clone(train_precision="float64"))
    with jax.default_matmul_precision("high"):
        assert of(model) == {"HIGH"}


def test_a_backbone_gives_the_maps_of_the_model_with_channels_and_strides(references):
    model, params = convnext.from_pretrained(FOLDER / "official_v2.pt")
    features = jax.jit(partial(model.apply, method="features"))
    maps = features({"params": params}, references["images"])
    fields = dict(depths=model.depths, dims=model.dims, use_grn=True, layer_scale_init_value=None)
    backbone = Backbone(**fields, out_features=("stage4", "stem", "stage2"))
    trunk = {key: value for key, value in params.items() if key not in ("norm", "head")}
    assert jax.tree.structure(abstract_params(backbone)) == jax.tree.structure(trunk)
    selected = jax.jit(backbone.apply)({"params": trunk}, references["images"])
    assert selected.keys() == {"stem", "stage2", "stage4"}
    for name, value in selected.items():
        np.testing.assert_allclose(value, maps[name], rtol=1e-5, atol=1e-5)
        height, width = (side // backbone.strides[name] for side in (45, 70))
        assert value.shape == (2, height, width, backbone.channels[name])
    assert backbone.channels == {"stem": 4, "stage2": 6, "stage4": 12}
    assert backbone.strides == {"stem": 4, "stage2": 8, "stage4": 32}


def test_a_backbone_may_have_a_norm_for_each_map(references):
    backbone = Backbone(depths=(1, 1), dims=(4, 8), out_features=("stage1", "stage2"),
                        out_norms=True)  # fmt: skip
    images = references["images"]
    params = jax.jit(backbone.init)(jax.random.key(0), images)["params"]
    assert {"norm_stage1", "norm_stage2"} <= params.keys() and "norm" not in params
    for value in jax.jit(backbone.apply)({"params": params}, images).values():
        np.testing.assert_allclose(value.mean(axis=-1), 0, atol=1e-5)
        np.testing.assert_allclose(value.std(axis=-1), 1, atol=1e-2)


def test_a_backbone_of_defaults_has_the_four_stages():
    assert Backbone(**VARIANTS["tiny"]).channels == {
        "stage1": 96, "stage2": 192, "stage3": 384, "stage4": 768
    }  # fmt: skip
    assert list(Backbone(**VARIANTS["tiny"]).strides.values()) == [4, 8, 16, 32]


@pytest.mark.slow
def test_every_variant_has_a_backbone_that_takes_its_parameters(params_of):
    for name, fields in VARIANTS.items():
        few = (1, 3, 2, 1)[: len(fields["depths"])]  # a block is like the next
        fields = {**fields, "depths": few}
        model = ConvNeXt(**fields, in_chans=1, remat=True)
        backbone = model.backbone(out_features=("stage1",))
        assert backbone.remat and backbone.out_features == ("stage1",)
        params, own = params_of(model), params_of(backbone)
        head = {"norm", "norm_pre", "pre_logits", "head"}
        assert own == {key: value for key, value in params.items() if key not in head}, name
        assert 0 < macs(backbone, 224) == macs(model.clone(num_classes=0, head_hidden_size=0), 224)


def test_a_backbone_has_no_fields_of_a_head():
    for name in ("num_classes", "final_norm_eps", "head_init_scale", "head_hidden_size"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            Backbone(**VARIANTS["tiny"], **{name: None})


@pytest.mark.parametrize("names", [("stage5",), ("stage1", "norm"), ()])
def test_a_map_that_is_not_there_is_named(names):
    backbone = Backbone(**VARIANTS["tiny"], out_features=names)
    with pytest.raises(ValueError, match="accepted: some of stem, stage1, stage2, stage3, stage4"):
        abstract_params(backbone)


VERSIONS = {"v1": {}, "v2": dict(use_grn=True, layer_scale_init_value=None)}


def backbone_and_params(version, **fields):
    """Two stages, of strides 4 and 8; no parameter is what it begins with."""
    backbone = Backbone(depths=(1, 2), dims=(6, 8), **VERSIONS[version], **fields)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(0.2, 0.4, x.shape).astype(x.dtype), abstract_params(backbone)
    )
    return backbone, params


def maps_and_gradients(backbone, params, images, weights, places=None):
    """The maps, and the gradients of their weighted sum by the parameters and by the images."""

    @jax.jit
    def run(params, images, places):
        def loss(params, images):
            maps = backbone.apply({"params": params}, images, places=places)
            return sum((maps[name] * weights[name]).sum() for name in maps), maps

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, images)

    (by_params, by_images), maps = jax.device_get(run(params, images, places))
    return maps, by_params, by_images


def assert_near(ours, exact):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max()


SIZES = [(16, 24), (32, 8)]


@cache
def canvas_of(version):
    """Two images on a canvas, noise beyond them; weights of its maps; and of each image alone the
    maps and gradients."""
    backbone, params = backbone_and_params(version)
    rng = np.random.default_rng(1)
    canvas = rng.normal(size=(2, 32, 24, 3)).astype(np.float32)
    weights = {
        name: np.zeros((2, 32 // stride, 24 // stride, backbone.channels[name]), np.float32)
        for name, stride in backbone.strides.items()
    }
    alone = []
    for i, (height, width) in enumerate(SIZES):
        part = {
            name: rng.normal(size=(1, height // s, width // s, backbone.channels[name]))
            for name, s in backbone.strides.items()
        }
        for name, s in backbone.strides.items():
            weights[name][i, : height // s, : width // s] = part[name][0]
        image = canvas[i : i + 1, :height, :width]
        alone.append(maps_and_gradients(backbone, params, image, part))
    return canvas, weights, alone


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_images_on_a_larger_canvas_are_what_they_are_alone(version, remat):
    backbone, params = backbone_and_params(version, remat=remat)
    canvas, weights, alone = canvas_of(version)
    places = Padded(jnp.array(SIZES), (32, 24))
    maps, by_params, by_canvas = maps_and_gradients(backbone, params, canvas, weights, places)
    for i, ((height, width), (exact, _, by_image)) in enumerate(zip(SIZES, alone, strict=True)):
        inside = {
            name: maps[name][i : i + 1, : height // s, : width // s]
            for name, s in backbone.strides.items()
        }
        assert_near(inside, exact)
        assert_near(by_canvas[i : i + 1, :height, :width], by_image)
        assert not by_canvas[i, height:].any() and not by_canvas[i, :, width:].any()
    assert_near(by_params, jax.tree.map(np.add, alone[0][1], alone[1][1]))


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_patches_below_one_another_are_the_image_that_they_make_up(version):
    backbone, params = backbone_and_params(version)
    image = np.random.default_rng(1).normal(size=(1, 16, 8, 3)).astype(np.float32)
    exact, _, _ = maps_and_gradients(backbone, params, image, {"stage1": 1, "stage2": 1})
    # Of 2x2 patches those on the right, the lower one first; nothing is seen of those on the left.
    tall = np.concatenate([image[:, 8:], image[:, :8]], axis=1)
    places = Tall(jnp.array([[3, 1]]), grid=(2, 2), side=8)
    maps = jax.device_get(jax.jit(backbone.apply)({"params": params}, tall, places=places))
    for name, half in ("stage1", 2), ("stage2", 1):
        together = np.concatenate([maps[name][:, half:], maps[name][:, :half]], axis=1)
        assert_near(together, exact[name])


@pytest.mark.slow
@pytest.mark.parametrize("remat", [False, True])
def test_a_model_without_places_is_the_program_that_it_was(remat):
    backbone, params = backbone_and_params("v2", remat=remat)
    images = jnp.zeros((2, 16, 16, 3))

    def program(*places):
        def total(params):
            maps = backbone.apply({"params": params}, images, True, *places)
            return sum(value.sum() for value in maps.values())

        return jax.jit(jax.grad(total)).lower(params).as_text()

    assert program() == program(None)
    sizes = jnp.full((2, 2), 16)
    assert program() != program(Padded(sizes, (16, 16)))


def test_initial_weights_are_those_of_the_paper():
    model = ConvNeXt(depths=(1, 1), dims=(64, 96), num_classes=100, head_init_scale=0.5)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    params = flatten_dict(jax.device_get(params), sep="/")
    for name, value in params.items():
        leaf = name.rsplit("/")[-1]
        if leaf == "kernel":
            std = 0.01 if name == "head/kernel" else 0.02
            assert abs(value.std() / std - 1) < 0.03, name
            assert value.size < 5000 or np.abs(value).max() > 2.5 * std  # not truncated at 2 std
        else:
            expected = {"bias": 0.0, "scale": 1.0, "gamma": 1e-6}[leaf]
            assert (value == np.float32(expected)).all(), name


@pytest.fixture(scope="module")
def drop_path_outputs():
    """Features of 4,000 copies of one image with drop path, and without it."""
    model = ConvNeXt(
        depths=(3,), dims=(4,), patch_size=2, num_classes=None, drop_path_rate=0.5,
        layer_scale_init_value=1.0,
    )  # fmt: skip
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(1), image)["params"]

    @partial(jax.jit, static_argnums=0)
    def branch_scales(train):
        """Factor on each block's residual branch [3 blocks, N], read from its output."""
        images = jnp.broadcast_to(image, (4000, 4, 4, 3))
        scales = []

        def watch(drop_path, inputs, options, context):
            outputs = drop_path(*inputs, **options)
            if context.module.name == "drop_path":
                scales.append(outputs / inputs[0])
            return outputs

        with nn.intercept_methods(watch):
            rngs = {"dropout": jax.random.key(2)}
            model.apply({"params": params}, images, train=train, rngs=rngs)
        return jnp.stack(scales)

    return jax.device_get((branch_scales(True), branch_scales(False)))


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


def test_a_block_adds_twice_its_branch_or_nothing_at_a_rate_of_a_half():
    block = Block(dim=4, drop_path_rate=0.5, layer_scale_init_value=1.0)
    x = np.random.default_rng(0).normal(size=(64, 3, 3, 4)).astype(np.float32)

    @jax.jit
    def added_to(x):
        variables = block.init(jax.random.key(1), x)
        trained = block.apply(variables, x, train=True, rngs={"dropout": jax.random.key(2)})
        return block.apply(variables, x) - x, trained - x

    branch, added = jax.device_get(added_to(x))
    dropped = (added == 0).all((1, 2, 3))
    assert 16 < dropped.sum() < 48
    np.testing.assert_allclose(added[~dropped], 2 * branch[~dropped], rtol=1e-5, atol=1e-5)


def test_remat_keeps_the_input_of_each_block_alone(tiny_model, tiny_params):

    def kept(model):
        """How many numbers the backward pass gets of the forward pass."""

        def backward(params, images):
            def logits(params):
                rngs = {"dropout": jax.random.key(1)}
                return model.apply({"params": params}, images, train=True, rngs=rngs)

            return jax.vjp(logits, params)[1]

        images = jax.ShapeDtypeStruct((64, 12, 12, 3), jnp.float32)
        residuals = jax.tree.leaves(jax.eval_shape(backward, tiny_params, images))
        return sum(leaf.size for leaf in residuals)

    # Plain, each block keeps seven maps, or more.
    assert 2 * kept(tiny_model.clone(remat=True)) < kept(tiny_model)


@pytest.mark.slow
def test_remat_changes_no_gradient(tiny_model, tiny_params):
    images = np.random.default_rng(3).normal(size=(4, 12, 12, 3)).astype(np.float32)

    def gradient(model):
        def loss(params):
            rngs = {"dropout": jax.random.key(4)}
            return (model.apply({"params": params}, images, train=True, rngs=rngs) ** 2).sum()

        return jax.jit(jax.grad(loss))(tiny_params)

    plain = gradient(tiny_model.clone(drop_path_rate=0.5))
    remat = gradient(tiny_model.clone(drop_path_rate=0.5, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain, remat)


@pytest.mark.parametrize(
    "name, values",
    [
        ("depths", [(), (1,), (1, 0), (1.5, 1), ("a", "b")]),
        ("dims", [(8,), (8, -16), (8, 16, 32), ("a", "b")]),
        ("patch_size", [0, -4]),
        ("drop_path_rate", [-0.1, 1.0, float("nan")]),
        ("norm_eps", [0.0, -1.0, float("nan")]),
        ("final_norm_eps", [0.0, float("inf")]),
        ("layer_scale_init_value", [-1e-6, float("nan"), float("inf")]),
        ("head_hidden_size", [0, -1]),
        ("head_init_scale", [-1.0, float("nan"), float("inf")]),
        ("dtype", ["fp16", "bf16", "half", "float16", "float64", "int8", ""]),
        ("residual_dtype", ["fp16", "float16", jnp.float16]),
        ("kernels", ["cuda"]),
    ],
)
def test_fields_out_of_range_are_refused_by_their_full_name(name, values):
    for value in values:
        model = ConvNeXt(**{"depths": (1, 1), "dims": (8, 16), name: value})
        accepted = {"dtype": "float32 or bfloat16", "kernels": "auto or lax"}
        expected = accepted.get(name.removeprefix("residual_"), "")
        init = partial(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
        message = rf"\bmodel.{name}\b.* is .*; accepted: {expected}"
        for check in (model.check, partial(jax.eval_shape, init)):
            with pytest.raises(InputError, match=message):
                check()


def test_a_backbone_has_the_range_of_its_fields():
    with pytest.raises(InputError, match="model.dtype is 'float16'; accepted: float32 or bfl"):
        Backbone(depths=(1,), dims=(8,), dtype="float16").check()


@pytest.mark.parametrize("size", [(31, 64), (64, 16)])
def test_an_image_side_smaller_than_the_stride_is_refused(size):
    model = ConvNeXt(**VARIANTS["tiny"])
    with pytest.raises(ValueError, match="sides of at least 32"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize("shape", [(1, 64, 64, 1), (1, 3, 64, 64), (64, 64, 3)])
def test_images_of_another_layout_are_refused(shape):
    model = ConvNeXt(**VARIANTS["tiny"])
    with pytest.raises(ValueError, match=r"accepted: \[N, H, W, 3\], channels last"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


def test_a_model_of_four_channels_takes_them():
    model = ConvNeXt(**VARIANTS["tiny"], in_chans=4)
    assert abstract_params(model)["stem_conv"]["kernel"].shape == (4, 4, 4, 96)
