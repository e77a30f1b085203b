import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnext.images import augment
from convnext.images import processor as preprocessing
from convnext.images.processor import ImageProcessor
from tests.helpers.inputs import noise, refused

REFERENCE = np.load(Path(__file__).parents[1] / "fixtures" / "preprocessing.npz")
CASES = sorted({name.rsplit("/", 2)[0] for name in REFERENCE if not name.startswith("image/")})
IMAGES = sorted(name.removeprefix("image/") for name in REFERENCE if name.startswith("image/"))
RAW = dict(do_resize=False, do_rescale=False, do_normalize=False)
WHITE = (1 - np.array([0.485, 0.456, 0.406])) / [0.229, 0.224, 0.225]


# The result, against timm and transformers.


def test_every_case_of_the_reference_is_compared():
    assert len(CASES) == 12 and IMAGES == ["grey", "large", "tall", "wide"]


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("case", CASES)
def test_pixels_and_floats_are_those_of_timm_and_of_transformers(case, image):
    mode, size, crop_pct = case.split("/")
    keywords = dict(size=int(size), crop_pct=float(crop_pct))
    if mode == "transformers":
        processor = ImageProcessor(**keywords, crop_rounding="floor")
    else:
        processor = ImageProcessor(**keywords, crop_mode=mode)
    pixels = REFERENCE[f"image/{image}"]
    unscaled = processor.preprocess(pixels, do_rescale=False, do_normalize=False)
    assert zlib.crc32(unscaled.astype(np.uint8)) == REFERENCE[f"{case}/{image}/crc32"]
    grid = processor.preprocess(pixels)[0, :: int(size) // 8, :: int(size) // 8]
    np.testing.assert_allclose(grid, REFERENCE[f"{case}/{image}/floats"], atol=1e-6, rtol=0)


def test_the_paper_cuts_the_centre_below_384_pixels_and_warps_from_there():
    image = noise(60, 90, 3)
    for size, mode in ((383, "center"), (384, "squash")):
        expected = ImageProcessor(size=size, crop_pct=1.0, crop_mode=mode).preprocess(image)
        processor = ImageProcessor(size=size, crop_pct=1.0 if size < 384 else 0.5)
        np.testing.assert_array_equal(processor.preprocess(image), expected)


def test_the_defaults_are_the_papers():
    processor = ImageProcessor()
    assert (processor.size, processor.crop_pct, processor.resample) == (224, 224 / 256, 3)
    white, black = processor.preprocess([Image.new("RGB", (9, 8), c) for c in ("white", "black")])
    np.testing.assert_allclose(white[0, 0], WHITE, rtol=1e-6)
    np.testing.assert_allclose(black[0, 0], [-2.117904, -2.035714, -1.804444], rtol=1e-6)


@pytest.mark.parametrize(
    "margin, rounded, floored", [(0, 0, 0), (1, 0, 0), (3, 2, 1), (4, 2, 2), (5, 2, 2), (7, 4, 3)]
)
def test_round_and_floor_differ_where_the_margin_is_3_modulo_4(margin, rounded, floored):
    for rounding, first in (("round", rounded), ("floor", floored)):
        rows, columns = augment.center(8 + margin, 9, 8, rounding=rounding)
        assert (rows, columns) == (slice(first, first + 8), slice(0, 8))
    refused("crop_rounding is 'up'", augment.center, 9, 9, 8, rounding="up")


def test_evaluation_while_training_knows_the_same_modes():
    image, keywords = noise(60, 90, 3), dict(size=32, crop_mode="squash", crop_rounding="floor")
    pixels = ImageProcessor(**keywords, do_rescale=False, do_normalize=False).preprocess(image)
    keywords = dict(image_size=32, crop_mode="squash", crop_rounding="floor")
    np.testing.assert_array_equal(augment.eval_transform(image, **keywords), pixels[0])
    refused(
        "crop_mode is 'border'", augment.eval_transform, image, image_size=8, crop_mode="border"
    )


# What it takes and gives.


def test_one_image_or_several_of_any_sizes_make_one_batch():
    processor, image = ImageProcessor(size=16), noise(20, 30, 3)
    one = processor.preprocess(image)
    assert one.shape == (1, 16, 16, 3) and one.dtype == np.float32
    several = processor.preprocess((noise(40, 17, 3, seed=1), Image.fromarray(image)))
    assert several.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(several[1], one[0])
    batch = processor.preprocess(np.stack([image, image[::-1]]))
    np.testing.assert_array_equal(batch[0], one[0])
    assert batch.shape == (2, 16, 16, 3)
    refused("the number of images is 0", processor.preprocess, [])


def test_channels_come_first_when_asked():
    image = noise(20, 30, 3)
    first = ImageProcessor(size=16).preprocess(image, data_format="channels_first")
    assert first.shape == (1, 3, 16, 16) and first.flags.c_contiguous
    last = ImageProcessor(size=16).preprocess(image)
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))
    refused("data_format is 'NCHW'", ImageProcessor().preprocess, image, data_format="NCHW")


