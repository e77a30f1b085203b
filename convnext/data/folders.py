"""Image files in one folder a class.

Listing a million files takes minutes on a network disk. So a listing is kept in the user's cache
folder, and is used as long as no folder has changed since.
"""

import hashlib
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from convnext.errors import InputError
from convnext.files import open_files
from convnext.images import decode

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ACCEPTED = (
    "--config.data.root=ROOT with ROOT/train/<class>/*.jpg (or png, webp) and "
    "ROOT/val/<class>/*.jpg, or ROOT/<class>/*.jpg and --config.data.val_fraction"
)


class Files:
    """Image files, each decoded when it is asked for.

    names: bytes [N]; labels: int32 [N]. A file lies in root, in `folder` or in the folder of its
    class.
    """

    decode = staticmethod(decode.decode_file)

    def __init__(
        self,
        root: Path,
        class_names: Sequence[str],
        names: np.ndarray,
        labels: np.ndarray,
        *,
        folder: str | None = None,
    ):
        self.root, self.class_names, self.names, self.labels = root, class_names, names, labels
        self.folder = folder

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Returns the path of an image's file."""
        folder = self.folder or self.class_names[self.labels[index]]
        return self.root / folder / os.fsdecode(self.names[index])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        path = self.path(index)
        try:
            data = path.read_bytes()
        except OSError as error:
            open_files.check_error(error)
            raise InputError(
                f"cannot read the image {path}: {error.strerror}", "files that can be read"
            ) from error
        return {"image": self.decode(data, str(path)), "label": self.labels[index]}


def load(root: str | os.PathLike | None, val_fraction: float | None = None) -> tuple[Files, Files]:
    """Returns the training and validation images in `root/train/<class>/` and `root/val/<class>/`,
    classes in alphabetical order.

    If root has no val folder, val_fraction of each class in root/train, or in root itself, becomes
    validation images. Raises InputError if there is nothing to read.
    """
    if not root:
        raise InputError("data.root is not set", ACCEPTED)
    train_root, val_root = Path(root) / "train", Path(root) / "val"
    if val_root.is_dir() or val_fraction is None:
        train, val = listing(train_root), listing(val_root)
    else:
        train_root = val_root = train_root if train_root.is_dir() else Path(root)
        train, val = _split(listing(train_root), val_fraction)
    unknown = sorted(val.keys() - train.keys())
    if unknown:
        raise InputError(
            f"class {unknown[0]!r} is in {val_root} but not in {train_root}",
            "validation classes that are also trained on",
        )
    names = sorted(train)
    return files(train_root, names, train), files(val_root, names, val)


def class_folders(root: Path) -> Files:
    """Returns the images in `root/<class>/`, classes in alphabetical order."""
    listed = listing(root)
    return files(root, list(listed), listed)


def files(root: Path, class_names: Sequence[str], listed: Mapping[str, np.ndarray]) -> Files:
    """Returns the images of these classes, in this order, from the `listing` of root."""
    parts = [listed.get(name, np.array([], "S1")) for name in class_names]
    labels = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return Files(root, class_names, np.concatenate(parts), labels)


def _split(listed, val_fraction):
    """Splits each class at the same fraction, with a validation image if it has two images."""
    train, val = {}, {}
    for index, (name, images) in enumerate(listed.items()):
        order = np.random.default_rng(index).permutation(len(images))
        count = min(max(round(len(images) * val_fraction), 1), len(images) - 1)
        val[name] = np.sort(images[order[:count]])
        train[name] = np.sort(images[order[count:]])
    return train, {name: kept for name, kept in val.items() if len(kept)}


def duplicate(source: Files) -> tuple[Path, Path] | None:
    """Returns the first two files with the same content, or None. Only files of the same size are
    read."""
    sizes: dict[int, list[Path]] = {}
    for index in range(len(source)):
        path = source.path(index)
        sizes.setdefault(path.stat().st_size, []).append(path)
    for paths in sizes.values():
        seen: dict[bytes, Path] = {}
        for path in paths if len(paths) > 1 else ():
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest in seen:
                return seen[digest], path
            seen[digest] = path
    return None


def listing(root: Path) -> dict[str, np.ndarray]:
    """Returns {class: names of its image files, sorted, as bytes} for the folders in root.

    Comes from the cache if neither root nor a folder in it has changed. Raises InputError if there
    is no class, or a class without images.
    """
    if not root.is_dir():
        raise InputError(f"no folder {root}", ACCEPTED)
    folders = sorted(
        (entry for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda entry: entry.name,
    )
    if not folders:
        raise InputError(f"no class folders in {root}", ACCEPTED)
    names = np.array([os.fsencode(entry.name) for entry in folders])
    changed = np.array([root.stat().st_mtime_ns, *(entry.stat().st_mtime_ns for entry in folders)])
    path = _cache_path(root)
    cached = _cached(path, names, changed)
    if cached is None:
        cached = [_image_names(entry.path) for entry in folders]
        _keep(path, names, changed, cached)
    return {entry.name: images for entry, images in zip(folders, cached, strict=True)}


def _image_names(folder):
    names = sorted(os.fsencode(entry.name) for entry in os.scandir(folder) if _is_image(entry.name))
    if not names:
        raise InputError(f"no images in {folder}", f"files ending in {', '.join(IMAGE_SUFFIXES)}")
    return np.array(names)


def _is_image(name):
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _cache_path(root):
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return cache / "convnext" / "folders" / f"{digest}.npz"


def _cached(path, names, changed):
    try:
        with np.load(path) as file:
            same = all(
                np.array_equal(file[key], value)
                for key, value in (("folders", names), ("changed", changed))
            )
            return np.split(file["files"], np.cumsum(file["counts"])[:-1]) if same else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # none, or damaged
        return None


def _keep(path, names, changed, images):
    # File systems date a folder by a coarse clock. A file that is added within the same tick as
    # this listing would leave no trace, so a folder that has just changed is not cached.
    if time.time_ns() - changed.max() < 2e9:
        return
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            counts, files = [len(part) for part in images], np.concatenate(images)
            np.savez(file, folders=names, changed=changed, counts=counts, files=files)
        temporary.replace(path)
    except OSError:  # a full disk, a home that cannot be written to
        with suppress(OSError):
            temporary.unlink()
