"""A model written in each format, and read again."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import convnext
from convnext import ConvNeXt
from convnext.errors import InputError
from convnext.models.convnext import abstract_params
from convnext.weights import locate, pretrained

FOLDER = Path(__file__).parents[1] / "fixtures" / "pretrained"


EXPORTS = {
    "official_v1.pth": "official",
    "official_v2.pt": "official",
    "isotropic.pth": "official",
    "isotropic_gamma.pth": "official",
    "timm_convnext_large_mlp": "timm",
    "timm_convnext_tiny_hnf": "timm",
    "timm_convnext_xxlarge": "timm",
    "timm_convnextv2_tiny": "timm",
    "torchvision.safetensors": "torchvision",
    "transformers_ConvNext": "transformers",
    "transformers_ConvNextV2": "transformers",
}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_round_trip_is_bit_identical(name, tmp_path):
    found = pretrained.load(FOLDER / name)
    convnext.save_pretrained(tmp_path, found.model, found.params, format=EXPORTS[name])
    source = FOLDER / name
    file = source / "model.safetensors" if source.is_dir() else source
    original = locate.read_tensors(file)
    written = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    shape = np.shape
    if name == "timm_convnext_tiny_hnf":
        # Its MLP is made of 1x1 convolutions, and this one is too small to be known as it.
        shape = lambda array: array.squeeze().shape  # noqa: E731
    assert {k: shape(v) for k, v in written.items()} == {k: shape(v) for k, v in original.items()}
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}  # transformers asks for it
    for key, array in original.items():
        np.testing.assert_array_equal(written[key].reshape(array.shape), array)

    model, params = convnext.from_pretrained(tmp_path)
    assert model == found.model
    jax.tree.map(np.testing.assert_array_equal, params, found.params)


def test_every_format_carries_labels_and_processor(tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    processor = convnext.ImageProcessor(size=320, crop_pct=0.9, image_mean=(0.5, 0.4, 0.3))
    for name in ("official", "timm", "transformers", "torchvision"):
        convnext.save_pretrained(
            tmp_path / name, found.model, found.params, format=name, labels="abcde",
            processor=processor, problem_type="multi_label_classification",
        )  # fmt: skip
        again = pretrained.load(tmp_path / name)
        assert again.labels == tuple("abcde")
        rounding = "floor" if name == "transformers" else "round"
        assert again.processor == dataclasses.replace(processor, crop_rounding=rounding)
        assert again.problem_type == "multi_label_classification"


@pytest.mark.parametrize("size, crop_mode", [(320, None), (384, None), (384, "center")])
def test_timms_config_says_the_same_crop(size, crop_mode, tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    processor = convnext.ImageProcessor(size=size, crop_pct=0.95, crop_mode=crop_mode)
    convnext.save_pretrained(
        tmp_path, found.model, found.params, format="timm", processor=processor
    )
    (tmp_path / "preprocessor_config.json").unlink(missing_ok=True)
    again = pretrained.load(tmp_path).processor
    image = np.random.default_rng(0).integers(0, 256, (500, 421, 3), dtype=np.uint8)
    np.testing.assert_array_equal(again.preprocess(image), processor.preprocess(image))


def test_a_crop_that_transformers_does_not_have_is_refused_there_only(tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    processor = convnext.ImageProcessor(size=384, crop_mode="center")
    with pytest.raises(InputError, match="crop_mode is 'center'"):
        convnext.save_pretrained(tmp_path / "out", found.model, found.params, processor=processor)
    assert not (tmp_path / "out").exists()


def test_the_names_of_timm_have_an_mlp_of_convolutions_where_timm_has(tmp_path):
    model = ConvNeXt(**convnext.VARIANTS["atto"])
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract_params(model))
    convnext.save_pretrained(tmp_path, model, params, format="timm")
    with safetensors.safe_open(tmp_path / "model.safetensors", "np") as file:
        shape = file.get_slice("stages.0.blocks.0.mlp.fc1.weight").get_shape()
        assert shape == [160, 40, 1, 1]
        assert file.get_slice("head.fc.weight").get_shape() == [1000, 320]
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "convnext_atto"


def test_all_files_have_the_mode_that_the_user_gives(tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    before = os.umask(0o027)
    try:
        convnext.save_pretrained(tmp_path, found.model, found.params, format="timm")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch):
    found = pretrained.load(FOLDER / "official_v1.pth")
    convnext.save_pretrained(tmp_path, found.model, found.params)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match="cannot write to .*: No space left on device"):
        convnext.save_pretrained(tmp_path, found.model, found.params, format="timm")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "fields, name, reason",
    [
        (dict(patch_size=16, stem_norm=False), "transformers", "a stem without a norm"),
        (dict(use_grn=True), "transformers", "GRN and LayerScale in one block"),
        (dict(use_grn=True, layer_scale_init_value=None), "torchvision", "GRN"),
        (dict(head_hidden_size=8), "transformers", "a hidden layer in the head"),
        (dict(head_norm_first=True), "official", "a norm before pooling"),
        (dict(norm_eps=1e-5, final_norm_eps=1e-5), "official", "an eps of 1e-05"),
        (dict(patch_size=2), "torchvision", "patches of 2 pixels"),
        (dict(patch_size=8), "timm", "patches of 8 pixels"),
        (dict(depths=(1, 1), dims=(4, 8)), "timm", "2 stages"),
    ],
)
def test_a_model_that_a_format_cannot_hold_is_refused(fields, name, reason, tmp_path):
    model = ConvNeXt(**(dict(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4), num_classes=5) | fields))
    with pytest.raises(InputError, match=reason):
        convnext.save_pretrained(tmp_path / "out", model, {}, format=name)
    assert not (tmp_path / "out").exists()


def test_params_or_labels_of_another_model_are_refused(tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    with pytest.raises(InputError, match="differing stage_0_block_0/gamma"):
        convnext.save_pretrained(
            tmp_path / "out", found.model.clone(layer_scale_init_value=None), found.params
        )
    with pytest.raises(InputError, match="4 labels for 5 classes"):
        convnext.save_pretrained(tmp_path / "out", found.model, found.params, labels="abcd")
    with pytest.raises(InputError, match="format is 'coreml'; accepted: transformers, timm"):
        convnext.save_pretrained(tmp_path / "out", found.model, found.params, format="coreml")
    assert not (tmp_path / "out").exists()


def test_layer_scale_that_begins_at_zero_is_exported(tmp_path):
    found = pretrained.load(FOLDER / "transformers_ConvNext")
    model = found.model.clone(layer_scale_init_value=0.0)
    convnext.save_pretrained(tmp_path, model, found.params)
    assert json.loads((tmp_path / "config.json").read_text())["layer_scale_init_value"] > 0
    _, params = convnext.from_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, found.params)


def test_an_export_leaves_nothing_of_an_earlier_one(tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    convnext.save_pretrained(tmp_path, found.model, found.params)
    (tmp_path / "model.pth").write_bytes(b"of an earlier official export")
    processor = convnext.ImageProcessor(size=400, crop_mode="center")
    convnext.save_pretrained(
        tmp_path, found.model, found.params, format="timm", processor=processor
    )
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert pretrained.load(tmp_path).processor.size == 400


def test_an_export_that_cannot_be_written_is_named(tmp_path):
    found = pretrained.load(FOLDER / "official_v1.pth")
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot write to .*file"):
            convnext.save_pretrained(folder, found.model, found.params)
