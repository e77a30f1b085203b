"""Data sets that fit into memory."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from convnext.errors import InputError


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
    try:
        with tarfile.open(path) as archive:
            files = {
                PurePosixPath(member.name).name: archive.extractfile(member).read()
                for member in archive
                if member.isfile()
            }
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"cannot read {path}: {reason}; {accepted}") from error
    if "train" in files:
        train, test, meta = ["train"], "test", "meta"
        labels, names = b"fine_labels", b"fine_label_names"
    else:
        train, test, meta = [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta"
        labels, names = b"labels", b"label_names"
    missing = sorted({*train, test, meta} - set(files))
    if missing:
        raise InputError(f"{path} has no {missing[0]}; {accepted}")
    try:
        class_names = [name.decode() for name in _unpickled(files[meta])[names]]
        return tuple(
            _of_batches([_unpickled(files[name]) for name in batches], labels, class_names)
            for batches in (train, [test])
        )
    except (pickle.UnpicklingError, KeyError) as error:
        raise InputError(f"cannot read {path}: {error}; {accepted}") from error


def _of_batches(batches, labels, class_names):
    images = np.concatenate([batch[b"data"] for batch in batches])
    images = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # of planes, one for each colour
    return Arrays(
        np.ascontiguousarray(images),
        np.concatenate([batch[labels] for batch in batches]).astype(np.int32),
        class_names,
    )


def _unpickled(data):
    return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()


class _ArrayUnpickler(pickle.Unpickler):
    """Makes numpy arrays and what pickle itself has, so that no file can run anything."""

    def find_class(self, module, name):
        match module, name:
            case "numpy", "ndarray" | "dtype":
                return getattr(np, name)
            case "numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct":
                return np.empty(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"{module}.{name} is no array")