def test_settings_can_be_overridden_for_one_call():
    processor, image = ImageProcessor(size=16), noise(20, 30, 3)
    changes = dict(size=8, crop_pct=1.0, image_mean=[0.5] * 3, resample=0, crop_mode="squash")
    np.testing.assert_array_equal(
        processor.preprocess(image, **changes), ImageProcessor(**changes).preprocess(image)
    )
    assert processor == ImageProcessor(size=16)
    message = refused("keyword is 'image_size'", processor.preprocess, image, image_size=8)
    assert "size, crop_pct, resample, crop_mode" in message
    refused("size is 0", processor.preprocess, image, size=0)


def test_each_step_can_be_left_out():
    image = noise(20, 30, 3)
    np.testing.assert_array_equal(ImageProcessor(**RAW).preprocess(image)[0], image)
    scaled = ImageProcessor(do_resize=False, do_normalize=False).preprocess(image)[0]
    np.testing.assert_array_equal(scaled, (image / 255).astype(np.float32))
    normal = ImageProcessor(do_resize=False, do_rescale=False, image_mean=(1, 2, 3)).preprocess(
        image, image_std=(2, 2, 2)
    )
    np.testing.assert_array_equal(normal[0], (image - [1.0, 2.0, 3.0]) / 2)
    halved = ImageProcessor(**RAW | dict(do_rescale=True, rescale_factor=0.5)).preprocess(image)
    np.testing.assert_array_equal(halved[0], image / 2)


def test_without_resizing_all_images_have_one_size():
    images = [noise(4, 5, 3), noise(4, 6, 3)]
    refused(r"\(4, 5, 3\), \(4, 6, 3\)", ImageProcessor(**RAW).preprocess, images)


# Images too elongated to resize.


def test_an_image_too_elongated_to_resize_is_refused_before_it_is_resized():
    image = np.zeros((10, 60_000, 3), np.uint8)
    message = refused("60000 pixels wide and 10 high", ImageProcessor().preprocess, image)
    assert "1536000 wide and 256 high" in message
    assert ImageProcessor(crop_mode="squash").preprocess(image).shape == (1, 224, 224, 3)


