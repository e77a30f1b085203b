"""Preparation of images of any kind for a published model.

Images are decoded to RGB, resized and cropped as uint8 by the evaluation transform of training,
then rescaled and normalised in float32. Pixel for pixel, this is timm's evaluation transform and
the Pillow backend of transformers.
"""

import dataclasses
import json
import numbers
import os
import re
from pathlib import Path
from typing import Any, Self

import numpy as np

from convnext.errors import InputError, require
from convnext.images import augment, decode

MAX_SIZE = 13_377  # pixels; a square of this side has as many pixels as a file may have
DATA_FORMATS = ("channels_last", "channels_first")
CONFIG_FILES = ("preprocessor_config.json", "config.json")  # of transformers, of timm
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # Pillow's 0 to 5
# Values that the image processors of transformers take if a file lacks the key.
DEFAULTS = {
    "ConvNext": dict(size=384, image_mean=(0.5,) * 3, image_std=(0.5,) * 3),
    "ViT": dict(size=224, image_mean=(0.5,) * 3, image_std=(0.5,) * 3, resample=2),
    "DINOv3ViT": dict(size=224, resample=2),
}


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """Preparation of an image for a model. The defaults are the paper's, at 224 pixels.

    Raises InputError for a field that is not as its comment says.
    """

    size: int = 224  # of the result, in pixels
    crop_pct: float = 224 / 256  # share of the resized side that the crop keeps
    resample: int = 3  # Pillow's number of the filter, 0 to 5: bicubic
    crop_mode: str | None = None  # None, "center" or "squash": see augment.eval_transform
    crop_rounding: str = "round"  # "round" (paper, timm) or "floor": see augment.center
    do_resize: bool = True  # and crop
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet, after rescaling
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        for name in ("image_mean", "image_std"):
            if isinstance(value := getattr(self, name), list | np.ndarray):
                object.__setattr__(self, name, tuple(value))
        is_size = is_number(self.size, numbers.Integral) and 1 <= self.size <= MAX_SIZE
        is_filter = is_number(self.resample, numbers.Integral) and 0 <= self.resample <= 5
        is_share = is_size and is_number(self.crop_pct) and 0 < self.crop_pct <= 1
        is_share = is_share and self.size <= self.crop_pct * MAX_SIZE
        for name, ok, accepted in (
            ("size", is_size, f"an integer from 1 to {MAX_SIZE}"),
            ("crop_pct", is_share, f"a number from size / {MAX_SIZE} to 1"),
            ("resample", is_filter, "an integer from 0 to 5"),
            ("crop_mode", self.crop_mode in augment.CROP_MODES, augment.CROP_MODES),
            ("crop_rounding", self.crop_rounding in augment.CROP_ROUNDINGS, augment.CROP_ROUNDINGS),
            ("do_resize", isinstance(self.do_resize, bool), "True, False"),
            ("do_rescale", isinstance(self.do_rescale, bool), "True, False"),
            ("rescale_factor", is_number(self.rescale_factor), "a number"),
            ("do_normalize", isinstance(self.do_normalize, bool), "True, False"),
            ("image_mean", _is_triple(self.image_mean), "3 numbers"),
            ("image_std", _is_triple(self.image_std, above=0), "3 numbers above 0"),
        ):
            require(ok, name, getattr(self, name), accepted)

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike) -> Self:
        """Reads the processor from a file, or a file in a folder: transformers'
        preprocessor_config.json or timm's config.json. Raises InputError with the path."""
        path = Path(source)
        if path.is_dir():
            paths = [path / name for name in CONFIG_FILES if (path / name).is_file()]
            require(paths, "the folder", source, f"one with {' or '.join(CONFIG_FILES)}")
            path = paths[0]
        try:
            return cls.from_config(json.loads(path.read_bytes()))
        except InputError as error:
            raise InputError(f"{path}: {error.problem}", error.accepted) from error
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot read {path}: {reason}", "a JSON file") from error

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the processor for the content of such a file. Of transformers' processors it
        knows ConvNext, ViT and DINOv3ViT, which resizes floats and differs by up to a grey level. A
        null counts as a missing key."""
        require(isinstance(config, dict), "the config", type(config).__name__, "a JSON object")
        is_timm = not config.keys().isdisjoint(("architecture", "pretrained_cfg", "input_size"))
        return cls(**(_timm_fields if is_timm else _transformers_fields)(config))

    def to_config(self) -> dict[str, Any]:
        """Returns the preprocessor_config.json of transformers' ConvNextImageProcessor. It has two
        more keys for from_config: crop_mode if set, and crop_rounding, which transformers fixes at
        "floor". Raises InputError if transformers has no such crop_mode."""
        size, crop_pct = int(self.size), float(self.crop_pct)
        warps = size >= 384 and int(size / crop_pct) == size
        ok = {None: True, "center": size < 384, "squash": warps}[self.crop_mode]
        accepted = "None; transformers warps from size 384 up, and below it crops the centre"
        require(ok, "crop_mode", self.crop_mode, accepted)
        config = dict(image_processor_type="ConvNextImageProcessor") | dataclasses.asdict(self)
        config |= dict(size={"shortest_edge": size}, crop_pct=crop_pct, resample=int(self.resample))
        config |= {name: list(map(float, config[name])) for name in ("image_mean", "image_std")}
        return {name: value for name, value in config.items() if value is not None}

    def preprocess(
        self,
        images: Any,
        *,
        data_format: str = "channels_last",
        input_data_format: str | None = None,
        **overrides: Any,
    ) -> np.ndarray:
        """Returns float32 [N, size, size, 3], or [N, 3, size, size] with data_format
        "channels_first".

        images: one image, a list or tuple of images, or an array [N, H, W, C]. An image is a path
        or the bytes of a file, rotated by its EXIF data; or, taken as it is, a PIL image or an
        array [H, W], [H, W, C] or [C, H, W] with C 1, 3 or 4, of uint8, bool, uint16 (65535 is
        white) or floats in [0, 1]. If both the first and the last axis could be C, the last is,
        unless input_data_format is "channels_first". Alpha is dropped.

        overrides: values of fields for this call. Raises InputError if an image or a value cannot
        be used.
        """
        fields = [field.name for field in dataclasses.fields(self)]
        for name in overrides:
            require(name in fields, "the keyword", name, ", ".join(fields))
        require(data_format in DATA_FORMATS, "data_format", data_format, DATA_FORMATS)
        accepted = (None, *DATA_FORMATS)
        require(input_data_format in accepted, "input_data_format", input_data_format, accepted)
        this = dataclasses.replace(self, **overrides)
        if not isinstance(images, list | tuple):
            is_batch = decode.is_array(images) and np.ndim(images) == 4
            images = np.asarray(images) if is_batch else [images]
        require(len(images), "the number of images", len(images), "1 or more")
        pixels = [this._pixels(image, input_data_format) for image in images]
        shapes = sorted({array.shape for array in pixels})
        require(len(shapes) == 1, "do_resize is False and shapes", shapes, "one shape")
        levels = np.arange(256) * (float(this.rescale_factor) if this.do_rescale else 1)
        x = levels.astype(np.float32)[np.stack(pixels)]
        if this.do_normalize:
            x -= np.float32(this.image_mean)
            x /= np.float32(this.image_std)
        return x if data_format == "channels_last" else np.ascontiguousarray(np.moveaxis(x, -1, 1))

    def _pixels(self, image, input_data_format):
        """Returns uint8 [size, size, 3] of an image; without do_resize it keeps its own size."""
        try:
            pixels = decode.decode(image, input_data_format)
            if self.do_resize:
                names = ("crop_pct", "crop_mode", "crop_rounding", "resample")
                keywords = {name: getattr(self, name) for name in names}
                pixels = augment.eval_transform(pixels, image_size=self.size, **keywords)
            return pixels.copy()  # a view would keep the whole image in memory
        except InputError as error:
            name = image if isinstance(image, str | os.PathLike) else f"({type(image).__name__})"
            name = f"(bytes of {len(image)})" if isinstance(image, bytes) else name
            problem = f"cannot use the image {name}: {error.problem}"
            raise InputError(problem, error.accepted) from error


def _timm_fields(config):
    config = config.get("pretrained_cfg") or config
    require(isinstance(config, dict), "pretrained_cfg", config, "a JSON object")
    config = {name: value for name, value in config.items() if value}  # as timm does
    shape = config.get("input_size", [3, 224, 224])
    ok = isinstance(shape, list) and len(shape) == 3 and shape[1] == shape[2]
    require(ok, "input_size", shape, "[channels, size, size]")
    name = config.get("interpolation", "bicubic")
    require(name in FILTERS, "interpolation", name, FILTERS)
    fields = dict(size=shape[1], resample=FILTERS.index(name))
    fields["crop_mode"] = config.get("crop_mode", "center")
    names = dict(crop_pct="crop_pct", mean="image_mean", std="image_std")
    return fields | {names[name]: config[name] for name in names.keys() & config.keys()}


def _transformers_fields(config):
    config = {name: value for name, value in config.items() if value is not None}
    names = [field.name for field in dataclasses.fields(ImageProcessor)]
    kind = config.get("image_processor_type", config.get("feature_extractor_type"))
    if kind is None and config.keys() & set(names):
        kind = "ConvNextImageProcessor"
    family = re.sub(r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)$", "", str(kind))
    accepted = ", ".join(f"{name}ImageProcessor" for name in DEFAULTS)
    require(family in DEFAULTS, "image_processor_type", kind, accepted)
    config = dict(crop_rounding="floor") | DEFAULTS[family] | config
    fields = {name: config[name] for name in names if name in config}
    match config["size"], family:
        case ({"shortest_edge": int(size)} | int(size), "ConvNext"):
            fields |= dict(size=size)
        case ({"height": int(size), "width": int(width)}, _) if width == size:
            fields |= dict(size=size, crop_mode="squash", crop_pct=1.0)
        case (int(size), _):
            fields |= dict(size=size, crop_mode="squash", crop_pct=1.0)
        case given, _:
            accepted = "an integer, equal height and width, or, for ConvNext, shortest_edge"
            raise InputError(f"size is {given!r}", accepted)
    if config.get("do_center_crop"):
        crop = config.get("crop_size")
        ok = crop in (size, dict(height=size, width=size)) and config.get("do_resize", True)
        require(ok, "do_center_crop is True and crop_size", crop, f"{size} after do_resize")
    return fields


def is_number(value: Any, kind: type = numbers.Real) -> bool:
    """Returns whether it is of this kind and a finite number in float32."""
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) < 3e38


def _is_triple(value, above=-3e38):
    is_triple = isinstance(value, tuple) and len(value) == 3
    return is_triple and all(is_number(x) and x > above for x in value)
