"""What the files of images hold, for which each of them is read: sizes, damage, and pictures that
are there twice."""

import filecmp
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from convnext.data import duplicates
from convnext.errors import InputError
from convnext.files import cache, text
from convnext.images import decode

NAMED = 5  # images or pairs that lines name


@dataclass(frozen=True)
class Contents:
    """What the files of images say: of `count` images, by their places in a list of paths."""

    count: int
    sizes: list[tuple[int, int]]  # width and height of those that can be read, as they are shown
    turned: int  # images that their EXIF data turn
    pairs: list[duplicates.Pair]  # nearly the same picture, other than equal files
    unreadable: dict[int, str]  # what is wrong with an image


def look(
    paths: Sequence[Path],
    *,
    jobs: int | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Contents:
    """Looks into all files. What was found is kept in the user's cache folder, and is used as long
    as no file has another size or date. jobs, progress: see duplicates.near."""
    place = _cache_place(paths)
    if (known := _read(place)) is not None:
        return known
    with ThreadPoolExecutor(jobs) as pool:
        headers = list(pool.map(_header, paths))
    near = duplicates.near(paths, jobs=jobs, progress=progress)
    pairs = [pair for pair in near.pairs if not _are_equal(paths[pair.first], paths[pair.second])]
    read = [header for header in headers if header]
    found = Contents(
        count=len(paths),
        sizes=[(width, height) for width, height, _ in read],
        turned=sum(orientation != 1 for *_, orientation in read),
        pairs=pairs,
        unreadable=near.unreadable,
    )
    _write(place, found)
    return found


def recall(paths: Sequence[Path]) -> Contents | None:
    """Returns what was found before in the same files; None where nothing is kept of them."""
    return _read(_cache_place(paths))


def _are_equal(first, second):
    return filecmp.cmp(first, second, shallow=False)


def _header(path):
    """See decode.header; None where it cannot be read."""
    try:
        return decode.header(path)
    except InputError:  # which names it again where it is decoded
        return None


def lines(found: Contents, train: Sequence[Path], val: Sequence[Path]) -> list[str]:
    """Describes what was found in the files of the training and then the validation images."""
    paths, said = [*train, *val], []
    if found.sizes:
        areas = np.array([width * height for width, height in found.sizes])
        order = np.argsort(areas, kind="stable")
        least, median, most = (found.sizes[order[at]] for at in (0, len(order) // 2, -1))
        shown = [f"{width} x {height}" for width, height in (least, most, median)]
        span = "{} to {} pixels, {} in the median" if least != most else "{} pixels, all of them"
        said.append(f"sizes      {span.format(*shown)}")
    if found.turned:
        said.append(f"turned     {found.turned:,} images by their EXIF data")
    for index in sorted(found.unreadable)[:NAMED]:
        said.append(f"damaged    {found.unreadable[index]}")
    if len(found.unreadable) > NAMED:
        said.append(f"damaged    {len(found.unreadable) - NAMED:,} more")
    across = [pair for pair in found.pairs if pair.first < len(train) <= pair.second]
    within = [pair for pair in found.pairs if pair not in across]
    for where, pairs in (("across the parts", across), ("within a part", within)):
        if pairs:
            said.append(f"near       {len(pairs):,} pairs of nearly the same picture {where}:")
        for pair in sorted(pairs, key=lambda pair: -pair.similarity)[:NAMED]:
            how = ", mirrored" if pair.mirrored else ""
            names = f"{paths[pair.second]} and {paths[pair.first]}"
            said.append(f"             {names} ({pair.similarity:.2f}{how})")
        if len(pairs) > NAMED:
            said.append(f"             and {len(pairs) - NAMED:,} more")
    return said


def _cache_place(paths):
    """The file in the cache that belongs to these files as they are now."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            state = path.stat()
            known = f"{path.resolve()}\0{state.st_size}\0{state.st_mtime_ns}\0"
        except OSError:
            known = f"{path}\0"
        digest.update(os.fsencode(known))
    return cache.place("contents", f"{digest.hexdigest()[:24]}.json")


def _read(place):
    try:
        known = json.loads(place.read_text())
        return Contents(
            count=known["count"],
            sizes=[tuple(size) for size in known["sizes"]],
            turned=known["turned"],
            pairs=[duplicates.Pair(**pair) for pair in known["pairs"]],
            unreadable={int(index): told for index, told in known["unreadable"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError):  # none, or damaged
        return None


def _write(place, found):
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        text.replace(place, json.dumps(asdict(found)))
    except OSError:  # a full disk, a home that cannot be written to
        pass
