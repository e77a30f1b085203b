import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext.models.convnext import VARIANTS, ConvNeXt, smallest_side
from tests.helpers.inputs import refused

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from convnext.export import onnx as export  # noqa: E402

QUICK = ("atto", "v2_atto", "isotropic_base", "tiny_hnf", "large_mlp")


def made(variant, num_classes=5, seed=0):
    """A model of a variant's kind, of few channels, with random parameters, gamma and GRN too."""
    fields = dict(VARIANTS[variant])
    stages = len(fields["depths"])
    fields["depths"] = tuple(min(depth, 2) for depth in fields["depths"])
    fields["dims"] = tuple(8 * 2**stage for stage in range(stages))
    if fields.get("head_hidden_size"):
        fields["head_hidden_size"] = 24
    model = ConvNeXt(**fields, num_classes=num_classes)
    side = smallest_side(model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, side, side, 3)))["params"]
    rng = np.random.default_rng(seed)
    return model, jax.tree.map(
        lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), shapes
    )


@pytest.mark.parametrize(
    "variant",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS],
)
@pytest.mark.parametrize("conv_mlp", [False, True])
def test_every_variant_computes_there_what_it_computes_here(variant, conv_mlp):
    model, params = made(variant)
    proto = export.model_proto(model, params, conv_mlp=conv_mlp)
    onnx.checker.check_model(proto, full_check=True)
    assert export.difference(proto, model, params) < 2e-6
    assert (proto.opset_import[0].version, proto.ir_version) == (18, 9)
    names = [
        dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim
    ]
    assert names == ["batch_size", 3, "height", "width"]


@pytest.mark.parametrize("variant", ["atto", "v2_atto"])
def test_a_model_without_a_head_gives_its_map_and_features(variant):
    model, params = made(variant, num_classes=None)
    proto = export.model_proto(model, params)
    assert [output.name for output in proto.graph.output] == ["last_hidden_state", "pooler_output"]
    assert export.difference(proto, model, params) < 2e-6


@pytest.mark.parametrize("out_norms", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_backbone_gives_its_maps(out_norms):
    model, params = made("atto")
    backbone = model.backbone(out_features=("stem", "stage2", "stage4"), out_norms=out_norms)
    params = backbone.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    proto = export.model_proto(backbone, params)
    assert [output.name for output in proto.graph.output] == ["stem", "stage2", "stage4"]
    assert export.difference(proto, backbone, params) < 2e-6


@pytest.mark.parametrize("variant", ["atto", "v2_atto"])
def test_of_float16_the_weights_take_half_the_bytes(variant):
    model, params = made(variant)
    whole, half = (export.model_proto(model, params, dtype=each) for each in export.DTYPES)
    assert half.ByteSize() < 0.7 * whole.ByteSize()
    assert half.graph.input[0].type == whole.graph.input[0].type
    assert 1e-5 < export.difference(half, model, params) < 5e-3


@pytest.mark.parametrize("conv_mlp", [False, True])
def test_grn_keeps_its_range_in_float16(conv_mlp):
    """Squares of 300 are above what float16 holds."""
    import onnxruntime

    model, params = made("v2_atto")
    block = params["stage_0_block_0"]
    block["pwconv1"]["bias"] = np.full_like(block["pwconv1"]["bias"], 300)
    half = export.model_proto(model, params, dtype="float16", conv_mlp=conv_mlp)
    session = onnxruntime.InferenceSession(half.SerializeToString())
    images = np.zeros((1, 3, 40, 40), np.float32)
    assert np.isfinite(session.run(None, {"pixel_values": images})[0]).all()


def test_sizes_may_be_fixed_and_the_pixels_normalised_inside():
    import onnxruntime

    model, params = made("atto")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    fixed = dict(batch_size=2, image_size=40, normalize=(mean, std))
    proto = export.model_proto(model, params, **fixed)
    onnx.checker.check_model(proto, full_check=True)
    sizes = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [2, 3, 40, 40]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    (found,) = session.run(None, {"pixel_values": pixels.transpose(0, 3, 1, 2)})
    normalised = (pixels / 255 - np.float32(mean)) / np.float32(std)
    expected = model.apply({"params": params}, normalised)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_layer_scale_is_folded():
    model, params = made("atto")
    weights = {each.name for each in export.model_proto(model, params).graph.initializer}
    without = model.clone(layer_scale_init_value=None)
    bare = jax.tree.map(lambda leaf: leaf, params)
    for block in bare.values():
        block.pop("gamma", None)
    assert len(weights) == len(export.model_proto(without, bare).graph.initializer)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(dtype="int4"), "dtype is 'int4'; accepted: float32 or float16"),
        (dict(batch_size=0), "batch_size is 0; accepted: 1 and more, or None"),
        (dict(image_size=16), "image_size is 16; accepted: 32 and more, or None"),
    ],
)
def test_what_makes_no_graph_is_refused(options, message):
    refused(message, export.model_proto, *made("atto"), **options)


def test_a_field_that_the_graph_does_not_follow_is_refused(monkeypatch):
    monkeypatch.setattr(export, "KNOWN", export.KNOWN - {"patch_size"})
    refused("the fields of the model is .'patch_size'.; accepted: those that the graph has",
            export.model_proto, *made("atto"))  # fmt: skip


def test_an_onnx_without_the_opset_is_refused(monkeypatch):
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 17)
    refused("onnx is '.*'; accepted: 1.13 or newer, which has opset 18",
            export.model_proto, *made("atto"))  # fmt: skip
