"""Transforms of an image of any size to the model's: uint8 [H, W, 3] -> uint8 [size, size, 3].

Everything random is drawn from the numpy Generator that is passed in.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from convnext.errors import InputError, require, require_range
from convnext.images import operations
from convnext.images.decode import Rows
from convnext.images.randaugment import RandAugment
from convnext.images.resample import bicubic

CROP_MODES = (None, "center", "squash")
CROP_ROUNDINGS = ("round", "floor")


def train_transform(
    image: np.ndarray | Rows,
    rng: np.random.Generator,
    *,
    image_size: int,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    crop_scale: tuple[float, float] | None = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    crop_padding: int | None = None,
    flip_prob: float = 0.5,
    randaugment: Mapping[str, Any] | None = None,
    three_augment: bool = False,
    color_jitter: float = 0.0,
    affine_degrees: float = 0.0,
    affine_translate: float = 0.0,
    affine_scale: tuple[float, float] = (1.0, 1.0),
    affine_shear: float = 0.0,
    gamma: float = 0.0,
) -> np.ndarray:
    """Applies the training augmentations, in this order: crop, flip, RandAugment, 3-Augment, colour
    jitter, gamma, affine.

    crop_scale: None resizes the whole image instead of a crop. crop_padding: pixels of a frame
    around the whole image, at most image_size, from which it is cropped (`random_crop`), as the
    official code does with images of 32 pixels and less. randaugment: fields of `RandAugment`,
    whose fill is `mean` unless given. mean: of the images, RGB, as fractions of 255; for the fill
    it is rounded as timm does.

    Raises InputError for a value out of range.
    """
    require(0 <= flip_prob <= 1, "augment.flip_prob", flip_prob, "0 to 1")
    for name, value, most in (
        ("crop_padding", crop_padding or 0, image_size),  # beyond it a crop may be all frame
        ("affine_degrees", affine_degrees, 180),
        ("affine_translate", affine_translate, 1),
        ("affine_shear", affine_shear, 89),
    ):
        require(0 <= value <= most, f"augment.{name}", value, f"0 to {most}")
    for name, value in dict(color_jitter=color_jitter, gamma=gamma).items():
        require(0 <= value < math.inf, f"augment.{name}", value, "0 and more")
    require_range("augment.crop_scale", (1, 1) if crop_scale is None else crop_scale, 0, 1)
    require_range("augment.crop_ratio", crop_ratio, 0, math.inf)
    require_range("augment.affine_scale", affine_scale, 0, math.inf)
    if crop_padding is None and crop_scale is not None:
        image = random_resized_crop(image, rng, image_size, scale=crop_scale, ratio=crop_ratio)
    else:
        image = resize(np.asarray(image), image_size, image_size)
    if crop_padding is not None:
        image = random_crop(image, rng, padding=crop_padding)
    image = random_flip(image, rng, prob=flip_prob)
    if randaugment is not None:
        fill = tuple(min(255, round(255 * level)) for level in mean)
        image = RandAugment(**{"fill": fill, **randaugment})(image, rng)
    if three_augment:
        image = random_three_augment(image, rng)
    if color_jitter:
        image = random_color_jitter(image, rng, strength=color_jitter)
    if gamma:
        image = random_gamma(image, rng, strength=gamma)
    if (affine_degrees, affine_translate, affine_shear, *affine_scale) != (0, 0, 0, 1, 1):
        image = random_affine(
            image,
            rng,
            degrees=affine_degrees,
            translate=affine_translate,
            scale=affine_scale,
            shear=affine_shear,
        )
    return image


def train(example: dict[str, Any], rng: np.random.Generator, **options: Any) -> dict[str, Any]:
    """Applies `train_transform` to the image of an example."""
    return example | {"image": train_transform(example["image"], rng, **options)}


def evaluate(example: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Applies `eval_transform` to the image of an example."""
    return example | {"image": eval_transform(example["image"], **options)}


