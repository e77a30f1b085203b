"""Images that a data set has more than once: as the same file, or as nearly the same picture.

Two pictures are nearly the same if one is the other encoded again, resized, cropped by at most 5 %
of a side, mirrored, or two of these. Every pair of images is looked at, first by a descriptor of
192 numbers, and where these are close by its thumbnails (see `convnext.images.likeness`).

Of the copies of 840 photographs, drawings and parts of them, 98 % or more of each kind were found:
JPEG to quality 40, PNG, half size, a crop, a mirror image, and two of these. Among 1,000
photograph-like drawings, 1,000 shapes of one class or of 20, 1,000 letters on a grainy background
and 1,000 pages of text no pair was. These are not told apart:

- drawings on a smooth background that differ in a color by less than about 5 %
- letters below a sixth of the height of the image, or that are mirror images, as b and d
- images below 50 pixels: half of their copies at half size are missed, and of 1,000 articles of
  clothing of 28 pixels 4 pairs look the same
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from convnext.errors import InputError
from convnext.files import open_files
from convnext.images import decode, likeness

TAIL = 4096  # bytes at the end of a file, by which most files of the same size are told apart
WAVES = 8  # of the descriptor: the lowest frequencies across and down
# Product of two descriptors from which the pair is compared by thumbnails. Copies cropped by 5 %
# have 0.78 and more, but with little detail less. Of 100,000 pairs of unrelated photographs none
# has, of parts of drawings one in 1,000, of shapes of 20 classes one in 140, of one class one in 5.
MIN_DESCRIPTOR = 0.72
BLOCK = 2**22  # pairs at a time


@dataclass(frozen=True)
class Pair:
    """Two images that show nearly the same picture."""

    first: int  # index of an image
    second: int  # index of another, larger than first
    similarity: float  # correlation of their details, 0.67 to 1
    mirrored: bool  # left and right are exchanged


@dataclass(frozen=True)
class Near:
    """What `near` found: by the indices of the images, which are in ascending order."""

    pairs: list[Pair]
    plain: list[int]  # too plain to be recognised, such as white pages: not compared
    unreadable: dict[int, str]  # and what is wrong with it: not compared


def exact(paths: Sequence[str | os.PathLike]) -> tuple[list[list[int]], dict[int, str]]:
    """Returns the groups of files with the same content, by their indices in ascending order; and
    what is wrong with files that cannot be read, by index.

    Only files of the same size are read, and only those with the same end as a whole.
    """
    unreadable: dict[int, str] = {}
    groups: Iterable[list[int]] = [list(range(len(paths)))]
    for key in (os.path.getsize, _tail, _digest):
        groups = list(_divided(groups, paths, key, unreadable))
    return sorted(groups), unreadable


def _divided(groups, paths, key, unreadable):
    """Yields the parts with the same key that have two files or more."""
    for group in groups:
        parts: dict[int | bytes, list[int]] = {}
        for index in group:
            try:
                parts.setdefault(key(paths[index]), []).append(index)
            except OSError as error:
                open_files.check_error(error)
                unreadable[index] = f"cannot read the file {paths[index]}: {error.strerror}"
        yield from (part for part in parts.values() if len(part) > 1)


def _tail(path):
    return _content(path, max(os.path.getsize(path) - TAIL, 0))


def _digest(path):
    return hashlib.sha256(_content(path)).digest()


def _content(path, start=0):
    with open(path, "rb") as file:
        file.seek(start)
        return file.read()


def near(
    paths: Sequence[str | os.PathLike],
    *,
    jobs: int | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Near:
    """Finds the pairs of image files that show nearly the same picture, whatever their classes.

    Exact copies are such pairs, too: give one of each group of `exact` where there may be many.
    Takes 20 kB of memory for each image, and on two cores 20 seconds for 10,000 JPEG files of 500 x
    375; but a minute for 1,000 pages of text, most pairs of which must be compared by thumbnails.

    jobs: threads, by default one for each CPU. progress: is given "read" or "compared", and the
    number of images since it was given this the last time.
    """
    report = progress or (lambda stage, count: None)
    thumbnails = likeness.empty(len(paths))
    unreadable = {}
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        places = range(len(paths))
        problems = pool.map(lambda index: _describe(paths[index], thumbnails, index), places)
        for index, problem in enumerate(problems):
            if problem:
                unreadable[index] = problem
            report("read", 1)
        pairs = _similar(thumbnails, pool, report)
    return Near(pairs, np.flatnonzero(thumbnails.is_plain).tolist(), unreadable)


def _describe(path, thumbnails, index):
    """Fills in one image's. Returns what is wrong with it, or None."""
    try:
        image = decode.decode_small(_content(path), str(path), likeness.SIDE)
    except OSError as error:
        open_files.check_error(error)
        return f"cannot read the image {path}: {error.strerror}"
    except InputError as error:
        return error.problem
    for values, value in zip(thumbnails, likeness.describe(*image), strict=True):
        values[index] = value
    return None


