"""Where examples come from.

A source has `class_names`, a length, and at each index an example: image uint8 [H, W, 3] of any
size, label int32. `load` gives the two of a data set, to train and to validate on.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convnext.data import archives, arrayrecord, folders, imagenet, in_memory, prepared
from convnext.errors import InputError
from convnext.training import losses

SAMPLED = 64  # examples, spread over a source, by which `fingerprint` knows it; at most twice


class Source(Protocol):
    """Images by number, each {"image": uint8 [H, W, 3], "label"}, and the names of their classes.

    A label is an int32, or numbers for a problem of another type (losses.problem_type).
    """

    class_names: Sequence[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Raises InputError, with a name, where the image cannot be read."""
        ...


def load(
    name: str,
    root: str | None = None,
    val_fraction: float | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
) -> tuple[Source, Source]:
    """The sources to train and to validate on.

    * name "digits": the handwritten digits that ship with scikit-learn.
    * name "folder": one folder a class, in root (`folders.load`).
    * name "arrayrecord": what tools.prepare wrote into root (`arrayrecord.load`).
    * name "parquet": a folder of Parquet files (`prepared.parquet`).
    * name "cifar10" or "cifar100", and root a file: the archive for Python (`in_memory.cifar`).
    * name "oxford_flowers102", and root with imagelabels.mat: as published (`archives.flowers`).
    * Any other name: a data set of TensorFlow Datasets (`prepared.tfds`).

    train_split and val_split are for "parquet" and TensorFlow Datasets. Where there is nothing to
    validate on, it is val_fraction of what there is to train on, drawn at random.

    Raises InputError where there is nothing to read.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise InputError(
            f"data.val_fraction is {val_fraction}", "a number between 0 and 1, both excluded"
        )
    match name:
        case "digits":
            train, val = in_memory.digits()
        case "folder":
            train, val = folders.load(root, val_fraction)
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
    if val is not None:
        return train, val
    if val_fraction is None:
        raise InputError(f"{name} has nothing to validate on", "--config.data.val_fraction")
    order = np.random.default_rng(0).permutation(len(train))
    count = min(max(round(len(train) * val_fraction), 1), len(train) - 1)
    return Part(train, np.sort(order[count:])), Part(train, np.sort(order[:count]))


class Part:
    """The examples of a source at these indices."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices, self.class_names = source, indices, source.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.source[self.indices[index]]


class Labelled:
    """A source of which each label that is one number is the index of a class, or an InputError.

    what: to call an image by, before its number.
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


def first_label(source: Source) -> np.ndarray:
    """The label of the first example that can be read. Raises InputError where none can."""
    for index in range(len(source) - 1):
        with suppress(InputError):
            return source[index]["label"]
    return source[len(source) - 1]["label"]


def fingerprint(source: Source) -> dict[str, Any]:
    """What two sources with the same images in the same order have in common: "length",
    "class_names", and "content", a hash.

    It is the hash of names and labels of files, of images and labels in memory, and of SAMPLED
    examples of any other source. 14 million names take 1 to 2 seconds.
    """
    content = hashlib.sha256()
    for part in _parts(source):
        content.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
    names = list(map(str, source.class_names))
    return {"length": len(source), "class_names": names, "content": content.hexdigest()[:16]}


def _parts(source):
    """Arrays that make a source what it is."""
    match source:
        case Part():
            yield from (source.indices, *_parts(source.source))
        case folders.Files():
            yield from (source.names, source.labels)
        case in_memory.Arrays():
            yield from (source.images, source.labels)
        case _:
            for index in range(0, len(source), max(len(source) // SAMPLED, 1)):
                with suppress(InputError):  # a damaged image, which is found where it is used
                    yield from source[index].values()


class Announced:
    """Blank examples: as many, and of as many classes, as a data set that is not at hand has."""

    def __init__(self, size: int, num_classes: int):
        self.size = size
        self.class_names = [str(label) for label in range(num_classes)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": np.zeros((1, 1, 3), np.uint8), "label": np.int32(0)}


def check_num_classes(source: Source, num_classes: int | None, problem_type: str) -> int:
    """The number of classes of the data; of a regression, of the numbers in a label.

    Raises InputError where the config says another one; None takes what the data has.
    """
    if problem_type == losses.REGRESSION:
        outputs = np.size(first_label(source))
        if num_classes not in (None, outputs):
            raise InputError(
                f"model.num_classes is {num_classes} in a regression",
                f"{outputs}, as many as a label has numbers",
            )
        return outputs
    found = len(source.class_names)
    if num_classes not in (None, found):
        raise InputError(f"model.num_classes is {num_classes}", f"{found}, as the data has")
    return found


def check_classes(found: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Raises InputError, with the first name, where classes are missing or unknown."""
    missing = sorted(set(expected) - set(found), key=list(expected).index)
    unknown = sorted(set(found) - set(expected), key=list(found).index)
    for what, names in (("lacks", missing), ("has the unknown", unknown)):
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise InputError(
                f"{where} {what} class {names[0]!r}{more}",
                f"the {len(expected):,} classes {expected[0]!r} to {expected[-1]!r}",
            )


def check_labels(found: Sequence[str], labels: Sequence[str], where: str, origin: str) -> None:
    """Compares the classes of a source with the labels of the weights of `origin`. Raises
    InputError where they are not the same in the same order, as far as they have names."""
    unnamed = all(label == f"LABEL_{i}" for i, label in enumerate(labels))
    synsets = tuple(found) == imagenet.synsets("1k") and not {*labels} & {*found}
    if not (unnamed or synsets) and {*found} & {*labels}:
        check_classes(found, labels, where)
    if len(found) != len(labels):
        raise InputError(
            f"{where} has {len(found):,} classes and {origin} {len(labels):,}", "as many"
        )
    if unnamed or synsets:
        return
    for index, (ours, theirs) in enumerate(zip(found, labels, strict=True)):
        if ours != theirs:
            raise InputError(
                f"{where} has other classes than {origin}, or another order: class {index} is "
                f"{ours!r} there and {theirs!r} here",
                "the same",
            )
