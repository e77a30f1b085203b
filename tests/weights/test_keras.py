import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext import ConvNeXt, from_pretrained, save_pretrained
from tests.helpers.inputs import refused

h5py = pytest.importorskip("h5py")

# Of keras.applications.ConvNeXt* of Keras 3.15.1, with depths (1, 2, 1, 1): what lies where.
EXPECTED = {
    "sequential/layers/conv2d/vars/0": "stem_conv/kernel",
    "sequential/layers/layer_normalization/vars/0": "stem_norm/scale",
    "sequential/layers/layer_normalization/vars/1": "stem_norm/bias",
    "sequential_1/layers/layer_normalization/vars/1": "downsample_1_norm/bias",
    "sequential_1/layers/conv2d/vars/1": "downsample_1_conv/bias",
    "sequential_3/layers/conv2d/vars/0": "downsample_3_conv/kernel",
    "conv2d/vars/0": "stage_0_block_0/dwconv/kernel",
    "conv2d_2/vars/1": "stage_1_block_1/dwconv/bias",
    "layer_normalization/vars/0": "stage_0_block_0/norm/scale",
    "layer_normalization_4/vars/1": "stage_3_block_0/norm/bias",
    "layer_normalization_5/vars/0": "norm/scale",
    "dense/vars/0": "stage_0_block_0/pwconv1/kernel",
    "dense_1/vars/1": "stage_0_block_0/pwconv2/bias",
    "dense_5/vars/0": "stage_1_block_1/pwconv2/kernel",
    "dense_9/vars/1": "stage_3_block_0/pwconv2/bias",
    "dense_10/vars/0": "head/kernel",
    "dense_10/vars/1": "head/bias",
    "layer_scale_2/vars/0": "stage_1_block_1/gamma",
}


def made(**fields):
    model = ConvNeXt((1, 2, 1, 1), (8, 8, 8, 8), 3, **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), shapes)


def test_each_parameter_lies_where_keras_looks_for_it(tmp_path):
    model, params = made()
    save_pretrained(tmp_path, model, params, format="keras")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.weights.h5", "preprocessor_config.json"}
    count = 0

    def add(name, node):
        nonlocal count
        count += isinstance(node, h5py.Dataset)

    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(add)
        for place, ours in EXPECTED.items():
            *path, leaf = ours.split("/")
            layer = params
            for part in path:
                layer = layer[part]
            np.testing.assert_array_equal(file[f"layers/{place}"], layer[leaf], err_msg=place)
    assert count == len(jax.tree.leaves(params))


def test_models_that_keras_lacks_are_refused(tmp_path):
    for fields, reason in (
        (dict(use_grn=True, layer_scale_init_value=None), "GRN"),
        (dict(layer_scale_init_value=None), "blocks without LayerScale"),
        (dict(head_norm_first=True), "a norm before pooling"),
    ):
        refused(f"the format keras has no models with {reason}", save_pretrained, tmp_path,
                *made(**fields), format="keras")  # fmt: skip


def test_without_h5py_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused("the format keras needs h5py; accepted: after pip install h5py", save_pretrained,
            tmp_path, *made(), format="keras")  # fmt: skip
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".h5"]


def test_such_a_file_is_not_read(tmp_path):
    save_pretrained(tmp_path, *made(), format="keras")
    refused("model.weights.h5 is a file of Keras or TensorFlow; accepted: safetensors",
            from_pretrained, tmp_path / "model.weights.h5")  # fmt: skip
