import json

import jax
import jax.numpy as jnp
import pytest

from convnext import ConvNeXt, ConvNextConfig, ConvNextV2Config, ImageProcessor, save_pretrained
from tests.helpers.inputs import refused

SMALL = dict(depths=[1, 1], hidden_sizes=[8, 16], num_stages=2)


def test_labels_follow_from_their_number_and_the_number_from_them():
    config = ConvNextConfig(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config = ConvNextConfig(id2label={"0": "cat", "1": "dog"})
    assert (config.id2label, config.label2id) == ({0: "cat", 1: "dog"}, {"cat": 0, "dog": 1})
    config.num_labels = 2
    assert config.id2label[0] == "cat"
    config.num_labels = 1
    assert config.id2label == {0: "LABEL_0"}
    assert ConvNextConfig(num_labels=0).id2label == {}


def test_what_it_writes_it_reads_and_unknown_fields_stay(tmp_path):
    config = ConvNextV2Config(**SMALL, num_labels=3, finetuned_on="cats")
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "convnextv2" and "layer_scale_init_value" not in written
    assert ConvNextV2Config.from_pretrained(tmp_path).to_dict() == config.to_dict() == written
    changed = ConvNextV2Config.from_pretrained(tmp_path, num_labels=4, drop_path_rate=0.1)
    assert (changed.num_labels, changed.drop_path_rate, changed.finetuned_on) == (4, 0.1, "cats")


def test_stages_are_named_and_chosen_by_name_or_number():
    config = ConvNextConfig(**SMALL)
    assert config.stage_names == ["stem", "stage1", "stage2"] and config.num_hidden_layers == 2
    assert (config.out_features, config.out_indices) == (["stage2"], [2])
    config = ConvNextConfig(**SMALL, out_indices=[0, 1])
    assert (config.out_features, config.out_indices) == (["stem", "stage1"], [0, 1])


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(depths=[1, 1]), "config.json has depths .* and num_stages 4; accepted: three that"),
        (dict(hidden_act="relu"), "hidden_act is 'relu'; accepted: 'gelu'"),
        (dict(patch_size=(4, 4)), "patch_size of config.json is .4, 4.; accepted: an integer"),
        (dict(num_labels=-1), "num_labels is -1; accepted: an integer from 0 up"),
        (dict(num_labels=3, id2label={0: "a"}), "num_labels is 3; accepted: 1, as id2label has"),
        (dict(problem_type="x"), "problem_type of config.json is 'x'; accepted: single_label"),
        (dict(out_features=["stage9"]), "out_features is .'stage9'.; accepted: some of stem, "),
    ],
)
def test_fields_that_make_no_model_are_refused(fields, message):
    refused(message, ConvNextConfig, **fields)


def test_the_other_version_is_named():
    refused("the model_type of a ConvNextConfig is 'convnextv2'; accepted: ConvNextV2Config for it",
            ConvNextConfig.from_dict, ConvNextV2Config().to_dict())  # fmt: skip
    refused("the model_type of a ConvNextV2Config is 'vit'; accepted: convnextv2",
            ConvNextV2Config.from_dict, {"model_type": "vit"})  # fmt: skip


def test_weights_of_timm_have_a_config_too_but_for_models_that_transformers_lacks(tmp_path):
    for number, (name, fields) in enumerate(
        {"tiny": {}, "hnf": dict(head_norm_first=True)}.items()
    ):
        model = ConvNeXt((1,) * 4, (8,) * 4, 3, **fields)
        params = jax.jit(model.init)(jax.random.key(number), jnp.zeros((1, 32, 32, 3)))["params"]
        options = dict(labels=["a", "b", "c"], processor=ImageProcessor(size=64))
        save_pretrained(tmp_path / name, model, params, format="timm", **options)
    config = ConvNextConfig.from_pretrained(tmp_path / "tiny")
    assert config.id2label == {0: "a", 1: "b", 2: "c"} and config.image_size == 64
    assert config.layer_norm_eps == 1e-6
    refused("transformers has no models with .*; accepted: those that convnext.from_pretrained",
            ConvNextConfig.from_pretrained, tmp_path / "hnf")  # fmt: skip
