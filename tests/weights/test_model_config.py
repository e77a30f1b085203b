import pytest

from convnext import VARIANTS, ConvNeXt, ImageProcessor
from convnext.errors import InputError
from convnext.weights import model_config

# Nothing at its default.
FIELDS = dict(
    depths=(1, 2, 1, 3), dims=(4, 6, 8, 10), num_classes=2, in_chans=4, drop_path_rate=0.3,
    layer_scale_init_value=1e-5, final_norm_eps=1e-4,
)  # fmt: skip


def test_transformers_config_says_all():
    model = ConvNeXt(**FIELDS, patch_size=2)
    config = model_config.transformers_config(model, ("cat", "dog"), 96, "regression")
    assert config == {
        "architectures": ["ConvNextForImageClassification"],
        "model_type": "convnext",
        "num_channels": 4,
        "patch_size": 2,
        "num_stages": 4,
        "depths": [1, 2, 1, 3],
        "hidden_sizes": [4, 6, 8, 10],
        "hidden_act": "gelu",
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-4,
        "layer_scale_init_value": 1e-5,
        "drop_path_rate": 0.3,
        "image_size": 96,
        "dtype": "float32",
        "id2label": {"0": "cat", "1": "dog"},
        "label2id": {"cat": 0, "dog": 1},
        "problem_type": "regression",
    }
    said = model_config.read(config)
    assert ConvNeXt(**said.fields, num_classes=2) == model
    assert (said.labels, said.problem_type) == (("cat", "dog"), "regression")


def test_transformers_config_of_v2_and_of_a_model_without_a_head():
    model = ConvNeXt(**VARIANTS["v2_atto"]).clone(num_classes=None)
    config = model_config.transformers_config(model, None, 224)
    assert config["architectures"] == ["ConvNextV2Model"] and config["model_type"] == "convnextv2"
    assert config.keys().isdisjoint(("layer_scale_init_value", "id2label", "problem_type"))
    assert ConvNeXt(**model_config.read(config).fields).clone(num_classes=None) == model
    unlabelled = model_config.transformers_config(model.clone(num_classes=2), None, 224)
    assert unlabelled["id2label"] == {"0": "LABEL_0", "1": "LABEL_1"}


def test_transformers_config_without_layer_scale():
    model = ConvNeXt(**VARIANTS["tiny"]).clone(layer_scale_init_value=None)
    config = model_config.transformers_config(model, None, 224)
    assert config["layer_scale_init_value"] == 0.0
    assert model_config.read(config).fields["layer_scale_init_value"] is None


def test_what_transformers_leaves_out_is_its_default():
    fields = model_config.read({"model_type": "convnext"}).fields
    assert ConvNeXt(**fields) == ConvNeXt(**VARIANTS["tiny"], final_norm_eps=1e-12)
    dinov3 = {"model_type": "dinov3_convnext"}
    assert ConvNeXt(**model_config.read(dinov3).fields) == ConvNeXt(**VARIANTS["tiny"])
    fields = model_config.read({**dinov3, "layer_norm_eps": 1e-5}).fields
    assert (fields["norm_eps"], fields["final_norm_eps"]) == (1e-5, 1e-5)


def test_timm_config_says_all():
    fields = FIELDS | dict(norm_eps=1e-4)
    model = ConvNeXt(**fields, use_grn=True, head_norm_first=True, head_hidden_size=7)
    processor = ImageProcessor(
        size=96, crop_pct=0.9, resample=2, image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6)
    )
    config = model_config.timm_config(model, ("cat", "dog"), processor, "regression")
    assert config == {
        "architecture": "convnext_tiny",
        "num_classes": 2,
        "num_features": 7,
        "model_args": {
            "depths": [1, 2, 1, 3],
            "dims": [4, 6, 8, 10],
            "in_chans": 4,
            "patch_size": 4,
            "use_grn": True,
            "ls_init_value": 1e-5,
            "conv_mlp": False,
            "norm_eps": 1e-4,
            "head_norm_first": True,
            "head_hidden_size": 7,
        },
        "pretrained_cfg": {
            "num_classes": 2,
            "input_size": [4, 96, 96],
            "pool_size": None,
            "crop_mode": "center",
            "crop_pct": 0.9,
            "interpolation": "bilinear",
            "mean": [0.1, 0.2, 0.3],
            "std": [0.4, 0.5, 0.6],
            "first_conv": "stem.0",
            "classifier": "head.fc",
        },
        "label_names": ["cat", "dog"],
        "problem_type": "regression",
    }
    said = model_config.read(config)
    again = ConvNeXt(**said.fields, num_classes=2, drop_path_rate=0.3)
    assert again == model
    assert (said.labels, said.problem_type) == (("cat", "dog"), "regression")


