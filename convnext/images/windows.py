"""The window of one image that another one shows, searched from coarse to fine.

Images are luma, float32 and square; so a window is a stretched one, too. Its margins, float32 [4],
are those on the left, on the right, above and below, as fractions of the sides.
"""

import numpy as np

from convnext.images.compiled import compiled

SIDE, COARSE, COARSEST = 128, 32, 16  # of the images that are compared, pixels
MAX_CROP = 0.055  # of a side, both margins together: 5 % in whole pixels of a small image
STEPS = 8  # of the search at each size; most ends after 4

CELL = 4  # side of the cells in which images are compared, pixels
NOISE = 8.0  # grey levels by which a cell may differ whatever it shows
MAX_COARSEST = 0.16  # squared difference at 16 x 16 over the variances; copies: to 0.15
MAX_MIDDLE = 1.1  # the worst cell's squared difference over its variance, on the way; to 1.04
MAX_CELL = 0.6  # the same at the finest size; copies: to 0.46, but of look-alikes from 0.9 or 2
MAX_SHIFT = 5.4  # grey levels, of a sixteenth's mean; copies: to 3, but text at half size to 6.4


@compiled()
def search(luma, coarse, level, pairs):
    """Searches, for each pair of images, the window of the first that the second shows, and the
    other way round.

    luma: uint8 [N, 128, 128]; coarse: uint8 [N, 32, 32]; level: int [N], the finest side at which
    to compare; pairs: int [P, 3], two indices and 1 to mirror the second image or 0. Returns the
    margins, float32 [P, 2, 4], nan where there is no such window.
    """
    result = np.zeros((len(pairs), 2, 4), np.float32)
    for row in range(len(pairs)):
        i, j, mirrored = pairs[row]
        finest = min(level[i], level[j])
        coarse_a, coarse_b = _turned(coarse[i], False), _turned(coarse[j], mirrored)
        a, b = halved(coarse_a), halved(coarse_b)
        while True:
            is_open = False
            for swapped in range(2):
                margins = result[row, swapped]
                if not np.isnan(margins[0]):
                    whole, part = (b, a) if swapped else (a, b)
                    if _shows(whole, part, margins, finest):
                        is_open = True
                    else:
                        margins[:] = np.nan
            side = 2 * len(a)
            if not is_open or side > finest:
                break
            if side == COARSE:
                a, b = coarse_a, coarse_b
            else:
                a, b = _turned(luma[i], False), _turned(luma[j], mirrored)
                if side < SIDE:
                    a, b = halved(a), halved(b)
    return result


@compiled()
def _turned(image, mirrored):
    """The image as float32, mirrored or not."""
    side = len(image)
    result = np.empty((side, side), np.float32)
    for i in range(side):
        for j in range(side):
            result[i, j] = image[i, side - 1 - j if mirrored else j]
    return result


@compiled()
def edge_of(side):
    """Pixels next to the border, which the blur mixed with what it assumes outside."""
    return 1 if side < 64 else 2


@compiled()
def _shows(whole, part, margins, finest):
    """Moves the margins to the best window. Returns whether it shows the part."""
    side = len(part)
    edge = edge_of(side)
    _align(whole, part, margins, edge)
    seen = window(whole, margins)
    if side == COARSEST and _relative_error(seen, part, edge) > MAX_COARSEST:
        return False
    # At 16 x 16 a window is not found as exactly.
    if _shift(seen, part) > (MAX_SHIFT if side == finest else 3 * MAX_SHIFT):
        return False
    if side == finest:
        return _worst_cell(seen, part, edge) <= MAX_CELL
    return side == COARSEST or _worst_cell(seen, part, edge) <= MAX_MIDDLE


