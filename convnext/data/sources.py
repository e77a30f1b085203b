"""Sources of examples.

A source has `class_names`, a length, and at each index an example: image uint8 [H, W, 3] of any
size, label int32. `load` returns a data set's training and validation sources.
"""

import copy
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convnext import hosts
from convnext.data import archives, arrayrecord, folders, in_memory, prepared, tables
from convnext.errors import InputError, require, require_local
from convnext.images import decode

SAMPLED = 64  # examples, spread over a source, that `fingerprint` hashes; at most twice as many


class Source(Protocol):
    """Images by number, each {"image": uint8 [H, W, 3], "label"}, and the names of their classes.

    A label is an int32, or numbers for a problem of another type (losses.problem_type).
    """

    class_names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns an example. Raises InputError with its name if the image cannot be read."""
        ...


ON_DISK = ("folder", "arrayrecord", "parquet")  # TensorFlow Datasets reads stores, too


def load(
    name: str,
    root: str | None = None,
    val_fraction: float | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    exif_orientation: bool = False,
    *,
    is_labelled: bool = True,
) -> tuple[Source, Source]:
    """Returns the training and the validation source of a data set.

    is_labelled: whether its labels are asked for; else a folder needs no classes
    (`folders.unlabelled`).

    * name "digits": the handwritten digits that ship with scikit-learn.
    * name "folder": one folder a class, in root (`folders.load`); or where root is a file, the
      images that it names (`tables.load`).
    * name "arrayrecord": what tools.prepare wrote into root (`arrayrecord.load`).
    * name "parquet": a folder of Parquet files (`prepared.parquet`).
    * name "cifar10" or "cifar100", and root a file: the archive for Python (`in_memory.cifar`).
    * name "oxford_flowers102", and root with imagelabels.mat: as published (`archives.flowers`).
    * Any other name: a data set of TensorFlow Datasets (`prepared.tfds`).

    train_split and val_split are for "folder", "parquet" and TensorFlow Datasets. If there are no
    validation images, val_fraction of the training images become them, drawn at random.
    exif_orientation turns encoded images as their EXIF data say, as image processors do.

    Raises InputError if there is nothing to read.
    """
    check_val_fraction(val_fraction)
    root = None if root is None else os.path.expanduser(root)
    if name in ON_DISK:
        require_local("data.root", root)
    match name:
        case "digits":
            train, val = in_memory.digits()
        case "folder" if root and (path := Path(root)).suffix.lower() in tables.SUFFIXES:
            train, val = tables.load(path, val_fraction, train_split, val_split)
        case "folder":
            read = folders.load if is_labelled else folders.unlabelled
            train, val = read(root, val_fraction, train_split, val_split)
        case "arrayrecord":
            train, val = arrayrecord.load(root)
        case "parquet":
            train, val = prepared.parquet(root, train_split, val_split, val_fraction)
        case "cifar10" | "cifar100" if root and Path(root).is_file():
            train, val = in_memory.cifar(root)
        case "oxford_flowers102" if root and (Path(root) / "imagelabels.mat").is_file():
            train, val = archives.flowers(root)
        case _:
            train, val = prepared.tfds(name, root, train_split, val_split, val_fraction)
    if exif_orientation:
        train, val = upright(train), val and upright(val)
    if val is not None:
        return train, val
    if val_fraction is None:
        raise InputError(f"{name} has no validation images", "--config.data.val_fraction")
    order = np.random.default_rng(0).permutation(len(train))
    count = min(max(round(len(train) * val_fraction), 1), len(train) - 1)
    return Part(train, np.sort(order[count:])), Part(train, np.sort(order[:count]))


def labels(source: Source) -> np.ndarray | None:
    """The labels [N] or [N, K] of a source; None where they are only known once it is read."""
    if isinstance(source, Part):
        inner = labels(source.source)
        return None if inner is None else inner[source.indices]
    return getattr(source, "labels", None)


def check_val_fraction(val_fraction: float | None) -> None:
    """Raises InputError for what `load` does not take, whatever the data."""
    accepted = "a number between 0 and 1, both excluded"
    ok = val_fraction is None or 0 < val_fraction < 1
    require(ok, "data.val_fraction", val_fraction, accepted)


def load_of_run(
    data: Mapping[str, Any], root: str | None = None, run: str = "the run"
) -> tuple[Source, Source]:
    """Loads what a run was trained on, data being that section of its config; from root, if it lies
    there now. Raises InputError that names the run if it cannot be read."""
    data = {**data, **({} if root is None else {"root": root})}
    try:
        return load(**data)
    except InputError as error:
        raise InputError(
            f"the data of {run} cannot be read: {error.problem}",
            "--data_root=DIR, the folder where it lies now",
        ) from error


class Part:
    """Examples of a source at some indices."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices, self.class_names = source, indices, source.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.source[self.indices[index]]


class Resized:
    """Examples of a source with images that are resized."""

    def __init__(self, source: Source, resize: Callable[[np.ndarray], np.ndarray]):
        self.source, self.resize, self.class_names = source, resize, source.class_names

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = self.source[index]
        return example | {"image": self.resize(example["image"])}


