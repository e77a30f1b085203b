"""Pillow's antialiased bicubic filter, pixel for pixel, at several times its speed.

Pillow computes in integers and pixel by pixel: first along one axis, rounded to uint8, then along
the other. Here both passes are sums of whole rows, one of them of the transposed image, so that a
processor adds many pixels at a time.
"""

import cv2
import numpy as np
import PIL

from convnext.images.compiled import compiled

PRECISION_BITS = 22  # of the weights, as in Pillow's Resample.c
PILLOW = int(PIL.__version__.partition(".")[0])


def bicubic(
    image: np.ndarray,
    height: int,
    width: int,
    window: tuple[slice, slice] = (slice(None), slice(None)),
) -> np.ndarray:
    """Resizes uint8 [H, W, 3] to [height, width, 3], and returns the window of that, rows and
    columns. Only the window's pixels are computed.

    The pixels are those of the installed Pillow. From version 13 on it begins with the other axis
    if the height shrinks by more than twice as many pixels as the width.
    """
    (top, bottom, _), (left, right, _) = (
        part.indices(size) for part, size in zip(window, (height, width), strict=True)
    )
    rows, row_weights = _weights(image.shape[0], height, top, bottom)
    columns = _weights(image.shape[1], width, left, right)
    shorter, narrower = image.shape[0] - height, image.shape[1] - width
    if PILLOW >= 13 and shorter > max(0, 2 * narrower):
        return _combine_columns(_combine_rows(image, rows, row_weights), *columns)
    needed = image[rows[0] : rows[-1] + row_weights.shape[1]]
    return _combine_rows(_combine_columns(needed, *columns), rows - rows[0], row_weights)


def _combine_columns(image, firsts, weights):
    return cv2.transpose(_combine_rows(cv2.transpose(image), firsts, weights))


def _combine_rows(image, firsts, weights):
    """Returns rows of which row i is the sum of the rows from firsts[i] on, times weights[i]."""
    sums = _sums(np.ascontiguousarray(image).reshape(len(image), -1), firsts, weights)
    return sums.reshape(-1, *image.shape[1:])


@compiled()
def _sums(image, firsts, weights):
    size = image.shape[1]
    result = np.empty((len(firsts), size), np.uint8)
    sums = np.empty(size, np.int32)
    for i in range(len(firsts)):
        sums[:] = 1 << (PRECISION_BITS - 1)
        for tap in range(weights.shape[1]):
            weight, row = weights[i, tap], image[firsts[i] + tap]
            for x in range(size):
                sums[x] += np.int32(row[x]) * weight
        for x in range(size):
            result[i, x] = min(max(sums[x] >> PRECISION_BITS, 0), 255)
    return result


@compiled()
def _weights(size, new_size, begin, end):
    """Returns for each new pixel from begin to end the first old pixel that counts, int32 [n], and
    the weights from there on, int32 [n, taps], in units of 2**-PRECISION_BITS."""
    scale = size / new_size
    width = max(scale, 1.0)  # of the filter, which does not narrow when it enlarges
    support = 2.0 * width
    taps = min(int(2 * support) + 1, size)
    firsts = np.empty(end - begin, np.int32)
    weights = np.zeros((end - begin, taps), np.int32)
    values = np.empty(taps)
    for i in range(end - begin):
        center = (begin + i + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), size) - first
        total = 0.0
        for tap in range(count):
            values[tap] = _filter((first + tap - center + 0.5) * (1.0 / width))
            total += values[tap]
        firsts[i] = min(first, size - taps)
        for tap in range(count):
            value = values[tap] / total * (1 << PRECISION_BITS)
            weights[i, first - firsts[i] + tap] = int(value + (0.5 if value > 0 else -0.5))
    return firsts, weights


@compiled(inline="always")
def _filter(x):
    """Evaluates Keys' cubic with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * -0.5
    return 0.0