def eval_transform(
    image: np.ndarray,
    *,
    image_size: int,
    crop_pct: float = 0.875,
    crop_mode: str | None = None,
    crop_rounding: str = "round",
    resample: int = Image.Resampling.BICUBIC,
    crops: int = 1,
) -> np.ndarray:
    """Applies the evaluation transform that crop_mode selects:

    None (the official code): from 384 pixels up the image is warped to the square, and crop_pct has
    no effect. Below, as "center".
    "center" (timm): the short side is resized to int(image_size / crop_pct), the centre cut out.
    "squash" (timm): both sides are resized to int(image_size / crop_pct), the centre cut out.

    resample and crop_rounding: see `resize` and `center`. With crops 5 the result is [5, size,
    size, 3]: the centre and the four corners of the resized image. Raises InputError for an image
    so elongated that it would have more pixels, once resized, than Pillow accepts of a file.
    """
    require(0 < crop_pct <= 1, "preprocess.crop_pct", crop_pct, "above 0, at most 1")
    height, width = image.shape[:2]
    short = int(image_size / crop_pct)
    if crop_mode not in CROP_MODES:
        raise InputError(f"preprocess.crop_mode is {crop_mode!r}", ", ".join(map(repr, CROP_MODES)))
    filters = range(len(Image.Resampling))
    require(resample in filters, "preprocess.resample", resample, f"0 to {filters[-1]}")
    if crop_mode is None and image_size >= 384:
        shape = image_size, image_size
    elif crop_mode == "squash":
        shape = short, short
    elif height <= width:
        shape = short, int(short * width / height)
    else:
        shape = int(short * height / width), short
    limit = Image.MAX_IMAGE_PIXELS  # None: the user has removed the limit
    if limit is not None and shape[0] * shape[1] > 2 * limit:  # as Pillow refuses a file
        raise InputError(
            f"an image {width} pixels wide and {height} high becomes {shape[1]} wide and "
            f"{shape[0]} high before it is cropped",
            f"at most {2 * limit} pixels then",
        )
    window = center(*shape, image_size, rounding=crop_rounding)
    if crops == 1:
        return resize(image, *shape, window, resample=resample)
    if crops != 5:
        raise InputError(f"crops is {crops}", "1, 5")
    rows, columns = ((slice(None, image_size), slice(side - image_size, None)) for side in shape)
    windows = [window, *itertools.product(rows, columns)]
    resized = resize(image, *shape, resample=resample)
    return np.stack([resized[window] for window in windows])