def resized(source: Source, resize: Callable[[np.ndarray], np.ndarray]) -> Source:
    """Resizes the images of a source: those that lie in memory once for all."""
    match source:
        case Labelled():
            return Labelled(resized(source.source, resize), source.what)
        case Part():
            return Part(resized(source.source, resize), source.indices)
        case in_memory.Arrays():
            images = np.stack([resize(image) for image in source.images])
            return in_memory.Arrays(images, source.labels, source.class_names)
    return Resized(source, resize)


def rows(source: Source, indices: np.ndarray) -> dict[str, np.ndarray] | None:
    """The examples [n, ...] of a source that lies in memory, at once; None of another, and where a
    label is of no class: then one by one they tell which."""
    match source:
        case Labelled():
            found = rows(source.source, indices)
            if found is None or found["label"].ndim > 1:
                return found
            labels, count = found["label"], len(source.class_names)
            return found if ((labels >= 0) & (labels < count)).all() else None
        case Part():
            return rows(source.source, source.indices[indices])
        case in_memory.Arrays() if type(source) is in_memory.Arrays:  # not one with its own ways
            return {"image": source.images[indices], "label": source.labels[indices]}
    return None


def decoded_on_demand(source: Source) -> Source:
    """The same source, with `decode.decode_on_demand` for the images of its files."""
    match source:
        case Labelled():
            return Labelled(decoded_on_demand(source.source), source.what)
        case Part():
            return Part(decoded_on_demand(source.source), source.indices)
        case folders.Files() | arrayrecord.Records() | prepared.Encoded():
            source = copy.copy(source)
            source.decode = decode.decode_on_demand
    return source


def upright(source: Source) -> Source:
    """The same source, with images turned as their EXIF data say, where they are encoded."""
    if isinstance(source, folders.Files | arrayrecord.Records | prepared.Encoded):
        source = copy.copy(source)
        source.upright = True
    return source


class Joined:
    """Examples of several sources with the same classes, one source after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.sources, self.class_names = sources, sources[0].class_names
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        part = self.part(index)
        return self.sources[part][index - int(self._ends[part]) + len(self.sources[part])]

    def part(self, index: int) -> int:
        """Returns the number of the source that an example comes from."""
        return int(np.searchsorted(self._ends, index, side="right"))

    def parts(self) -> np.ndarray:
        """Returns `part` for every example, int [N]."""
        return np.repeat(np.arange(len(self.sources)), np.diff(self._ends, prepend=0))


class Labelled:
    """A source that checks its labels: one that is a single number must be the index of a class,
    else InputError is raised.

    what: name of an image in messages, before its number.
    """

    def __init__(self, source: Source, what: str):
        self.source, self.what, self.class_names = source, what, source.class_names

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        example = self.source[index]
        label, count = example["label"], len(self.class_names)
        if np.ndim(label) == 0 and (label is None or not 0 <= label < count):
            raise InputError(
                f"the label of {self.what} {index} is {label}",
                f"0 to {count - 1}, of the {count} classes",
            )
        return example


def fingerprint(source: Source) -> dict[str, Any]:
    """Returns "length", "class_names" and "content", a hash, which are equal for two sources with
    the same images in the same order.

    Hashed are the names and labels of files, the images and labels in memory, and SAMPLED examples
    of any other source. 14 million names take 1 to 2 seconds.
    """
    content = hashlib.sha256()
    for part in _parts(source):
        content.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
    names = list(map(str, getattr(source, "class_names", ())))
    return {"length": len(source), "class_names": names, "content": content.hexdigest()[:16]}


def files_hash(source: Source) -> str | None:
    """Returns the hash of the names and labels of files; None of another source."""
    is_files = isinstance(source, folders.Files)
    return fingerprint(source)["content"] if is_files else None


def require_same(**each: Source) -> None:
    """Raises InputError in every process if one has another source than process 0, by the name of
    the argument. All processes must call it."""
    hosts.require_same(lambda: {name: fingerprint(source) for name, source in each.items()})


def _parts(source):
    """Yields the arrays that identify a source."""
    match source:
        case Labelled():
            yield from _parts(source.source)
        case Part():
            yield from (source.indices, *_parts(source.source))
        case folders.Files():
            yield from (source.names, source.labels)
        case in_memory.Arrays():
            yield from (source.images, source.labels)
        case _:
            for index in range(0, len(source), max(len(source) // SAMPLED, 1)):
                with suppress(InputError):  # a damaged image is reported when it is used
                    yield from source[index].values()


class Announced:
    """Blank examples that stand for a data set that is not at hand, with its numbers of examples
    and classes."""

    def __init__(self, size: int, num_classes: int):
        self.size = size
        self.class_names = [str(label) for label in range(num_classes)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": np.zeros((1, 1, 3), np.uint8), "label": np.int32(0)}


def check_classes(class_names: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Raises InputError with the first name if classes are missing or unknown."""
    missing = sorted(set(expected) - set(class_names), key=list(expected).index)
    unknown = sorted(set(class_names) - set(expected), key=list(class_names).index)
    for what, names in (("lacks", missing), ("has the unknown", unknown)):
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise InputError(
                f"{where} {what} class {names[0]!r}{more}",
                f"the {len(expected):,} classes {expected[0]!r} to {expected[-1]!r}",
            )
