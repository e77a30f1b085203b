"""The classes that have the names of transformers, beside those."""

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import convnext
from tests.parity import oracles

SIDES = (70, 83)  # which 32 does not divide
LABELS = {
    "single_label_classification": np.array([1, 4]),
    "multi_label_classification": np.array([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]], np.float32),
    "regression": np.array([[0.5, -1, 2, 0, 3], [1, 2, 3, 4, 5]], np.float32),
}


def theirs_and_ours(version, name, folder, **options):
    """A model of theirs with random weights, and ours of the folder in which it was saved."""
    config = getattr(transformers, f"ConvNext{version}Config")(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=64, **options
    )
    theirs = getattr(transformers, f"ConvNext{version}{name}")(config)
    oracles.randomise(theirs, seed=3)
    theirs.save_pretrained(folder)
    return theirs.eval(), getattr(convnext, f"ConvNext{version}{name}").from_pretrained(folder)


def images(seed=0):
    return np.random.default_rng(seed).normal(size=(2, 3, *SIDES)).astype(np.float32)


def assert_equal(ours, theirs):
    """Of an array, or of each in a tuple."""
    if isinstance(theirs, tuple):
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
        return
    reference = theirs.detach().numpy()
    assert np.abs(ours - reference).max() < 3e-6 * max(np.abs(reference).max(), 1)


@pytest.mark.parametrize("version", ["", "V2"])
@pytest.mark.parametrize("kind", LABELS)
def test_logits_maps_and_losses(version, kind, tmp_path):
    theirs, ours = theirs_and_ours(version, "ForImageClassification", tmp_path, num_labels=5)
    theirs.config.problem_type = ours.config.problem_type = kind
    given = dict(output_hidden_states=True)
    reference = theirs(torch.from_numpy(images()), torch.from_numpy(LABELS[kind]), **given)
    output = ours(images(), LABELS[kind], **given)
    assert list(output) == list(reference) == ["loss", "logits", "hidden_states"]
    assert_equal(output.to_tuple(), reference.to_tuple())


@pytest.mark.parametrize("version", ["", "V2"])
@pytest.mark.parametrize("labels", [LABELS[kind] for kind in ("single_label_classification",
                                    "multi_label_classification")])  # fmt: skip
def test_the_loss_is_that_of_the_labels_where_the_config_names_none(version, labels, tmp_path):
    theirs, ours = theirs_and_ours(version, "ForImageClassification", tmp_path, num_labels=5)
    reference = theirs(torch.from_numpy(images()), torch.from_numpy(labels))
    assert_equal(ours(images(), labels).loss, reference.loss)
    assert ours.config.problem_type is None  # theirs was written into by the call


@pytest.mark.parametrize("version", ["", "V2"])
def test_a_model_without_a_head(version, tmp_path):
    theirs, ours = theirs_and_ours(version, "Model", tmp_path)
    reference = theirs(torch.from_numpy(images()), output_hidden_states=True)
    output = ours(images(), output_hidden_states=True)
    assert list(output) == list(reference)
    assert_equal(output.to_tuple(), reference.to_tuple())


@pytest.mark.parametrize("version", ["", "V2"])
def test_no_labels_give_the_pooled_features(version, tmp_path):
    theirs, ours = theirs_and_ours(version, "ForImageClassification", tmp_path, num_labels=0)
    assert_equal(ours(images()).logits, theirs(torch.from_numpy(images())).logits)


@pytest.mark.parametrize("version", ["", "V2"])
def test_what_was_trained_and_saved_here_is_loaded_there(version, tmp_path):
    _, ours = theirs_and_ours(version, "ForImageClassification", tmp_path / "a", num_labels=5)
    gradient = jax.grad(lambda params: ours(images(), np.array([1, 2]), params=params).loss)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, ours.params, gradient(ours.params))
    ours.save_pretrained(tmp_path / "b", params)
    kind = transformers.AutoModelForImageClassification
    theirs = kind.from_pretrained(tmp_path / "b").eval()
    assert theirs.config.id2label == ours.config.id2label
    assert_equal(ours(images(), params=params).logits, theirs(torch.from_numpy(images())).logits)


@pytest.mark.parametrize(
    "changes",
    [{}, {"size": {"shortest_edge": 40}}, {"size": {"shortest_edge": 400}}, {"crop_pct": 0.5},
     {"do_resize": False}, {"do_rescale": False}, {"do_normalize": False}, {"resample": 2},
     {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}, {"rescale_factor": 0.01}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("size", [64, 384])
def test_pixels(size, changes, tmp_path):
    theirs = transformers.ConvNextImageProcessorPil(size={"shortest_edge": size})
    theirs.save_pretrained(tmp_path)
    ours = convnext.ConvNextImageProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (50, 73, 3), dtype=np.uint8)
    for given in (image, Image.fromarray(image), image.astype(np.float32)):
        reference = theirs(given, return_tensors="np", **changes)["pixel_values"]
        np.testing.assert_array_equal(
            ours(given, return_tensors="np", **changes).pixel_values, reference
        )


def test_the_defaults_of_the_processor_and_the_configs():
    pixels = np.random.default_rng(0).integers(0, 256, (450, 400, 3), dtype=np.uint8)
    theirs = transformers.ConvNextImageProcessorPil()
    np.testing.assert_array_equal(
        convnext.ConvNextImageProcessor()(pixels, return_tensors="np").pixel_values,
        theirs(pixels, return_tensors="np")["pixel_values"],
    )
    for name in ("ConvNextConfig", "ConvNextV2Config"):
        fields = getattr(transformers, name)().to_dict()
        ours = getattr(convnext, name)()
        for field in ("num_channels", "patch_size", "num_stages", "hidden_act", "model_type",
                      "initializer_range", "layer_norm_eps", "drop_path_rate", "image_size",
                      "out_features", "out_indices"):  # fmt: skip
            assert ours.to_dict()[field] == fields[field], field
        assert ours.depths == list(fields["depths"])
        assert ours.hidden_sizes == list(fields["hidden_sizes"])
        assert ours.num_labels == getattr(transformers, name)().num_labels == 2


def test_a_pipeline_names_an_image_as_theirs(tmp_path):
    theirs, _ = theirs_and_ours("", "ForImageClassification", tmp_path, num_labels=5)
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 64})
    processor.save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 73, 3), dtype=np.uint8))
    named = transformers.pipeline("image-classification", model=theirs, image_processor=processor)
    ours = convnext.pipeline("image-classification", model=tmp_path)
    for given in (image, [image, image]):
        expected, found = named(given, top_k=3), ours(given, top_k=3)
        for one, other in zip(np.ravel(found), np.ravel(expected), strict=True):
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-6)
