"""Data sets that fit into memory."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from convnext.data import archives
from convnext.errors import InputError, require
from convnext.files import pickles

MAX_MEMBERS = 100  # of CIFAR's archives, which have 10
MAX_BYTES = 2**28  # of a file in CIFAR's archives; the largest, CIFAR-100's for training, has 155e6
UINT8 = "u1"


class Arrays:
    """Images [N, H, W, 3] and labels [N]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]):
        self.images, self.labels, self.class_names = images, labels, class_names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self.images[index], "label": self.labels[index]}


def digits() -> tuple[Arrays, Arrays]:
    """Returns 1,797 digits of 8x8 pixels, by 43 people, in the order in which they were written.

    The first 1,437 are the training images, the last 360 the validation images. These are by other
    people, which makes them harder than a random split. UCI, "Optical Recognition of Handwritten
    Digits", https://doi.org/10.24432/C50P49.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=-1)
    labels = data.target.astype(np.int32)
    names = [str(name) for name in data.target_names]
    parts = slice(None, 1437), slice(1437, None)
    train, val = (Arrays(images[part], labels[part], names) for part in parts)
    return train, val


def cifar(path: str) -> tuple[Arrays, Arrays]:
    """Reads CIFAR-10, or CIFAR-100 with its fine classes, from cifar-10-python.tar.gz or
    cifar-100-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html."""
    accepted = "cifar-10-python.tar.gz or cifar-100-python.tar.gz, as published"
    cifar_10 = ([f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta")
    cifar_100 = (["train"], "test", "meta")
    try:
        files = _files(path, {*cifar_10[0], *cifar_10[1:], *cifar_100[0], *cifar_100[1:]})
    except Exception as error:  # of tarfile, of zlib, of the file system
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot read {path}: {reason}", accepted) from error
    (train, test, meta), labels, names = (
        (cifar_100, b"fine_labels", b"fine_label_names")
        if "train" in files
        else (cifar_10, b"labels", b"label_names")
    )
    missing = sorted({*train, test, meta} - set(files))
    if missing:
        raise InputError(f"{path} has no {missing[0]}", accepted)
    try:
        class_names = _names(_unpickled(files[meta])[names])
        return tuple(
            _arrays([_unpickled(files[name]) for name in batches], labels, class_names)
            for batches in (train, [test])
        )
    except Exception as error:  # a damaged pickle can raise anything, and nothing of it has run
        raise InputError(f"cannot read {path}: {error}", accepted) from error


def _files(path, names):
    """Reads {name: bytes} of the files with these names in the archive."""
    files = {}
    with tarfile.open(path, tarinfo=archives.Header) as archive:
        for number, member in enumerate(archive, 1):
            require(number <= MAX_MEMBERS, "the number of files", number, MAX_MEMBERS)
            name = PurePosixPath(member.name).name
            if member.isreg() and name in names:
                require(member.size <= MAX_BYTES, f"the size of {name}", member.size, MAX_BYTES)
                files[name] = archive.extractfile(member).read()
    return files


def _names(names):
    if type(names) is not list or not all(type(x) is bytes and len(x) <= 100 for x in names):
        raise ValueError("names of classes that are no short strings")
    return [name.decode() for name in names]


def _arrays(batches, labels, class_names):
    images = np.concatenate([_planes(batch[b"data"]) for batch in batches])
    images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # from one plane a colour
    classes = [label for batch in batches for label in _classes(batch[labels], len(class_names))]
    if len(classes) != len(images):
        raise ValueError("labels that are not one for each image")
    return Arrays(np.ascontiguousarray(images), np.array(classes, np.int32), class_names)


def _planes(data):
    if type(data) is not _Bytes:
        raise ValueError(f"images that are a {type(data).__name__}, and no array")
    return data.values


def _classes(labels, num_classes):
    """Returns the list, once checked. numpy would convert anything in it, such as nested tuples."""
    is_list = type(labels) is list
    if not is_list or not all(type(x) is int and 0 <= x < num_classes for x in labels):
        raise ValueError("labels that are no list of integers, or of no class")
    return labels


def _unpickled(data):
    value = pickles.Unpickler(io.BytesIO(data), _NAMES, encoding="bytes").load()
    if type(value) is not dict:
        raise ValueError(f"a {type(value).__name__} instead of a dict")
    return value


class _Bytes(pickles.Stateful):
    """Stand-in for an array of uint8. numpy itself would also take the dtype from the file, and
    numbers of another dtype may be addresses."""

    def __init__(self, *_):
        self.values = np.empty(0, np.uint8)

    def take(self, state):
        _, shape, dtype, is_fortran, data = state if type(state) is tuple else ()
        if dtype != UINT8 or is_fortran is not False or type(data) is not bytes:
            raise ValueError("an array that is not of uint8")
        if type(shape) is not tuple or len(shape) != 2 or not all(type(n) is int for n in shape):
            raise ValueError("an array that has not two axes")
        self.values = np.frombuffer(data, np.uint8).reshape(shape)


def _dtype(name, *_):
    """Returns the dtype as text, since numpy's object could be called."""
    return UINT8 if name in (UINT8, UINT8.encode()) else None


_NAMES = {
    ("numpy", "ndarray"): None,  # as an argument only
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Bytes,
    ("numpy._core.multiarray", "_reconstruct"): _Bytes,
}
