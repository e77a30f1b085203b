import json

import jax
import numpy as np
import pytest
from PIL import Image

from convnext import ConvNextFeatureExtractor, ConvNextImageProcessor, ImageProcessor
from tests.helpers.inputs import refused


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (50, 73, 3), dtype=np.uint8)


def test_it_prepares_as_the_processor_of_this_project_with_the_channels_first(image):
    processor = ConvNextImageProcessor(size=64)
    ours = ImageProcessor(64, image_mean=(0.5,) * 3, image_std=(0.5,) * 3, crop_rounding="floor")
    expected = ours.preprocess([image, image], data_format="channels_first")
    batch = processor([image, image], return_tensors="np")
    assert list(batch) == ["pixel_values"] and batch["pixel_values"] is batch.pixel_values
    np.testing.assert_array_equal(batch.pixel_values, expected)
    each = processor([image, image]).pixel_values
    assert isinstance(each, list) and len(each) == 2
    np.testing.assert_array_equal(each[1], expected[1])
    assert isinstance(processor(image, return_tensors="jax").pixel_values, jax.Array)
    with pytest.raises(AttributeError, match="labels"):
        _ = batch.labels


def test_levels_may_be_floats_and_images_of_pillow(image):
    processor = ConvNextImageProcessor(size=64)
    expected = processor(image, return_tensors="np").pixel_values
    for given in (image.astype(np.float32), Image.fromarray(image), image.transpose(2, 0, 1),
                  [image.astype(np.float64)], image / np.float32(255)):  # fmt: skip
        np.testing.assert_array_equal(processor(given, return_tensors="np").pixel_values, expected)


def test_a_call_may_have_values_of_its_own(image):
    processor = ConvNextImageProcessor(size=64)
    changes = dict(size={"shortest_edge": 32}, image_mean=0.1, image_std=[0.2] * 3, crop_pct=0.5)
    other = ConvNextImageProcessor(**changes)
    np.testing.assert_array_equal(
        processor(image, return_tensors="np", **changes).pixel_values,
        other(image, return_tensors="np").pixel_values,
    )
    assert processor.size == {"shortest_edge": 64}


def test_what_it_writes_it_reads(tmp_path):
    processor = ConvNextImageProcessor(size=64, crop_pct=0.9, image_mean=(0.1, 0.2, 0.3), note="x")
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert written == processor.to_dict()
    assert written["image_processor_type"] == "ConvNextImageProcessor"
    assert written["size"] == {"shortest_edge": 64} and written["note"] == "x"
    again = ConvNextImageProcessor.from_pretrained(tmp_path, do_normalize=False)
    assert (again.size, again.crop_pct, again.do_normalize) == ({"shortest_edge": 64}, 0.9, False)


@pytest.mark.parametrize(
    "given, message",
    [
        (
            dict(size={"height": 3, "width": 3}),
            "size is .*; accepted: an integer, or {.short",
        ),
        (dict(size=0), "size is 0; accepted: an integer from 1"),
        (dict(crop_pct=2.0), "crop_pct is 2.0; accepted: a number"),
        (dict(image_mean=[0.5]), "image_mean is .*; accepted: 3 numbers"),
    ],
)
def test_values_that_make_no_image_are_refused(given, message):
    refused(message, ConvNextImageProcessor, **given)


def test_tensors_of_other_libraries_are_refused(image):
    refused("return_tensors is 'pt'; accepted: None, 'np' or 'jax'",
            ConvNextImageProcessor(size=64), image, return_tensors="pt")  # fmt: skip
    refused("cannot use the image nowhere.jpg", ConvNextImageProcessor(size=64), "nowhere.jpg")


def test_the_earlier_name_warns():
    with pytest.warns(FutureWarning, match="is called ConvNextImageProcessor now"):
        assert ConvNextFeatureExtractor(size=64).size == {"shortest_edge": 64}
