"""Image files in one folder a class, and their split into training and validation images."""

import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from convnext.data import duplicates, listing
from convnext.data.listing import ACCEPTED
from convnext.errors import InputError
from convnext.files import open_files
from convnext.images import decode

TRAIN = "train"
VAL = ("val", "valid", "validation", "test")  # the first that is there is validated on
MOST_COMPARED = 100_000  # files among which a split looks for equal ones
NAMED = 5  # classes that a note names


class Files:
    """Image files, each decoded when it is asked for.

    names: bytes [N]; labels: int32 [N], or float32 [N, K] (tables.load). A file lies in root, in
    `folder` or in the folder of its class.
    """

    decode = staticmethod(decode.decode_file)
    upright = False  # whether images are turned as their EXIF data say
    problem_type: str | None = None  # what the labels are for, where they are no classes

    def __init__(
        self,
        root: Path,
        class_names: Sequence[str],
        names: np.ndarray,
        labels: np.ndarray,
        *,
        folder: str | None = None,
        skipped: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ):
        self.root, self.class_names, self.names, self.labels = root, class_names, names, labels
        self.folder = folder
        self.skipped = dict(skipped or {})  # see listing.Listing
        self.notes = tuple(notes)  # how these files were chosen, where one might not expect it

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Returns the path of an image's file."""
        folder = self.folder or self.class_names[self.labels[index]]
        return self.root / folder / os.fsdecode(self.names[index])

    def paths(self) -> list[Path]:
        """Returns the paths of all files."""
        return [self.path(index) for index in range(len(self))]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        path = self.path(index)
        try:
            data = path.read_bytes()
        except OSError as error:
            open_files.check_error(error)
            raise InputError(
                f"cannot read the image {path}: {error.strerror}", "files that can be read"
            ) from error
        image = self.decode(data, str(path), upright=self.upright)
        return {"image": image, "label": self.labels[index]}

    def part(self, indices: np.ndarray, notes: Sequence[str] = ()) -> "Files":
        """Returns the files at these indices, of which nothing was skipped."""
        part = copy.copy(self)
        part.names, part.labels = self.names[indices], self.labels[indices]
        part.skipped, part.notes = {}, tuple(notes)
        return part


def load(
    root: str | os.PathLike | None,
    val_fraction: float | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
) -> tuple[Files, Files]:
    """Returns the training and validation images in root, classes in alphabetical order.

    They lie in `root/train/<class>/` and in `root/val/<class>/`, or what else is in VAL;
    train_split and val_split name other folders. If there is none to validate on, the share
    val_fraction of root/train, or of `root/<class>/`, becomes validation images (`split`).

    Raises InputError if there is nothing to read, or if there are other folders beside `train`, and
    none to validate on.
    """
    if not root:
        raise InputError("data.root is not set", ACCEPTED)
    if val_fraction is None and not Path(root).is_dir():
        raise InputError(f"no folder {Path(root) / TRAIN}", ACCEPTED)
    train_root, val_root, notes = parts(Path(root), train_split, val_split)
    if val_root is None and val_fraction is None and train_root == Path(root):
        raise InputError(f"no folder {train_root / TRAIN}", ACCEPTED)
    train = class_folders(train_root)
    if val_root is None and val_fraction is None:
        raise InputError(f"no folder {train_root.parent / VAL[0]}", ACCEPTED)
    if val_root is None:
        train_part, val_part = split(train, val_fraction)
        train_part.skipped = train.skipped
        return train_part, val_part
    val = listing.listing(val_root)
    unknown = sorted(val.images.keys() - set(train.class_names))
    if unknown:
        raise InputError(
            f"class {unknown[0]!r} is in {val_root} but not in {train_root}",
            "validation classes that are also trained on",
        )
    train.notes = tuple(notes)
    return train, files(val_root, train.class_names, val.images, val.skipped)


def unlabelled(
    root: str | os.PathLike | None,
    val_fraction: float | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
) -> tuple[Files, Files]:
    """Returns the training and validation images in root, of which nobody asks the labels: they lie
    flat or in folders of any kind. Which are validated on is as with `load`, and a split is by the
    hash of a name. Raises InputError if there is nothing to read."""
    if not root:
        raise InputError("data.root is not set", "--config.data.root=FOLDER with images in it")
    train_root, val_root, notes = parts(Path(root), train_split, val_split)
    train = _every(train_root)
    if val_root is not None:
        train.notes = tuple(notes)
        return train, _every(val_root)
    if val_fraction is None:
        problem = f"{root} has no folder {', '.join(VAL[:-1])} or {VAL[-1]}"
        raise InputError(problem, "--config.data.val_fraction, a share to validate on")
    train_part, val_part = split(train, val_fraction)
    train_part.skipped = train.skipped
    return train_part, val_part


def _every(root):
    """All images in a folder and in the folders in it, of one class."""
    names, skipped, _ = listing.walk(root)
    if not len(names):
        told = listing.what_is_skipped(skipped)
        problem = f"no images in {root}{told and f', skipped: {told}'}"
        raise InputError(problem, listing.accepted_files())
    labels = np.zeros(len(names), np.int32)
    return Files(root, ["images"], names, labels, folder=".", skipped=skipped)