def test_the_limit_of_an_elongated_image_is_pillows(monkeypatch):
    image = np.zeros((10, 100, 3), np.uint8)
    processor = ImageProcessor(size=8, crop_pct=1.0)  # by way of 80 x 8
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 320)
    assert processor.preprocess(image).shape == (1, 8, 8, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 319)
    refused("at most 638 pixels", processor.preprocess, image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert processor.preprocess(image).shape == (1, 8, 8, 3)


# Settings.


@pytest.mark.parametrize(
    "name, value",
    [
        *(("size", value) for value in (0, 224.0, True, "224", None, 13_378, 10**400)),
        *(("crop_pct", value) for value in (0, 1.01, float("nan"), None, 0.016, 5e-324)),
        *(("resample", value) for value in (-1, 6, 3.0, "bicubic")),
        *(("crop_mode", value) for value in ("border", "none")),
        *(("crop_rounding", value) for value in ("ceil", None)),
        *(("rescale_factor", value) for value in ("1/255", float("inf"), 10**400)),
        *(
            ("image_mean", value)
            for value in (0.5, (0.5, 0.5), ["a", "b", "c"], np.ones((3, 2, 2)))
        ),
        *(("image_std", value) for value in ((0.5,), (1, 1, 0), (1, 1, float("nan")))),
        *((name, 1) for name in ("do_resize", "do_rescale", "do_normalize")),
    ],
)
def test_a_setting_out_of_range_is_refused(name, value):
    refused(f"{name} is ", ImageProcessor, **{name: value})


def test_lists_and_arrays_of_three_numbers_become_tuples():
    processor = ImageProcessor(image_mean=[0.485, 0.456, 0.406], image_std=np.ones(3))
    assert processor == ImageProcessor(image_std=(1, 1, 1))
    assert len({processor, ImageProcessor(image_std=(1, 1, 1))}) == 1


# Files of settings.


def test_settings_of_transformers_are_read():
    config = {  # as published with facebook/convnext-tiny-224, and in version 5
        "crop_pct": 0.875,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": 224,
    }
    processor = ImageProcessor(crop_rounding="floor")
    assert ImageProcessor.from_config(config) == processor
    new = config | {"image_processor_type": "ConvNextImageProcessorFast", "do_center_crop": None}
    new |= {"size": {"shortest_edge": 224}, "feature_extractor_type": None}
    assert ImageProcessor.from_config(new) == processor
    assert ImageProcessor.from_config(config | {"crop_rounding": "round"}) == ImageProcessor()


def test_a_missing_key_takes_what_transformers_takes():
    half = dict(image_mean=(0.5,) * 3, image_std=(0.5,) * 3, crop_rounding="floor")
    convnext = ImageProcessor.from_config({"image_processor_type": "ConvNextImageProcessor"})
    assert convnext == ImageProcessor(size=384, **half)
    assert ImageProcessor.from_config({"crop_pct": None, "size": 384}) == convnext
    warp = dict(size=224, crop_mode="squash", crop_pct=1.0, resample=2)
    vit = ImageProcessor.from_config({"image_processor_type": "ViTImageProcessor"})
    assert vit == ImageProcessor(**warp | half)
    dino = ImageProcessor.from_config({"image_processor_type": "DINOv3ViTImageProcessorFast"})
    assert dino == ImageProcessor(**warp, crop_rounding="floor")


def test_a_height_and_a_width_mean_to_warp():
    config = {"size": {"height": 224, "width": 224}, "crop_pct": 0.875}
    processor = ImageProcessor.from_config(config)
    assert (processor.size, processor.crop_mode, processor.crop_pct) == (224, "squash", 1.0)
    vit = {"image_processor_type": "ViTImageProcessor"}
    assert ImageProcessor.from_config(vit | {"size": 224}) == ImageProcessor.from_config(vit)


@pytest.mark.parametrize(
    "config, message",
    [
        ([], "the config is 'list'"),
        ({}, "image_processor_type is None"),
        ({"model_type": "convnext", "image_size": 224}, "image_processor_type is None"),
        ({"image_processor_type": "CLIPImageProcessor"}, "'CLIPImageProcessor'"),
        ({"image_processor_type": "ViTHybridImageProcessor"}, "'ViTHybridImageProcessor'"),
        ({"image_processor_type": "ViTImageProcessorNew"}, "'ViTImageProcessorNew'"),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224}, "'CLIPFeatureExtractor'"),
        ({"size": {"height": 224, "width": 256}}, "size is"),
        ({"size": {"longest_edge": 224}}, "size is"),
        ({"size": "224"}, "size is '224'"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 224}}, "size is"),
        ({"size": 224, "do_center_crop": True}, "crop_size is None"),
        ({"size": 224, "do_center_crop": True, "crop_size": 192}, "crop_size is 192"),
        ({"size": 8, "do_center_crop": True, "crop_size": 8, "do_resize": False}, "crop_size is 8"),
        ({"do_resize": "yes"}, "do_resize is 'yes'"),
        ({"input_size": [224, 224]}, "input_size is"),
        ({"input_size": [3, 224, 256]}, "input_size is"),
        ({"input_size": 224}, "input_size is"),
        ({"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode is 'border'"),
        ({"pretrained_cfg": {"interpolation": "random"}}, "interpolation is 'random'"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "image_mean is"),
        ({"pretrained_cfg": 3}, "pretrained_cfg is 3"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(config, message):
    refused(message, ImageProcessor.from_config, config)


def test_a_crop_to_the_size_that_is_there_is_accepted():
    config = {"size": 224, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    assert ImageProcessor.from_config(config).size == 224
    assert ImageProcessor.from_config(config | {"crop_size": 224}).size == 224
    without = config | {"crop_size": 192, "do_center_crop": False}
    assert ImageProcessor.from_config(without).size == 224


def test_settings_of_timm_are_read():
    cfg = dict(input_size=[3, 288, 288], crop_pct=0.95, crop_mode="squash", interpolation="lanczos")
    cfg |= dict(mean=[0.5, 0.5, 0.5], std=[0.25, 0.5, 0.5], test_input_size=[3, 320, 320])
    processor = ImageProcessor(
        size=288, crop_pct=0.95, crop_mode="squash", resample=1, image_mean=(0.5,) * 3
    )
    config = {"architecture": "convnext_tiny", "pretrained_cfg": cfg}
    assert ImageProcessor.from_config(config).image_std == (0.25, 0.5, 0.5)
    del cfg["std"]
    assert ImageProcessor.from_config(config) == processor
    assert ImageProcessor.from_config(cfg) == processor  # as older files have it
    defaults = {"pretrained_cfg": {"crop_mode": "", "mean": None}}
    assert ImageProcessor.from_config(defaults) == ImageProcessor(crop_mode="center")


def test_resample_chooses_the_filter():
    image = noise(50, 30, 3)
    for resample in range(6):
        processor = ImageProcessor(size=16, crop_pct=1.0, crop_mode="squash", resample=resample)
        pixels = processor.preprocess(image, do_rescale=False, do_normalize=False)[0]
        expected = Image.fromarray(image).resize((16, 16), resample)
        np.testing.assert_array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize("number, name", list(enumerate(preprocessing.FILTERS)))
def test_the_names_of_the_filters_are_pillows(number, name):
    assert Image.Resampling[name.upper()] == number


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor(),
        ImageProcessor(
            crop_rounding="floor",
            size=np.int64(384),
            resample=np.int8(2),
            image_std=np.float32([1] * 3),
        ),
        ImageProcessor(crop_mode="center", do_resize=False, rescale_factor=0.5),
        ImageProcessor(crop_mode="squash", size=384, crop_pct=1.0, do_normalize=False),
    ],
)
def test_settings_survive_writing_and_reading(tmp_path, processor):
    config = processor.to_config()
    assert config["image_processor_type"] == "ConvNextImageProcessor"
    assert config["size"] == {"shortest_edge": processor.size}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert ImageProcessor.from_config(config) == processor
    assert ImageProcessor.from_pretrained(tmp_path) == processor
    assert ImageProcessor.from_pretrained(tmp_path / "preprocessor_config.json") == processor


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor(size=384, crop_mode="center"),
        ImageProcessor(size=383, crop_mode="squash", crop_pct=1.0),
        ImageProcessor(size=384, crop_mode="squash", crop_pct=0.95),
    ],
)
def test_what_transformers_cannot_do_is_not_written(processor):
    refused(f"crop_mode is '{processor.crop_mode}'", processor.to_config)


