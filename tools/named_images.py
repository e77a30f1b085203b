"""Images as a command line names them: files, folders, patterns and addresses."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from convnext.data import listing
from convnext.errors import InputError
from convnext.images import addresses, decode


def find(arguments: Sequence[str]) -> tuple[list[str], Counter]:
    """Returns the name of each image, and how many files of folders are skipped, by suffix.

    A folder stands for the images in it and in its folders; a pattern, where no file has its name,
    for what matches. Raises InputError where a pattern matches nothing, or there is no image.
    """
    names: list[str] = []
    skipped: Counter = Counter()
    for argument in arguments:
        found = [argument]
        if not addresses.is_one(argument) and not os.path.exists(argument):
            found = sorted(glob.glob(os.path.expanduser(argument), recursive=True))
            if not found and glob.has_magic(argument):
                raise InputError(f"nothing matches {argument}", "a pattern of files that are there")
        for each in found or [argument]:
            if os.path.isdir(each):
                inner, others, _ = listing.walk(Path(each))
                names += [os.path.join(each, os.fsdecode(name)) for name in inner]
                skipped += others
            else:
                names.append(each)
    if not names:
        told = listing.what_is_skipped(skipped)
        raise InputError(
            f"no images in {', '.join(arguments)}{told and f', skipped: {told}'}",
            listing.accepted_files(),
        )
    return names, skipped


def read(names: Sequence[str], bad: list[InputError]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each name with the image, uint8 [H, W, 3], turned as its EXIF data say. What is wrong
    with one that cannot be read is added to `bad`."""
    for name in names:
        try:
            data = addresses.fetch(name) if addresses.is_one(name) else Path(name).read_bytes()
            yield name, decode.decode_file(data, name, upright=True)
        except InputError as error:
            bad.append(error)
        except OSError as error:
            reason = error.strerror or error
            bad.append(InputError(f"cannot read the image {name}: {reason}", "a file"))
