"""Data sets that fit into memory."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from convnext import unpickling
from convnext.errors import InputError, require

MAX_BYTES = 2**28  # of a file in CIFAR's archives; the largest, CIFAR-100's for training, has 155e6


class Arrays:
    """Images [N, H, W, 3] and labels [N]."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str]):
        self.images, self.labels, self.class_names = images, labels, class_names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self.images[index], "label": self.labels[index]}


def digits() -> tuple[Arrays, Arrays]:
    """1,797 digits of 8x8 pixels, by 43 people, in the order in which they were written.

    The first 1,437 to train on, the last 360 to validate on: other hands, so harder than a
    random split. UCI, "Optical Recognition of Handwritten Digits",
    https://doi.org/10.24432/C50P49.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=-1)
    labels = data.target.astype(np.int32)
    names = [str(name) for name in data.target_names]
    split = 1437
    return Arrays(images[:split], labels[:split], names), Arrays(
        images[split:], labels[split:], names
    )


def cifar(path: str) -> tuple[Arrays, Arrays]:
    """CIFAR-10, or CIFAR-100 with its fine classes, from cifar-10-python.tar.gz or
    cifar-100-python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html."""
    accepted = "accepted: cifar-10-python.tar.gz or cifar-100-python.tar.gz, as published"
    cifar_10 = ([f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta")
    cifar_100 = (["train"], "test", "meta")
    try:
        files = _files(path, {*cifar_10[0], *cifar_10[1:], *cifar_100[0], *cifar_100[1:]})
    except Exception as error:  # of tarfile, of zlib, of the file system
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot read {path}: {reason}; {accepted}") from error
    (train, test, meta), labels, names = (
        (cifar_100, b"fine_labels", b"fine_label_names")
        if "train" in files
        else (cifar_10, b"labels", b"label_names")
    )
    missing = sorted({*train, test, meta} - set(files))
    if missing:
        raise InputError(f"{path} has no {missing[0]}; {accepted}")
    try:
        class_names = [name.decode() for name in _unpickled(files[meta])[names]]
        return tuple(
            _of_batches([_unpickled(files[name]) for name in batches], labels, class_names)
            for batches in (train, [test])
        )
    except Exception as error:  # a damaged pickle can raise anything, and nothing of it has run
        raise InputError(f"cannot read {path}: {error}; {accepted}") from error


def _files(path, names):
    """{name: bytes} of those in the archive that are wanted."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name).name
            if member.isreg() and name in names:
                require(member.size <= MAX_BYTES, f"the size of {name}", member.size, MAX_BYTES)
                found[name] = archive.extractfile(member).read()
    return found


def _of_batches(batches, labels, class_names):
    images = np.concatenate([batch[b"data"].values for batch in batches])
    images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # of planes, one for each colour
    classes = np.concatenate([batch[labels] for batch in batches]).astype(np.int32)
    if classes.shape != images.shape[:1] or not np.isin(classes, range(len(class_names))).all():
        raise ValueError("labels that are not one for each image, or of no class")
    return Arrays(np.ascontiguousarray(images), classes, class_names)


def _unpickled(data):
    return unpickling.Unpickler(io.BytesIO(data), _NAMES, encoding="bytes").load()


class _Bytes(unpickling.Stateful):
    """Stands for an array of uint8. numpy would take more from the file than numbers: what they
    mean, which may be addresses."""

    def __init__(self, *_):
        self.values = np.empty(0, np.uint8)

    def take(self, state):
        _, shape, dtype, is_fortran, data = state
        if dtype != "u1" or is_fortran:
            raise ValueError("an array that is not of uint8")
        self.values = np.frombuffer(data, np.uint8).reshape(shape)


def _dtype(name, *_):
    return name if isinstance(name, str) else name.decode()


_NAMES = {
    ("numpy", "ndarray"): None,  # as an argument only
    ("numpy", "dtype"): _dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Bytes,
    ("numpy._core.multiarray", "_reconstruct"): _Bytes,
}