def test_a_folder_is_read_by_the_names_of_its_files(tmp_path):
    refused("the folder is .*preprocessor_config.json", ImageProcessor.from_pretrained, tmp_path)
    timm = {"pretrained_cfg": {"input_size": [3, 64, 64]}}
    (tmp_path / "config.json").write_text(json.dumps(timm))
    assert ImageProcessor.from_pretrained(str(tmp_path)).size == 64
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 96}))
    assert ImageProcessor.from_pretrained(tmp_path).size == 96


@pytest.mark.parametrize("content", [b"", b"{'size': 224}", b"\xff\xfe\xff", b"[" * 100_000])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "preprocessor_config.json"
    path.write_bytes(content)
    refused(f"cannot read {path}: ", ImageProcessor.from_pretrained, tmp_path)


def test_the_file_of_a_wrong_setting_is_named(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    refused(f"cannot read {path}: No such file", ImageProcessor.from_pretrained, path)
    path.write_text('{"size": 0}')
    refused(f"{path}: size is 0", ImageProcessor.from_pretrained, path)


def test_a_factor_may_be_a_large_integer():
    pixels = ImageProcessor(size=8, rescale_factor=10**30, do_normalize=False).preprocess(
        np.ones((8, 8, 3), np.uint8)
    )
    np.testing.assert_allclose(pixels, 1e30, rtol=1e-6)