def similar(thumbnails: likeness.Thumbnails, *, jobs: int | None = None) -> list[Pair]:
    """Finds the pairs among images that were described (see `near`)."""
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        return _similar(thumbnails, pool, lambda stage, count: None)


def _similar(thumbnails, pool, report):
    found: dict[tuple[int, int], Pair] = {}
    for chosen, count in candidates(thumbnails):
        parts = np.array_split(chosen, max(len(chosen) // 256, 1))
        compared = pool.map(lambda part: likeness.similarities(thumbnails, part), parts)
        for part, similarities in zip(parts, compared, strict=True):
            for row in np.flatnonzero(similarities):
                first, second, mirrored = part[row].tolist()
                pair = Pair(first, second, float(similarities[row]), bool(mirrored))
                other = found.get((first, second))
                if other is None or pair.similarity > other.similarity:
                    found[first, second] = pair
        report("compared", count)
    return sorted(found.values(), key=lambda pair: (pair.first, pair.second))


def candidates(thumbnails: likeness.Thumbnails) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the pairs whose descriptors are close: int [P, 3], two indices in ascending order, and
    1 for the mirrored second image or 0. And for how many images these are all pairs with those
    after them.
    """
    indices = np.flatnonzero((thumbnails.level > 0) & ~thumbnails.is_plain)
    even, odd = (values[indices] for values in descriptors(thumbnails))
    size = max(BLOCK // max(len(indices), 1), 1)
    for start in range(0, len(indices), size):
        rows = slice(start, start + size)
        # A mirrored image has the same even waves, and the odd ones with the other sign.
        same = even[rows] @ even[start:].T
        turned = odd[rows] @ odd[start:].T
        first, second = np.nonzero(same + np.abs(turned) > MIN_DESCRIPTOR)
        is_later = second > first
        first, second = first[is_later], second[is_later]
        same, turned = same[first, second], turned[first, second]
        first, second = indices[start + first], indices[start + second]
        both = [
            np.stack([first, second, np.full_like(first, mirrored)], axis=1)[close]
            for mirrored, close in enumerate(
                (same + turned > MIN_DESCRIPTOR, same - turned > MIN_DESCRIPTOR)
            )
        ]
        yield np.concatenate(both), len(even[rows])


def descriptors(thumbnails: likeness.Thumbnails) -> tuple[np.ndarray, np.ndarray]:
    """Returns the low frequencies of luma and colours, without the mean of luma; the squares of all
    numbers of an image add up to 1. Those that are even from left to right, and those that are odd:
    float32 [N, 96] each."""
    frequencies = np.arange(WAVES)[:, None]
    waves = np.cos(np.pi * frequencies * (np.arange(likeness.COARSEST) + 0.5) / likeness.COARSEST)
    waves[0] /= np.sqrt(2)
    amplitudes = waves @ likeness.coarsest(thumbnails) @ waves.T
    # Photographs have less of the higher frequencies, which tell more.
    amplitudes *= np.sqrt(np.hypot(frequencies, frequencies.T))
    amplitudes /= np.sqrt((amplitudes**2).sum(axis=(1, 2, 3), keepdims=True) + 1e-6)
    shape = len(amplitudes), 3 * WAVES * WAVES // 2
    even, odd = amplitudes[..., ::2].reshape(shape), amplitudes[..., 1::2].reshape(shape)
    return even.astype(np.float32), odd.astype(np.float32)