def parts(
    root: Path, train_split: str | None = None, val_split: str | None = None
) -> tuple[Path, Path | None, list[str]]:
    """Finds the folder of the training classes, that of the validation classes or None, and what
    one should know of the choice. Raises InputError where it is not clear what to validate on."""
    if not root.is_dir():
        raise InputError(f"no folder {root}", ACCEPTED)
    # On some systems the names are written with capitals.
    found = {e.name.lower(): e.name for e in os.scandir(root) if e.is_dir()}
    found = {low: name for low, name in found.items() if not name.startswith(".")}
    others = [name for low, name in sorted(found.items()) if low not in (TRAIN, *VAL)]
    for name, given in dict(train_split=train_split, val_split=val_split).items():
        if given is not None and not (root / given).is_dir():
            raise InputError(f"data.{name} is {given!r}", f"a folder in {root}")
    if train_split is None and TRAIN not in found and val_split is None:
        held = [found[name] for name in VAL if name in found and _has_folders(root / found[name])]
        if held:
            problem = f"{root} has a folder {held[0]} of classes, and no folder {TRAIN}"
            raise InputError(problem, f"{ACCEPTED}, or --config.data.train_split=NAME")
        return root, None, []
    train_root = root / (train_split or found.get(TRAIN, TRAIN))
    known = [found[name] for name in VAL if name in found and found[name] != train_root.name]
    if val_split == train_root.name:
        return train_root, None, []
    if val_split is None and not known and others and train_split is None:
        raise InputError(
            f"{root} has no folder {', '.join(VAL[:-1])} or {VAL[-1]} beside {train_root.name}, "
            f"but {', '.join(others[:NAMED])}",
            f"--config.data.val_split={others[0]}, or --config.data.val_split={train_root.name} "
            f"to validate on a share of {train_root.name}",
        )
    chosen = val_split or (known[0] if known else None)
    unused = [name for name in known if name != chosen]
    how = "is not used; --config.data.val_split={0} validates on it"
    notes = [f"{name} {how.format(name)}" for name in unused]
    if val_split is None and chosen and chosen.lower() == VAL[-1]:
        notes.append(f"validates on {chosen}, as there is no other folder for it")
    return train_root, chosen and root / chosen, notes


def _has_folders(folder):
    return any(entry.is_dir() for entry in os.scandir(folder))


def class_folders(root: Path) -> Files:
    """Returns the images in `root/<class>/`, classes in alphabetical order."""
    listed = listing.listing(root)
    return files(root, list(listed.images), listed.images, listed.skipped)


def files(
    root: Path,
    class_names: Sequence[str],
    images: Mapping[str, np.ndarray],
    skipped: Mapping[str, int] | None = None,
) -> Files:
    """Returns the images of these classes, in this order, of a listing of root."""
    listed = [images.get(name, np.array([], "S1")) for name in class_names]
    labels = np.repeat(np.arange(len(listed), dtype=np.int32), [len(part) for part in listed])
    return Files(root, class_names, np.concatenate(listed), labels, skipped=skipped)


def split(source: Files, val_fraction: float) -> tuple[Files, Files]:
    """Splits the files by a hash of the class and the name of each: those whose hash, as a share of
    the largest, is below val_fraction are validated on. So an image or a class more moves nothing.

    Equal files go where the first of them does, among MOST_COMPARED files at most. A class of two
    or more images that would have none to validate on gives its lowest, one that would have none to
    train on keeps its highest, and a note names them. A class of one image is trained on. Labels
    that are no classes, float32 [N, K], are split by the names alone.
    """
    has_classes = source.labels.ndim == 1
    names = source.class_names
    folders = [os.fsencode(names[label]) for label in source.labels] if has_classes else None
    order = np.array(
        [
            _share(folders[index] + b"/" + name if has_classes else name)
            for index, name in enumerate(source.names.tolist())
        ]
    )
    groups = np.arange(len(source))
    if len(source) <= MOST_COMPARED:
        for same in duplicates.exact(source.paths())[0]:
            groups[same] = same[0]
    is_val = (order < val_fraction)[groups]
    given, kept = [], []
    for label, name in enumerate(names) if has_classes else ():
        members = np.flatnonzero(source.labels == label)
        if len(members) == 1:
            is_val[members] = False
        elif len(set(groups[members])) > 1 and not is_val[members].any():
            given.append(name)
            is_val[groups == groups[members[order[members].argmin()]]] = True
        elif len(set(groups[members])) > 1 and is_val[members].all():
            kept.append(name)
            is_val[groups == groups[members[order[members].argmax()]]] = False
    if is_val.all() or not is_val.any():
        raise InputError(
            f"the {len(source):,} images in {source.root} are not enough to validate on some",
            "two or more different images of a class, or a folder of their own",
        )
    notes = []
    if given:
        notes.append(f"the hash gives no validation image of {_named(given)}; the lowest is taken")
    if kept:
        notes.append(f"the hash gives no training image of {_named(kept)}; the highest is kept")
    train, val = source.part(np.flatnonzero(~is_val), notes), source.part(np.flatnonzero(is_val))
    return train, val


def _share(name):
    """A number from 0 to below 1 that belongs to a name."""
    return int.from_bytes(hashlib.sha256(name).digest()[:6]) / 2**48


def _named(names):
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