# conv_mlp=True in timm/models/convnext.py.
CONVOLUTIONS = ["atto", "femto", "nano", "pico", "tiny_hnf",
                "v2_atto", "v2_femto", "v2_nano", "v2_pico"]  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_known_in_timm_and_comes_back(name):
    model = ConvNeXt(**VARIANTS[name])
    assert model_config.variant_of(model) == name
    assert model_config.variant_of(model.clone(dims=list(model.dims), num_classes=3)) == name
    config = model_config.timm_config(model, None, ImageProcessor(size=384))
    v2 = "v2" if name.startswith("v2_") else ""
    assert config["architecture"] == f"convnext{v2}_{name.removeprefix('v2_')}"
    assert config["model_args"]["conv_mlp"] == (name in CONVOLUTIONS)
    assert (config["pretrained_cfg"]["crop_mode"], config["pretrained_cfg"]["crop_pct"]) == (
        "squash", 1.0,
    )  # fmt: skip
    said = model_config.read({"architecture": config["architecture"]})
    assert not model_config.differences(ConvNeXt(**said.fields), model)
    assert ConvNeXt(**model_config.read(config).fields) == model


def test_what_layer_scale_begins_with_makes_no_other_architecture():
    tiny = ConvNeXt(**VARIANTS["tiny"])
    assert not model_config.differences(tiny, tiny.clone(layer_scale_init_value=1.0))
    other = tiny.clone(layer_scale_init_value=None, dims=(1, 2, 3, 4))
    assert model_config.differences(tiny, other) == {
        "dims": (tiny.dims, (1, 2, 3, 4)), "layer_scale_init_value": (1e-6, None)
    }  # fmt: skip


def test_the_flat_config_of_earlier_timm_is_read():
    config = {"architecture": "convnextv2_small", "labels": {"1": "b", "0": "a", "10": "k"} | {
        str(i): str(i) for i in range(2, 10)}}  # fmt: skip
    said = model_config.read(config)
    assert said.labels == ("a", "b", *"23456789", "k")
    assert said.fields["depths"] == (3, 3, 27, 3) and said.fields["use_grn"]


@pytest.mark.parametrize(
    "arguments",
    [
        dict(global_pool="max"), dict(output_stride=16), dict(kernel_sizes=[7, 5, 5, 3]),
        dict(stem_type="overlap"), dict(conv_bias=False), dict(act_layer="gelu_tanh"),
        dict(norm_layer="rmsnorm"),
    ],
)  # fmt: skip
def test_what_timm_can_do_beyond_is_refused(arguments):
    config = {"architecture": "convnext_tiny", "model_args": {"drop_rate": 0.1, "num_classes": 9}}
    model_config.read(config)
    config["model_args"].update(arguments)
    with pytest.raises(InputError, match=f"{next(iter(arguments))} .*; accepted: "):
        model_config.read(config)


def test_a_config_of_neither_is_refused():
    with pytest.raises(InputError, match="neither model_type"):
        model_config.read({"depths": [3, 3, 9, 3]})


@pytest.mark.parametrize(
    "name, value",
    [
        *(("depths", value) for value in ([10**9], [0], [-1], [1.0], [True], "3", {"a": 1})),
        *(("hidden_sizes", value) for value in ([96, 192, 384, 10**30], [96, 192, 384, -768])),
        *(("num_channels", value) for value in (0, -3, 3.0, True, "3", 10**9)),
        *(("patch_size", value) for value in (0, 4.0, [4, 4], 10**6)),
        *(("drop_path_rate", value) for value in (-0.1, 1, float("nan"), "0", [0], True)),
        *(("layer_norm_eps", value) for value in (-1e-6, 1, float("nan"), float("inf"), 10**400)),
        *(("layer_scale_init_value", value) for value in (float("inf"), 10**400)),
    ],
)
def test_a_value_that_makes_no_model_is_refused(name, value):
    config = model_config.transformers_config(ConvNeXt(**VARIANTS["tiny"]), None, 224)
    model_config.read(config)
    with pytest.raises(InputError, match=r"config\.json.*; accepted: "):
        model_config.read({**config, name: value})


@pytest.mark.parametrize(
    "name, value", [("use_grn", 1), ("head_norm_first", "no"), ("head_hidden_size", -1)]
)
def test_an_argument_that_makes_no_model_is_refused(name, value):
    config = {"architecture": "convnext_tiny", "model_args": {name: value}}
    with pytest.raises(InputError, match=f"{name} of config.json is {value!r}; accepted: "):
        model_config.read(config)
