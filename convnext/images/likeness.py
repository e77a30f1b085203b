"""Whether two images show one picture, though one was encoded again, resized or cropped a little.

Each image is described once, by thumbnails of a few kilobytes. To compare two, the window of one
that the other shows is found from coarse to fine. Then brightness, colours and details must agree
everywhere, so that two letters on one background are two pictures.

The limits were set between copies of 900 images (JPEG of quality 40, half size, a crop of 5 %, a
flip, and two of these) and the most similar of 12,000 images that are no copies: photographs,
drawings and parts of them, shapes, letters, pages of text, digits, articles of clothing.
"""

from typing import NamedTuple

import cv2
import numpy as np

from convnext.images import windows
from convnext.images.windows import CELL, COARSE, COARSEST, SIDE

CHROMA = 32  # side of the thumbnails of colours, pixels
# Copies agree in waves of what the smaller image has, and of little more: of 1.2 pixels of the
# thumbnail for each of the image's.
OVERSAMPLED = 1.2
MIN_DETAIL = 0.67  # correlation of details; copies: from 0.71, the same letter drawn twice: to 0.63
MAX_TINT = 3.0  # levels of Cb and Cr; quality 40 rounds them by 1.3 each; copies: to 2.7
MAX_TINT_SMALL = 4.5  # the same for images below 54 pixels, whose colours JPEG halves; to 4.7
PLAIN = 3.0  # cells with detail below which an image shows nothing that could be recognised


class Thumbnails(NamedTuple):
    """What is known of N images; or of one image, without the first axis."""

    luma: np.ndarray  # uint8 [N, 128, 128], grey levels
    coarse: np.ndarray  # uint8 [N, 32, 32], the same
    chroma: np.ndarray  # int8 [N, 2, 32, 32], Cb and Cr, 0 where grey
    level: np.ndarray  # int16 [N], the finest side at which to compare: 16, 32, 64, 128; or 0
    is_plain: np.ndarray  # bool [N], without details to compare


def empty(count: int) -> Thumbnails:
    """Returns thumbnails of `count` images to fill in: 19 kB for each. Their level is 0."""
    return Thumbnails(
        np.zeros((count, SIDE, SIDE), np.uint8),
        np.zeros((count, COARSE, COARSE), np.uint8),
        np.zeros((count, 2, CHROMA, CHROMA), np.int8),
        np.zeros(count, np.int16),
        np.zeros(count, bool),
    )


def describe(image: np.ndarray, shorter: int | None = None) -> Thumbnails:
    """Describes one image, uint8 [H, W, 3].

    shorter: the shorter side of the image in pixels, where this is a reduced version of it.
    """
    least = min(image.shape[:2])
    shrinks = cv2.INTER_AREA if least >= SIDE else cv2.INTER_LINEAR
    pixels = cv2.resize(image.astype(np.float32), (SIDE, SIDE), interpolation=shrinks)
    # Thumbnails of two crops have their pixels in other places. Without finer waves than this
    # leaves, one can be interpolated from the other.
    pixels = cv2.GaussianBlur(pixels, (0, 0), 0.8)
    luma = pixels @ LUMA
    coarse = windows.halved(windows.halved(luma))
    tiny = cv2.resize(pixels, (CHROMA, CHROMA), interpolation=cv2.INTER_AREA)
    grey = tiny @ LUMA
    blue, red = 0.564 * (tiny[..., 2] - grey), 0.713 * (tiny[..., 0] - grey)  # as in JPEG, too
    level = SIDE
    while level > COARSEST and level > OVERSAMPLED * (least if shorter is None else shorter):
        level //= 2
    details = luma
    while len(details) > level:
        details = windows.halved(details)
    return Thumbnails(
        np.rint(luma).astype(np.uint8),
        np.rint(coarse).astype(np.uint8),
        np.clip(np.rint([blue, red]), -128, 127).astype(np.int8),
        np.int16(level),
        _detailed_cells(details) < PLAIN,
    )


LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G, B, as in JPEG (ITU-R BT.601)


def coarsest(thumbnails: Thumbnails) -> np.ndarray:
    """Returns luma, Cb and Cr at the coarsest side, float32 [N, 3, 16, 16]."""
    result = np.empty((len(thumbnails.level), 3, COARSEST, COARSEST), np.float32)
    for row, coarse, chroma in zip(result, thumbnails.coarse, thumbnails.chroma, strict=True):
        for values, image in zip(row, (coarse, *chroma), strict=True):
            values[:] = windows.halved(image.astype(np.float32))
    return result


def similarities(thumbnails: Thumbnails, pairs: np.ndarray) -> np.ndarray:
    """Compares pairs of images, int [P, 3]: two indices, and 1 to mirror the second image or 0.

    Returns the correlation of their details, MIN_DETAIL to 1, or 0 for two pictures: float32 [P].
    """
    luma, coarse, chroma, level, _ = thumbnails
    result = np.zeros(len(pairs), np.float32)
    margins = windows.search(luma, coarse, level, pairs)
    for row, swapped in np.argwhere(np.isfinite(margins[..., 0])):
        i, j, mirrored = pairs[row]
        turn = slice(None, None, -1 if mirrored else 1)
        whole, part = (luma[i], chroma[i]), (luma[j][:, turn], chroma[j][..., turn])
        if swapped:
            whole, part = part, whole
        similarity = _agreement(whole, part, min(level[i], level[j]), margins[row, swapped])
        result[row] = max(result[row], similarity)
    return result


def _agreement(whole, part, level, margins):
    """The similarity of a part and the window of the whole."""
    (luma, chroma), (other_luma, other_chroma) = whole, part
    a, b = windows.window(_reduced(luma, level), margins), _reduced(other_luma, level)
    tints = [
        _means(windows.window(color.astype(np.float32), margins) - other, CHROMA // 4)
        for color, other in zip(chroma, other_chroma, strict=True)
    ]
    if np.hypot(*tints).max() > (MAX_TINT if level > COARSE else MAX_TINT_SMALL):
        return 0
    similarity = _correlation(a, b, windows.edge_of(level))
    return similarity if similarity >= MIN_DETAIL else 0


def _reduced(luma, level):
    image = np.ascontiguousarray(luma, np.float32)
    while len(image) > level:
        image = windows.halved(image)
    return image


def _means(image, side):
    """Means over squares of this side."""
    count = len(image) // side
    return image.reshape(count, side, count, side).mean(axis=(1, 3))


def _correlation(a, b, edge):
    """Correlation within cells, a mean weighted by how much detail both have, up to 1. So the grain
    of a background counts as much as strong lines."""
    inside = slice(edge, edge + (len(a) - 2 * edge) // CELL * CELL)
    a, b = a[inside, inside], b[inside, inside]
    mean_a, mean_b = _means(a, CELL), _means(b, CELL)
    var_a = np.maximum(_means(a * a, CELL) - mean_a**2, 0)
    var_b = np.maximum(_means(b * b, CELL) - mean_b**2, 0)
    least = np.minimum(var_a, var_b)
    weights = least / (least + 4)
    correlations = (_means(a * b, CELL) - mean_a * mean_b) / np.sqrt(var_a * var_b + 1e-6)
    return (weights * correlations).sum() / (weights.sum() + 0.1)


def _detailed_cells(image):
    """Counts the cells with detail, those with little of it in part. What rounding leaves of a
    smooth cell counts nothing."""
    variances = _means(image * image, CELL) - _means(image, CELL) ** 2
    return (np.maximum(variances - 1, 0) / (np.maximum(variances, 0) + 4)).sum()
