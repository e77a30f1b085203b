"""Image files in one folder a class.

Listing a million files takes minutes on a network's disk, so a listing is kept in the user's cache
folder, and taken from there as long as no folder has changed since.
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
    """Image files, decoded when they are asked for.

    names: bytes [N]; labels: int32 [N]. A file lies in root, in the folder of its class or in
    `folder`.
    """

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
        """Of the file of an image."""
        folder = self.folder or self.class_names[self.labels[index]]
        return self.root / folder / os.fsdecode(self.names[index])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": read_image(self.path(index)), "label": self.labels[index]}


def read_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. Raises InputError, with the path, where the file is no whole image."""
    try:
        data = path.read_bytes()
    except OSError as error:
        open_files.check_error(error)
        raise InputError(
            f"cannot read the image {path}: {error.strerror}", "files that can be read"
        ) from error
    return decode.decode_file(data, str(path))


def load(root: str | os.PathLike | None, val_fraction: float | None = None) -> tuple[Files, Files]:
    """Of `root/train/<class>/` and `root/val/<class>/`, classes in alphabetical order.

    Where root has no val folder, val_fraction of each class in root/train, or in root itself, is
    kept to validate on. Raises InputError where there is nothing to read.
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


def of_classes(root: Path) -> Files:
    """Of `root/<class>/`."""
    listed = listing(root)
    return files(root, list(listed), listed)


def files(root: Path, class_names: Sequence[str], listed: Mapping[str, np.ndarray]) -> Files:
    """What `listing` found in root, of these classes, in their order."""
    parts = [listed.get(name, np.array([], "S1")) for name in class_names]
    labels = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
    return Files(root, class_names, np.concatenate(parts), labels)


def _split(listed, val_fraction):
    """The same share of each class for validation, at least one image where there are two."""
    train, val = {}, {}
    for index, (name, found) in enumerate(listed.items()):
        order = np.random.default_rng(index).permutation(len(found))
        count = min(max(round(len(found) * val_fraction), 1), len(found) - 1)
        val[name] = np.sort(found[order[:count]])
        train[name] = np.sort(found[order[count:]])
    return train, {name: kept for name, kept in val.items() if len(kept)}


def duplicate(source: Files) -> tuple[Path, Path] | None:
    """Two files of the same content, the first such in order; None where there are none. Only
    those of the same size are read."""
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
    """{class: names of its image files, sorted, as bytes}, of the folders in root.

    From the cache where neither root nor a folder in it has changed. Raises InputError where there
    is no image of a class, or no class.
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
    return {entry.name: found for entry, found in zip(folders, cached, strict=True)}


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


def _keep(path, names, changed, found):
    # A file that comes within the same tick of the clock would not be noticed.
    if time.time_ns() - changed.max() < 2e9:
        return
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(
                file, folders=names, changed=changed,
                counts=[len(part) for part in found], files=np.concatenate(found),
            )  # fmt: skip
        temporary.replace(path)
    except OSError:  # a full disk, a home that cannot be written to
        with suppress(OSError):
            temporary.unlink()
