"""Loops over pixels of images, uint8 [H, W, 3] and contiguous, compiled. The results are Pillow's.

A loop over slices, from 0 on, is one that the compiler turns into vector instructions.
"""

import numpy as np

from convnext.images.compiled import compiled


@compiled()
def histograms(image):
    """Counts the pixels of each level, int64 [3, 256]."""
    counts = np.zeros((3, 256), np.int64)
    for row in image:
        for x in range(len(row)):
            for c in range(3):
                counts[c, row[x, c]] += 1
    return counts


@compiled()
def by_level(image, tables):
    """Replaces each level by its value in the table of its channel, uint8 [3, 256]."""
    result = np.empty_like(image)
    for y in range(len(image)):
        row, made = image[y], result[y]
        for x in range(len(row)):
            for c in range(3):
                made[x, c] = tables[c, row[x, c]]
    return result


@compiled()
def sum_of_greys(image):
    """Adds up the grey levels."""
    total = 0
    for row in image:
        for x in range(len(row)):
            total += _grey(row[x, 0], row[x, 1], row[x, 2])
    return total


@compiled()
def from_grey(image, factor):
    """Interpolates from the grey image, at 0, to the image, at 1, and beyond; factor: float32."""
    height, width, _ = image.shape
    rows = image.reshape(height, 3 * width)
    result = np.empty_like(rows)
    greys = np.empty(3 * width, np.int32)
    for y in range(height):
        row, made = rows[y], result[y]
        for x in range(width):
            grey = _grey(row[3 * x], row[3 * x + 1], row[3 * x + 2])
            for c in range(3):
                greys[3 * x + c] = grey
        for i in range(len(greys)):
            made[i] = _between(greys[i], np.int32(row[i]), factor)
    return result.reshape(image.shape)


@compiled()
def from_smooth(image, factor):
    """Interpolates as `from_grey` from the smoothed image: means of 3 x 3 pixels, of which the
    middle one counts five times. Those at the edges stay as they are."""
    result = image.copy()
    height, width, _ = image.shape
    rows = image.reshape(height, 3 * width)
    made = result.reshape(height, 3 * width)
    if height < 3 or width < 3:
        return result
    sums = np.empty(3 * width, np.int32)
    for y in range(1, height - 1):
        above, here, below = rows[y - 1], rows[y], rows[y + 1]
        for i in range(len(sums)):
            sums[i] = np.int32(above[i]) + np.int32(here[i]) + np.int32(below[i])
        inner, out = here[3:-3], made[y, 3:-3]
        left, middle, right = sums[:-6], sums[3:-3], sums[6:]
        for i in range(len(inner)):
            total = left[i] + middle[i] + right[i] + 4 * np.int32(inner[i])
            smooth = np.int32(np.float32(total) * np.float32(1 / 13) + np.float32(0.5))
            out[i] = _between(smooth, np.int32(inner[i]), factor)
    return result


@compiled()
def moved_rows(image, slope, shift, fill):
    """Moves row y to the left by slope * (y + 0.5) + shift pixels, with the bicubic filter of
    Pillow's affine transform. fill: uint8 [3], of what comes from outside the image."""
    height, width, _ = image.shape
    rows = image.reshape(height, 3 * width)
    result = np.empty_like(rows)
    centres = (np.arange(3 * width) // 3) + 0.5
    outside = np.empty(3 * width, np.uint8)
    for i in range(len(outside)):
        outside[i] = fill[i % 3]
    taps = np.empty(3 * (width + 3))
    for y in range(height):
        offset = slope * (y + 0.5)
        # Pixel x comes from whole + x, and from beyond it by a share of a pixel.
        first = 0.5 + offset + shift
        whole = int(np.floor(first - 0.5))
        begin = min(max(int(np.ceil(-first)), 0), width)
        end = min(max(int(np.ceil(width - first)), begin), width)
        result[y, : 3 * begin] = outside[: 3 * begin]
        result[y, 3 * end :] = outside[3 * end :]
        if begin < end:
            _framed(rows[y], whole + begin - 1, taps[: 3 * (end - begin + 3)])
            inside = slice(3 * begin, 3 * end)
            _filtered(taps, centres[inside], offset, shift, whole, result[y, inside])
    return result.reshape(image.shape)


@compiled()
def _framed(row, begin, taps):
    """Sets taps to the pixels of the row from number `begin` on, which may be before the first one;
    the pixels at the ends stand for those beyond."""
    width, count = len(row) // 3, len(taps) // 3
    left = min(max(-begin, 0), count)
    right = min(max(width - begin, left), count)
    for x in range(left):
        for c in range(3):
            taps[3 * x + c] = row[c]
    to, source = taps[3 * left : 3 * right], row[3 * (begin + left) : 3 * (begin + right)]
    for i in range(len(to)):
        to[i] = source[i]
    for x in range(right, count):
        for c in range(3):
            taps[3 * x + c] = row[3 * (width - 1) + c]


@compiled()
def _filtered(taps, centres, offset, shift, whole, result):
    """In float64, cut off to whole levels, in Pillow's order."""
    second, third, fourth = taps[3:], taps[6:], taps[9:]
    for i in range(len(result)):
        v1, v2, v3, v4 = taps[i], second[i], third[i], fourth[i]
        share = (centres[i] + offset + shift - 0.5) - (centres[i] - 0.5 + whole)
        cubic = v2 - v1 - v3 + v4
        square = 2 * (v1 - v2) + v3 - v4
        level = np.int32(v2 + share * (v3 - v1 + share * (square + share * cubic)))
        result[i] = min(max(level, np.int32(0)), np.int32(255))


@compiled(inline="always")
def _grey(red, green, blue):
    weighted = np.int32(red) * 19595 + np.int32(green) * 38470 + np.int32(blue) * 7471
    return np.int32((weighted + 32768) >> 16)


@compiled(inline="always")
def _between(start, end, factor):
    """In float32, cut off to whole levels."""
    level = np.int32(np.float32(start) + factor * np.float32(end - start))
    return np.uint8(min(max(level, np.int32(0)), np.int32(255)))
