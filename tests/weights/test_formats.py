from functools import cache

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from convnext import ConvNeXt
from convnext.errors import InputError
from convnext.models.convnext import abstract_params
from convnext.weights import formats

shapes = cache(abstract_params)
DEEP = dict(depths=(1, 2, 11, 1), dims=(4, 6, 8, 12), num_classes=5)
V2 = dict(use_grn=True, layer_scale_init_value=None)
ISOTROPIC = dict(depths=(12,), dims=(8,), num_classes=5, patch_size=16, stem_norm=False)
FIVE = dict(depths=(1, 1, 1, 1, 1), dims=(4, 4, 4, 4, 4), num_classes=None)
MODELS = {
    ("official", "official"): DEEP,
    ("official V2", "official"): DEEP | V2,
    ("isotropic", "isotropic"): ISOTROPIC,
    ("timm", "timm"): DEEP | dict(head_hidden_size=7),
    ("timm V2", "timm"): DEEP | V2 | dict(head_norm_first=True),
    ("transformers", "transformers"): FIVE,
    ("dinov3", "dinov3"): DEEP | dict(num_classes=None),
    ("torchvision", "torchvision"): DEEP,
}


def random_state(fields):
    rng = np.random.default_rng(0)
    params = flatten_dict(shapes(ConvNeXt(**fields)), sep="/")
    return {key: rng.normal(size=leaf.shape).astype(np.float32) for key, leaf in params.items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key])


@pytest.mark.parametrize("case", MODELS, ids=lambda case: case[0])
@pytest.mark.parametrize("conv_mlp", [False, True])
def test_there_and_back_is_the_same_state(case, conv_mlp):
    state = random_state(MODELS[case])
    name, again = formats.to_ours(formats.from_ours(state, case[1], conv_mlp=conv_mlp))
    assert name == case[1]
    assert_equal(state, again)


@pytest.mark.parametrize(
    "name, prefix", [("official", "module."), ("dinov3", "model."), ("transformers", "convnext.")]
)
def test_a_prefix_is_left_out(name, prefix):
    fields = {"official": DEEP, "dinov3": DEEP | dict(num_classes=None), "transformers": FIVE}[name]
    state = random_state(fields)
    prefixed = {prefix + key: array for key, array in formats.from_ours(state, name).items()}
    found, again = formats.to_ours(prefixed)
    assert found == name
    assert_equal(state, again)


def test_layouts_are_those_of_pytorch():
    state = random_state(DEEP | V2)
    official = formats.from_ours(state, "official")
    assert official["downsample_layers.0.0.weight"].shape == (4, 3, 4, 4)
    assert official["downsample_layers.1.1.weight"].shape == (6, 4, 2, 2)
    assert official["stages.2.10.dwconv.weight"].shape == (8, 1, 7, 7)
    assert official["stages.2.10.pwconv1.weight"].shape == (32, 8)
    assert official["stages.2.10.grn.gamma"].shape == (1, 1, 1, 32)
    timm = formats.from_ours(state, "timm", conv_mlp=True)
    assert timm["stages.2.blocks.10.mlp.fc2.weight"].shape == (8, 32, 1, 1)
    assert timm["stages.2.blocks.10.mlp.grn.weight"].shape == (32,)
    assert timm["head.fc.weight"].shape == (5, 12)
    torchvision = formats.from_ours(random_state(DEEP), "torchvision")
    assert torchvision["features.5.10.layer_scale"].shape == (8, 1, 1)
    kernel = state["stage_2_block_10/dwconv/kernel"]
    assert official["stages.2.10.dwconv.weight"][3, 0, 1, 5] == kernel[1, 5, 0, 3]
    assert official["head.weight"][4, 2] == state["head/kernel"][2, 4]


def test_sparse_kernels_have_their_axes_swapped():
    kernel = np.arange(9 * 2 * 3).reshape(9, 2, 3)  # [k * k, in, out]
    state = {"encoder.downsample_layers.1.1.kernel": kernel}
    dense = formats.fcmae_to_official(state)["downsample_layers.1.1.weight"]
    assert dense.shape == (3, 2, 3, 3)
    assert dense[2, 1, 0, 1] == kernel[1 * 3 + 0, 1, 2]  # row 0, column 1
    with pytest.raises(InputError, match=r"kernel is \(8, 2, 3\); accepted: \[k \* k, in, out\]"):
        formats.fcmae_to_official({"encoder.a.kernel": kernel[:8]})
    for shape in ((), (9,), (9, 0), (0, 2, 3)):
        with pytest.raises(InputError, match=r"kernel is \(.*\); accepted: \[k \* k, in, out\]"):
            formats.fcmae_to_official({"encoder.a.kernel": np.zeros(shape)})


@pytest.mark.parametrize(
    "fields, name, reason",
    [
        (dict(depths=(1, 1, 1), dims=(4, 4, 4)), "official", "3 stages"),
        (dict(depths=(1, 1, 1), dims=(4, 4, 4)), "torchvision", "3 stages"),
        (dict(depths=(1, 1, 1), dims=(4, 4, 4)), "transformers", None),
        (dict(layer_scale_init_value=None), "torchvision", "blocks without LayerScale"),
        (dict(layer_scale_init_value=None), "official", None),
        (dict(final_norm_eps=1e-3), "timm", "a final norm with an eps of 0.001"),
        (dict(final_norm_eps=1e-12), "timm", None),  # of transformers, trained with 1e-6
        (dict(final_norm_eps=1e-3), "transformers", None),
        (dict(norm_eps=1e-5, final_norm_eps=1e-5), "timm", None),
        (dict(norm_eps=1e-5), "transformers", "norms with an eps of 1e-05"),
        (dict(patch_size=2), "official", "patches of 2 pixels"),
        (dict(patch_size=2), "transformers", None),
        (dict(in_chans=4), "torchvision", "images of 4 channels"),
        (dict(in_chans=4), "timm", None),
        (dict(use_grn=True), "timm", None),
    ],
)
def test_what_a_format_cannot_hold_has_a_reason(fields, name, reason):
    model = ConvNeXt(**(dict(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4)) | fields))
    assert formats.unsupported(model, name) == reason


def test_long_lists_are_cut():
    assert formats.listed({"missing": list("abcdef"), "other": [], "twice": ["g"]}) == (
        "missing a, b, c, d and 2 more; twice g"
    )
