import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import convnext
from convnext import ConvNeXt, ImageProcessor, from_pretrained, save_pretrained
from tests.helpers.inputs import refused

# Of TFConvNextForImageClassification and its V2 (transformers 4.57.6), with one block a stage.
STEM = {
    "embeddings/patch_embeddings/kernel:0": (4, 4, 3, 8),
    "embeddings/patch_embeddings/bias:0": (8,),
    "embeddings/layernorm/gamma:0": (8,), "embeddings/layernorm/beta:0": (8,),
}  # fmt: skip
STAGE_1 = {
    "encoder/stages.1/downsampling_layer.0/gamma:0": (8,),
    "encoder/stages.1/downsampling_layer.0/beta:0": (8,),
    "encoder/stages.1/downsampling_layer.1/kernel:0": (2, 2, 8, 16),
    "encoder/stages.1/downsampling_layer.1/bias:0": (16,),
    "encoder/stages.1/layers.0/dwconv/kernel:0": (7, 7, 1, 16),
    "encoder/stages.1/layers.0/dwconv/bias:0": (16,),
    "encoder/stages.1/layers.0/layernorm/gamma:0": (16,),
    "encoder/stages.1/layers.0/layernorm/beta:0": (16,),
    "encoder/stages.1/layers.0/pwconv1/kernel:0": (16, 64),
    "encoder/stages.1/layers.0/pwconv1/bias:0": (64,),
    "encoder/stages.1/layers.0/pwconv2/kernel:0": (64, 16),
    "encoder/stages.1/layers.0/pwconv2/bias:0": (16,),
}
LAYER_SCALE = {"encoder/stages.1/layers.0/layer_scale_parameter:0": (16,)}
GRN = {"encoder/stages.1/layers.0/grn/weight:0": (1, 1, 1, 64),
       "encoder/stages.1/layers.0/grn/bias:0": (1, 1, 1, 64)}  # fmt: skip
NORM = {"layernorm/gamma:0": (16,), "layernorm/beta:0": (16,)}
HEAD = {"classifier/kernel:0": (16, 5), "classifier/bias:0": (5,)}


def made(use_grn=False, num_classes=5):
    gamma = None if use_grn else 0.1
    model = ConvNeXt((1, 1), (8, 16), num_classes, use_grn=use_grn, layer_scale_init_value=gamma,
                     final_norm_eps=1e-12)  # fmt: skip
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("base, use_grn", [("convnext", False), ("convnextv2", True)])
@pytest.mark.parametrize("num_classes", [5, None])
def test_the_names_are_tensorflows_and_the_numbers_come_back(base, use_grn, num_classes, tmp_path):
    model, params = made(use_grn, num_classes)
    options = dict(format="tensorflow", processor=ImageProcessor(size=32))
    save_pretrained(tmp_path, model, params, **options)
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "tf"}
    state = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    parts = {**STEM, **STAGE_1, **(GRN if use_grn else LAYER_SCALE), **NORM}
    expected = {f"{base}/{key}": shape for key, shape in parts.items()}
    expected |= HEAD if num_classes else {}
    first = f"{base}/encoder/stages.0/"
    shapes = {key: array.shape for key, array in state.items() if not key.startswith(first)}
    assert shapes == expected
    np.testing.assert_array_equal(
        state[f"{base}/encoder/stages.1/layers.0/pwconv1/kernel:0"],
        params["stage_1_block_0"]["pwconv1"]["kernel"],
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == base and config["layer_norm_eps"] == 1e-12

    again, read = from_pretrained(tmp_path)
    assert (again.depths, again.dims, again.num_classes) == ((1, 1), (8, 16), num_classes)
    assert again.final_norm_eps == 1e-12
    jax.tree.map(np.testing.assert_array_equal, read, params)
    bare, _ = from_pretrained(tmp_path / "model.safetensors")
    assert bare.final_norm_eps == 1e-12


def test_what_no_such_model_has_is_refused(tmp_path):
    _, params = made()
    hidden = ConvNeXt((1, 1), (8, 16), 5, head_norm_first=True)
    refused("the format tensorflow has no models with a norm before pooling", save_pretrained,
            tmp_path, hidden, params, format="tensorflow")  # fmt: skip
    state = {"convnext/encoder/stages.0/what:0": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(state, tmp_path / "model.safetensors")
    refused("weights that no TFConvNext has: unexpected convnext/encoder/stages.0/what:0",
            from_pretrained, tmp_path / "model.safetensors")  # fmt: skip


@pytest.mark.parametrize("name", ["TFConvNextModel", "TFConvNextV2ForImageClassification"])
def test_tensorflows_classes_say_what_writes_for_them(name):
    with pytest.raises(
        ImportError, match=f'^{name} is a class of TensorFlow .*="tensorflow".* wri'
    ):
        getattr(convnext, name)
