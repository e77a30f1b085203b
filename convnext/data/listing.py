"""The image files in class folders, listed once.

Listing a million files takes minutes on a network disk. So a listing is kept in the user's cache
folder, and is used as long as no folder has changed since.
"""

import hashlib
import json
import os
import time
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convnext.errors import InputError
from convnext.files import cache
from convnext.images import decode

IMAGE_SUFFIXES = tuple(suffix for suffixes in decode.SUFFIXES.values() for suffix in suffixes)
ACCEPTED = (
    "--config.data.root=ROOT with ROOT/train/<class>/*.jpg (or png, webp, ...) and "
    "ROOT/val/<class>/*.jpg, or ROOT/<class>/*.jpg and --config.data.val_fraction"
)


@dataclass(frozen=True)
class Listing:
    """Image files of each class, and how much else lies beside them."""

    # {class: names, bytes [N], sorted}: paths within the folder of the class, which may have
    # folders of its own.
    images: Mapping[str, np.ndarray]
    skipped: Mapping[str, int]  # files by suffix; "hidden"; images "in no class folder"


def listing(root: Path) -> Listing:
    """Lists the images in `root/<class>`, classes in alphabetical order. Names that begin with a
    dot are skipped.

    Comes from the cache if no folder in it has changed. Raises InputError if there is no class, a
    class without images, or a folder that cannot be listed.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}", ACCEPTED)
    path = _cache_path(root)
    found = _cached(path, root)
    if found is None:
        found, folders = _listed(root)
        _keep(path, root, found, folders)
    if not found.images:
        raise InputError(f"no class folders in {root}", ACCEPTED)
    for name, images in found.images.items():
        if not len(images):
            skipped = what_is_skipped(walk(root / name)[1])
            problem = f"no images in {root / name}{skipped and f', skipped: {skipped}'}"
            raise InputError(problem, accepted_files())
    return found


def accepted_files() -> str:
    """The files that are read, in words."""
    heif = "" if "HEIF" in decode.SUFFIXES else "; .heic after pip install pillow-heif"
    return f"files ending in {', '.join(IMAGE_SUFFIXES)}{heif}"


def what_is_skipped(skipped: Mapping[str, int]) -> str:
    """Names what is skipped, the most first: "12 .heic, 1 hidden"."""
    order = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {what}" for what, count in order)


def _listed(root):
    """The listing, and the folders it depends on, as bytes from root on."""
    images, skipped, folders = {}, Counter(), []
    for entry in _entries(root):
        if _is_hidden(entry.name):
            skipped["hidden"] += 1
        elif entry.is_dir():
            name = entry.name
            images[name], others, inner = walk(Path(entry.path))
            skipped += others
            folders += [os.fsencode(name), *(os.fsencode(name) + b"/" + each for each in inner)]
        else:
            suffix = _suffix(entry.name)
            skipped["in no class folder" if suffix in IMAGE_SUFFIXES else suffix] += 1
    return Listing(images, dict(skipped)), folders


def walk(folder: Path) -> tuple[np.ndarray, Counter, list[bytes]]:
    """Lists a folder with those in it: the names of images, bytes, sorted; what is skipped; and the
    folders in it."""
    images, skipped, folders, waiting = [], Counter(), [], [b""]
    while waiting:
        above = waiting.pop()
        for entry in _entries(folder / os.fsdecode(above)):
            name = above + os.fsencode(entry.name)
            if _is_hidden(entry.name):
                skipped["hidden"] += 1
            elif entry.is_dir(follow_symlinks=False):  # a link may lead back
                folders.append(name)
                waiting.append(name + b"/")
            elif (suffix := _suffix(entry.name)) in IMAGE_SUFFIXES:
                images.append(name)
            else:
                skipped[suffix] += 1
    return np.array(sorted(images), "S"), skipped, folders


def _entries(folder):
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        problem = f"cannot list the folder {folder}: {error.strerror}"
        raise InputError(problem, "folders that can be read") from error


def _is_hidden(name):
    return name.startswith(".")


def _suffix(name):
    return os.path.splitext(name)[1].lower() or "without a suffix"


def _cache_path(root):
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return cache.place("folders", f"{digest}.npz")


def _changed(root, folders):
    """When root and these folders have changed; None where one is gone."""
    try:
        paths = [root, *(root / os.fsdecode(folder) for folder in folders)]
        return np.array([os.stat(path).st_mtime_ns for path in paths])
    except OSError:
        return None


def _cached(path, root):
    try:
        with np.load(path) as file:
            changed = _changed(root, file["folders"].tolist())
            # Which files count as images may be another question by now.
            same = np.array_equal(file["changed"], changed)
            if not same or file["suffixes"].tolist() != list(IMAGE_SUFFIXES):
                return None
            files = np.split(file["files"], np.cumsum(file["counts"])[:-1])
            names = map(os.fsdecode, file["classes"].tolist())
            return Listing(dict(zip(names, files, strict=True)), json.loads(str(file["skipped"])))
    # None, or damaged.
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _keep(path, root, found, folders):
    changed = _changed(root, folders)
    # File systems date a folder by a coarse clock. A file that is added within the same tick as
    # this listing would leave no trace, so a folder that has just changed is not cached.
    if changed is None or not found.images or time.time_ns() - changed.max() < 2e9:
        return
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(
                file,
                suffixes=np.array(IMAGE_SUFFIXES),
                folders=np.array(folders, "S"),
                changed=changed,
                classes=np.array([os.fsencode(name) for name in found.images], "S"),
                counts=[len(part) for part in found.images.values()],
                files=np.concatenate(list(found.images.values())),
                skipped=json.dumps(found.skipped),
            )
        temporary.replace(path)
    except OSError:  # a full disk, a home that cannot be written to
        with suppress(OSError):
            temporary.unlink()