@compiled(fastmath=True)
def _align(whole, part, margins, edge):
    """Finds the window of the whole that shows the part, by Gauss-Newton steps on the squared
    difference, from the margins given.

    margins: float32 [4], changed in place: of the window's left, right, upper and lower side, as
    fractions of the whole's. None is negative, and two together are at most MAX_CROP.
    """
    side = len(part)
    places = ((np.arange(side) + 0.5) / side).astype(np.float32)
    rests = np.float32(1) - places
    normal, slope = np.zeros((4, 4)), np.zeros(4)
    for _ in range(STEPS):
        columns, right_shares = _taps(margins[0], margins[1], side)
        rows, lower_shares = _taps(margins[2], margins[3], side)
        h00 = h01 = h02 = h03 = h11 = h12 = h13 = h22 = h23 = h33 = np.float32(0)
        g0 = g1 = g2 = g3 = np.float32(0)
        for i in range(edge, side - edge):
            upper, lower = whole[rows[i]], whole[rows[i] + 1]
            share = lower_shares[i]
            for j in range(edge, side - edge):
                column = columns[j]
                above = upper[column + 1] - upper[column]
                below = lower[column + 1] - lower[column]
                value = upper[column] + right_shares[j] * above
                down = lower[column] + right_shares[j] * below - value
                across = above + share * (below - above)
                error = part[i, j] - value - share * down
                # A larger left margin moves what is seen to the right, and less so further right.
                d0, d1 = across * rests[j], -across * places[j]
                d2, d3 = down * rests[i], -down * places[i]
                h00 += d0 * d0
                h01 += d0 * d1
                h02 += d0 * d2
                h03 += d0 * d3
                h11 += d1 * d1
                h12 += d1 * d2
                h13 += d1 * d3
                h22 += d2 * d2
                h23 += d2 * d3
                h33 += d3 * d3
                g0 += d0 * error
                g1 += d1 * error
                g2 += d2 * error
                g3 += d3 * error
        normal[0, 0], normal[0, 1], normal[0, 2], normal[0, 3] = h00, h01, h02, h03
        normal[1, 1], normal[1, 2], normal[1, 3] = h11, h12, h13
        normal[2, 2], normal[2, 3], normal[3, 3] = h22, h23, h33
        slope[0], slope[1], slope[2], slope[3] = g0 / side, g1 / side, g2 / side, g3 / side
        if _step(normal, slope, margins) * side < 0.02:  # pixels
            break


@compiled()
def _step(normal, slope, margins):
    """Moves the margins to where a quadratic form is least within their limits. Returns how far
    they moved at most.

    normal: float64 [4, 4], its second derivatives, of which the upper triangle is given; slope:
    float64 [4], its falls.
    """
    # A trace of ridge, for images without any edge across or down.
    ridge = 1e-6 * (normal[0, 0] + normal[1, 1] + normal[2, 2] + normal[3, 3]) + 1e-3
    new, target = np.empty(4), np.empty(4)
    for k in range(4):
        normal[k, k] += ridge
        for m in range(k):
            normal[k, m] = normal[m, k]
    for k in range(4):
        new[k], target[k] = margins[k], slope[k]
        for m in range(4):
            target[k] += normal[k, m] * margins[m]
    for _ in range(6):  # across and down hardly depend on each other
        for k in (0, 2):
            m = 2 - k
            p = target[k] - normal[k, m] * new[m] - normal[k, m + 1] * new[m + 1]
            q = target[k + 1] - normal[k + 1, m] * new[m] - normal[k + 1, m + 1] * new[m + 1]
            new[k], new[k + 1] = _least(normal[k, k], normal[k, k + 1], normal[k + 1, k + 1], p, q)
    moved = 0.0
    for k in range(4):
        moved = max(moved, abs(new[k] - margins[k]))
        margins[k] = new[k]
    return moved


@compiled()
def _least(a, b, c, p, q):
    """Minimises (a x^2 + 2 b x y + c y^2) / 2 - p x - q y in the triangle of x, y >= 0 and
    x + y <= MAX_CROP."""
    determinant = a * c - b * b
    if determinant > 1e-6 * a * c:
        x, y = (c * p - b * q) / determinant, (a * q - b * p) / determinant
        if x >= 0 and y >= 0 and x + y <= MAX_CROP:
            return x, y
    x, y = min(max(p / a, 0.0), MAX_CROP), min(max(q / c, 0.0), MAX_CROP)
    slanted = min(max(((c - b) * MAX_CROP + p - q) / (a - 2 * b + c), 0.0), MAX_CROP)
    best, best_x, best_y = np.inf, 0.0, 0.0
    for low, high in ((0.0, y), (x, 0.0), (slanted, MAX_CROP - slanted)):
        value = (a * low * low + 2 * b * low * high + c * high * high) / 2 - p * low - q * high
        if value < best:
            best, best_x, best_y = value, low, high
    return best_x, best_y


