"""What RandAugment and its like do to an image: uint8 [H, W, 3] -> the same.

Those on colours give Pillow's pixels. The geometric ones, whose coordinates are Pillow's too, take
OpenCV's bicubic filter: three times as fast, and on a photograph within 1 grey level of Pillow's on
average. `fill` is the colour, RGB, of what comes in from outside.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

LEVELS = np.arange(256)


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Each channel stretched to 0 to 255."""
    return _by_level(image, [_stretched(np.flatnonzero(counts)) for counts in _histograms(image)])


def _stretched(used):
    low, high = int(used[0]), int(used[-1])
    if low == high:
        return LEVELS
    scale = 255.0 / (high - low)
    return np.clip((LEVELS * scale + -low * scale).astype(int), 0, 255)


def equalize(image: np.ndarray) -> np.ndarray:
    """Each channel's histogram made flat."""
    return _by_level(image, [_flattened(counts) for counts in _histograms(image)])


def _flattened(counts):
    used = counts[counts > 0]
    step = int(used[:-1].sum()) // 255
    if step == 0:
        return LEVELS
    return np.minimum((step // 2 + np.cumsum(counts) - counts) // step, 255)


def invert(image: np.ndarray) -> np.ndarray:
    """The negative."""
    return 255 - image


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """The highest 0 to 8 bits of each value; with 0 a black image."""
    return image & np.uint8(256 - 2 ** (8 - bits))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Values from the threshold up, 0 to 256, inverted."""
    return _by_level(image, [np.where(threshold > LEVELS, LEVELS, 255 - LEVELS)])


def solarize_add(image: np.ndarray, add: int) -> np.ndarray:
    """`add`, 0 to 127, added to values below 128."""
    return _by_level(image, [np.where(LEVELS < 128, LEVELS + add, LEVELS)])


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the grey image by the factor: 0 is grey, 1 as it is."""
    return np.asarray(ImageEnhance.Color(_picture(image)).enhance(factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the mean grey level by the factor."""
    grey = int(np.asarray(_picture(image).convert("L")).mean() + 0.5)
    return _by_level(image, [_blended(grey, LEVELS, factor)])


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from black by the factor."""
    return _by_level(image, [_blended(0, LEVELS, factor)])


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the smoothed image by the factor."""
    smooth = cv2.filter2D(image, -1, SMOOTH)
    for edge in (0, -1):
        smooth[edge], smooth[:, edge] = image[edge], image[:, edge]
    return _blended(smooth, image, factor)


SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def _blended(start, end, factor):
    """From start, at 0, past end, at 1: in float32 and cut off after the point, as Pillow does."""
    start = np.float32(start)
    values = start + np.float32(factor) * (np.float32(end) - start)
    return np.clip(values, 0, 255).astype(np.uint8)


def _histograms(image):
    return [cv2.calcHist([image], [i], None, [256], [0, 256]).ravel().astype(int) for i in range(3)]


def _by_level(image, tables):
    """Each level replaced by that of the table, of one for all channels or one for each."""
    table = np.stack(tables, axis=-1).astype(np.uint8)
    return cv2.LUT(image, table[:, None] if len(tables) == 3 else table)


def gaussian_blur(image: np.ndarray, radius: float) -> np.ndarray:
    """radius: the deviation, in pixels."""
    return np.asarray(_picture(image).filter(ImageFilter.GaussianBlur(radius)))


def rotate(image: np.ndarray, degrees: float, fill: Sequence[int]) -> np.ndarray:
    """Counter-clockwise about the centre."""
    height, width = image.shape[:2]
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return _affine(
        image, (cos, -sin, x - x * cos + y * sin), (sin, cos, y - x * sin - y * cos), fill
    )


def shear_x(image: np.ndarray, slope: float, fill: Sequence[int]) -> np.ndarray:
    """Row y moved by slope * y pixels to the left."""
    return _affine(image, (1, slope, 0), (0, 1, 0), fill)


def shear_y(image: np.ndarray, slope: float, fill: Sequence[int]) -> np.ndarray:
    """Column x moved by slope * x pixels up."""
    return _affine(image, (1, 0, 0), (slope, 1, 0), fill)


def translate_x(image: np.ndarray, share: float, fill: Sequence[int]) -> np.ndarray:
    """To the left, by a share of the width."""
    return _affine(image, (1, 0, share * image.shape[1]), (0, 1, 0), fill)


def translate_y(image: np.ndarray, share: float, fill: Sequence[int]) -> np.ndarray:
    """Up, by a share of the height."""
    return _affine(image, (1, 0, 0), (0, 1, share * image.shape[0]), fill)


def _affine(image, row_x, row_y, fill):
    """The rows map a point of the result, (x, y, 1), to one of the image. A pixel's centre has
    coordinates of a half for Pillow, and whole ones for OpenCV."""
    matrix = np.array([row_x, row_y])
    matrix[:, 2] += 0.5 * (matrix[:, 0] + matrix[:, 1]) - 0.5
    return cv2.warpAffine(
        image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT, borderValue=tuple(fill),
    )  # fmt: skip


def _picture(image):
    return Image.fromarray(np.ascontiguousarray(image))