def random_resized_crop(
    image: np.ndarray | Rows,
    rng: np.random.Generator,
    size: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """Crops a random part and resizes it to [size, size]. Its area, as a share of the image's, is
    uniform in `scale`, its width / height log-uniform in `ratio`. After ten draws that do not fit
    it takes the largest central part within `ratio` (torchvision's RandomResizedCrop)."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width = round(math.sqrt(area * aspect))
        crop_height = round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = rng.integers(0, height - crop_height, endpoint=True)
            left = rng.integers(0, width - crop_width, endpoint=True)
            break
    else:
        aspect = min(max(width / height, ratio[0]), ratio[1])
        crop_width = min(width, round(height * aspect))
        crop_height = min(height, round(width / aspect))
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return resize(image[top : top + crop_height, left : left + crop_width], size, size)


def random_crop(image: np.ndarray, rng: np.random.Generator, *, padding: int) -> np.ndarray:
    """Frames the image with `padding` black pixels, and crops a random part of its original size
    (torchvision's RandomCrop)."""
    height, width = image.shape[:2]
    framed = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    top, left = rng.integers(2 * padding, size=2, endpoint=True)
    return framed[top : top + height, left : left + width]


def random_flip(image: np.ndarray, rng: np.random.Generator, *, prob: float) -> np.ndarray:
    """Mirrors the image left to right with probability `prob`."""
    return cv2.flip(image, 1) if rng.random() < prob else image


def random_three_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies 3-Augment (https://arxiv.org/abs/2204.07118): grey, values from 128 up inverted, or a
    blur of 0.1 to 2 pixels, with equal probabilities."""
    match rng.integers(3):
        case 0:
            return operations.color(image, 0.0)
        case 1:
            return operations.solarize(image, 128)
        case _:
            return operations.gaussian_blur(image, rng.uniform(0.1, 2.0))


def random_color_jitter(
    image: np.ndarray, rng: np.random.Generator, *, strength: float
) -> np.ndarray:
    """Changes brightness, contrast and saturation in random order, each by a factor uniform in
    [1 - strength, 1 + strength] and at least 0 (torchvision's ColorJitter)."""
    for index in rng.permutation(3):
        change = (operations.brightness, operations.contrast, operations.color)[index]
        image = change(image, rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return image


def random_gamma(image: np.ndarray, rng: np.random.Generator, *, strength: float) -> np.ndarray:
    """Raises levels, as fractions of 255, to the power exp(u), u uniform in [-strength, strength].

    White strokes on black become thicker or thinner.
    """
    levels = np.linspace(0, 1, 256) ** math.exp(rng.uniform(-strength, strength))
    return np.round(255 * levels).astype(np.uint8)[image]


def random_affine(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    degrees: float,
    translate: float,
    scale: tuple[float, float],
    shear: float,
) -> np.ndarray:
    """Applies about the centre a zoom of each axis in `scale`, a horizontal shear in
    [-shear, shear] degrees and a rotation in [-degrees, degrees], then a shift in
    [-translate, translate] of each side. The outside is black."""
    height, width = image.shape[:2]
    angle = math.radians(rng.uniform(-degrees, degrees))
    slant = math.tan(math.radians(rng.uniform(-shear, shear)))
    zoom_x, zoom_y = rng.uniform(*scale), rng.uniform(*scale)
    x = width * (0.5 + rng.uniform(-translate, translate))  # new place of the centre
    y = height * (0.5 + rng.uniform(-translate, translate))
    # Pillow takes the map from output to input pixels, so each is inverted: the shift, the
    # rotation, the shear and the zoom.
    cos, sin = math.cos(angle), math.sin(angle)
    a, b = (cos + slant * sin) / zoom_x, (sin - slant * cos) / zoom_x
    c, d = -sin / zoom_y, cos / zoom_y
    matrix = (a, b, width / 2 - a * x - b * y, c, d, height / 2 - c * x - d * y)
    picture = Image.fromarray(np.ascontiguousarray(image))
    moved = picture.transform(
        (width, height), Image.Transform.AFFINE, matrix, resample=Image.Resampling.BICUBIC
    )
    return np.asarray(moved)


def resize(
    image: np.ndarray,
    height: int,
    width: int,
    window: tuple[slice, slice] = (slice(None), slice(None)),
    *,
    resample: int = Image.Resampling.BICUBIC,
) -> np.ndarray:
    """Resizes to [height, width], antialiased, and returns the window of that, rows and columns.
    resample: one of Pillow's filters."""
    if image.shape[:2] == (height, width):
        return image[window]
    if resample == Image.Resampling.BICUBIC:
        return bicubic(image, height, width, window)
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), resample))[window]


def center(height: int, width: int, size: int, *, rounding: str = "round") -> tuple[slice, slice]:
    """Returns rows and columns of the central [size, size]. Half of an odd margin is rounded:
    "round" is half to even, as the paper's code, torchvision and timm do, "floor" is transformers'
    way. They differ by one pixel if the margin is 3 modulo 4."""
    margins = height - size, width - size
    match rounding:
        case "round":
            top, left = (round(margin / 2) for margin in margins)
        case "floor":
            top, left = (margin // 2 for margin in margins)
        case _:
            raise InputError(f"preprocess.crop_rounding is {rounding!r}", "'round', 'floor'")
    return slice(top, top + size), slice(left, left + size)