@compiled()
def window(whole, margins):
    """Interpolates what the whole shows within the margins, at its own size."""
    side = len(whole)
    columns, right_shares = _taps(margins[0], margins[1], side)
    rows, lower_shares = _taps(margins[2], margins[3], side)
    result = np.empty((side, side), np.float32)
    for i in range(side):
        upper, lower = whole[rows[i]], whole[rows[i] + 1]
        for j in range(side):
            k, share = columns[j], right_shares[j]
            above = upper[k] + share * (upper[k + 1] - upper[k])
            below = lower[k] + share * (lower[k + 1] - lower[k])
            result[i, j] = above + lower_shares[i] * (below - above)
    return result


@compiled()
def _taps(low, high, side):
    """For each pixel of a window: the pixel of the whole at or before it, and the share of the
    next one."""
    indices, shares = np.empty(side, np.int64), np.empty(side, np.float32)
    for i in range(side):
        place = side * low + (i + np.float32(0.5)) * (1 - low - high) - np.float32(0.5)
        place = min(max(place, 0.0), side - 1.0)
        indices[i] = min(int(place), side - 2)
        shares[i] = place - indices[i]
    return indices, shares


@compiled()
def _relative_error(a, b, edge):
    """Mean squared difference over the sum of both variances, and a little."""
    count, error = (len(a) - 2 * edge) ** 2, 0.0
    sum_a, sum_b, square_a, square_b = 0.0, 0.0, 0.0, 0.0
    for i in range(edge, len(a) - edge):
        for j in range(edge, len(a) - edge):
            x, y = a[i, j], b[i, j]
            error += (x - y) * (x - y)
            sum_a += x
            sum_b += y
            square_a += x * x
            square_b += y * y
    variances = square_a + square_b - (sum_a * sum_a + sum_b * sum_b) / count
    return error / (variances + 2 * count)


@compiled()
def _shift(a, b):
    """The largest difference between the means of two sixteenths."""
    side, most = len(a) // 4, 0.0
    for i in range(4):
        for j in range(4):
            total = 0.0
            for m in range(i * side, (i + 1) * side):
                for n in range(j * side, (j + 1) * side):
                    total += a[m, n] - b[m, n]
            most = max(most, abs(total) / (side * side))
    return most


@compiled()
def _worst_cell(a, b, edge):
    """The largest of the cells' mean squared differences, each over NOISE and the variance in the
    3 x 3 cells around."""
    cells = len(a) // CELL
    sums = np.zeros((cells, cells, 4))  # pixels, levels, squares of them, squared differences
    for i in range(edge, len(a) - edge):
        for j in range(edge, len(a) - edge):
            x, y = a[i, j], b[i, j]
            cell = sums[i // CELL, j // CELL]
            cell[0] += 2
            cell[1] += x + y
            cell[2] += x * x + y * y
            cell[3] += 2 * (x - y) * (x - y)
    worst = 0.0
    for i in range(cells):
        for j in range(cells):
            count, total, square = 0.0, 0.0, 0.0
            for m in range(max(i - 1, 0), min(i + 2, cells)):
                for n in range(max(j - 1, 0), min(j + 2, cells)):
                    count += sums[m, n, 0]
                    total += sums[m, n, 1]
                    square += sums[m, n, 2]
            variance = max(square / count - (total / count) ** 2, 0.0)
            worst = max(worst, sums[i, j, 3] / sums[i, j, 0] / (NOISE * NOISE + variance))
    return worst


@compiled()
def halved(image):
    """Halves both sides by the weights 1, 3, 3, 1: with less aliasing than means of two pixels."""
    half = len(image) // 2
    last = len(image) - 1
    rows = np.empty((half, 2 * half), np.float32)
    for i in range(half):
        first, second, third, fourth = max(2 * i - 1, 0), 2 * i, 2 * i + 1, min(2 * i + 2, last)
        for j in range(2 * half):
            outer = image[first, j] + image[fourth, j]
            rows[i, j] = (outer + 3 * (image[second, j] + image[third, j])) / 8
    result = np.empty((half, half), np.float32)
    for i in range(half):
        for j in range(half):
            outer = rows[i, max(2 * j - 1, 0)] + rows[i, min(2 * j + 2, last)]
            result[i, j] = (outer + 3 * (rows[i, 2 * j] + rows[i, 2 * j + 1])) / 8
    return result
