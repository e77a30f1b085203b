"""ImageProcessor against timm's evaluation transform and the Pillow backend of transformers."""

import json

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform
from transformers import ConvNextImageProcessorPil

from convnext.images.processor import ImageProcessor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROCESSOR_SIZES = (64, 224, 256, 288, 384)
CROP_PCTS = (0.875, 0.95, 1.0)


def images(size, crop_pct):
    """Of 20 random shapes, and with each margin modulo 4 on the long side; fine texture on coarse,
    since fine texture alone is grey when it is made smaller."""
    rng = np.random.default_rng(0)
    short = int(size / crop_pct)
    shapes = [*rng.integers(30, 501, (20, 2)), *((short, short + extra) for extra in range(4))]
    for height, width in shapes:
        coarse = rng.integers(0, 128, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        coarse = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
        yield Image.fromarray(coarse + rng.integers(0, 128, coarse.shape, dtype=np.uint8))


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("crop_pct", CROP_PCTS)
@pytest.mark.parametrize("size", PROCESSOR_SIZES)
def test_pixels_and_floats_are_timms(tmp_path, size, crop_pct, crop_mode):
    keywords = dict(crop_pct=crop_pct, crop_mode=crop_mode, interpolation="bicubic")
    cfg = keywords | dict(input_size=(3, size, size), mean=MEAN, std=STD)
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": cfg}))
    processor = ImageProcessor.from_pretrained(tmp_path)
    if crop_mode == "center" and size < 384:  # what transformers' file can say
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor.to_config()))
        assert ImageProcessor.from_pretrained(tmp_path) == processor
    to_pixels, to_floats = (
        create_transform(**cfg, is_training=False, normalize=normalize)
        for normalize in (False, True)
    )
    for image in images(size, crop_pct):
        compare(processor, image, to_pixels(image)[None].numpy(), to_floats(image)[None].numpy())


@pytest.mark.parametrize("crop_pct", CROP_PCTS)
@pytest.mark.parametrize("size", PROCESSOR_SIZES)
def test_pixels_and_floats_are_those_of_transformers(tmp_path, size, crop_pct):
    """Both read the file that the other wrote."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    keywords = dict(crop_pct=crop_pct, image_mean=MEAN, image_std=STD)
    ConvNextImageProcessorPil(size={"shortest_edge": size}, **keywords).save_pretrained(theirs)
    processor = ImageProcessor.from_pretrained(theirs)
    assert processor == ImageProcessor(size=size, crop_rounding="floor", **keywords)
    (ours / "preprocessor_config.json").write_text(json.dumps(processor.to_config()))
    assert ImageProcessor.from_pretrained(ours) == processor
    reference = ConvNextImageProcessorPil.from_pretrained(ours)
    raw = dict(do_rescale=False, do_normalize=False, return_tensors="np")
    for image in images(size, crop_pct):
        pixels = reference(image, **raw)["pixel_values"]
        floats = reference(image, return_tensors="np")["pixel_values"]
        compare(processor, image, pixels, floats)


def compare(processor, image, pixels, floats):
    """pixels uint8 and floats [1, 3, H, W] are what the processor gives."""
    keywords = dict(data_format="channels_first")
    unscaled = processor.preprocess(image, do_rescale=False, do_normalize=False, **keywords)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(unscaled, pixels)
    result = processor.preprocess(image, **keywords)
    np.testing.assert_allclose(result, floats, atol=1e-6, rtol=0)
