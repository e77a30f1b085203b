"""Reads files of torch.save without torch, and executes nothing that is in them.

Such a file is a zip archive. Its entry data.pkl is a pickle in which each tensor is a call that
rebuilds it, and each entry `data/<key>` is a storage of raw numbers (torch/serialization.py). The
unpickler knows these calls and plain containers, and refuses every other name.
"""

import io
import math
import os
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from convnext.errors import InputError
from convnext.files import pickles

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
MAX_DIMS = 8  # of a tensor; kernels have 4


def read(path: str | os.PathLike) -> Any:
    """Reads the object in the file, with tensors as numpy arrays.

    Raises InputError if the file is not such an archive, is damaged, or refers to anything but
    tensors, numbers, strings and containers.
    """
    try:
        return _read(path)
    except InputError:
        raise
    except pickles.RefusedError as error:
        raise InputError(
            f"{path} is refused: {error}", "tensors and plain containers, by torch.save"
        ) from error
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is no whole zip archive ({error})",
            "a file by torch.save in the format that it has since PyTorch 1.6",
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read {path}: {reason}", "a file by torch.save") from error
    except Exception as error:  # a damaged pickle can raise anything, and nothing of it has run
        raise InputError(f"{path} is damaged: {error}", "a file by torch.save") from error


def _read(path):
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise InputError(
                f"{path} is a zip archive with {len(names)} entries data.pkl",
                "a file by torch.save",
            )
        root = names[0].removesuffix("data.pkl")
        size = os.stat(path).st_size
        if f"{root}byteorder" in archive.namelist():
            order = _entry(archive, f"{root}byteorder", size)
            if order != b"little":
                raise InputError(f"{path} has byte order {order[:20]!r}", "little")
        data = _entry(archive, names[0], size)
        return _Unpickler(io.BytesIO(data), archive, root, size).load()


def _entry(archive, name, largest):
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:  # torch never compresses; a zip bomb does
        raise pickles.RefusedError(f"its entry {name} is compressed")
    if info.file_size > largest:  # memory of this size would be reserved
        raise ValueError("its entries are larger than itself")
    return archive.read(info)


class _Storage:
    """Numbers of a storage, as bytes. A class of its own, so that a tensor cannot pass for one."""

    def __init__(self, data, dtype):
        self.data, self.dtype = data, dtype

    def __len__(self):
        return len(self.data) // self.dtype.itemsize


class _Unpickler(pickles.Unpickler):
    def __init__(self, stream, archive, root, size):
        super().__init__(stream, _NAMES, encoding="utf-8")
        self._archive, self._root, self._storages = archive, root, {}
        self._unread = size

    def persistent_load(self, reference):
        kind, dtype, key, _, size = reference if type(reference) is tuple else ()
        is_storage = type(kind) is str and kind == "storage" and isinstance(dtype, np.dtype)
        is_key = type(key) is str and len(key) <= pickles.MAX_KEY
        if not (is_storage and is_key and _is_count(size)):
            raise ValueError("a reference to something else than a storage")
        if key not in self._storages:
            data = _entry(self._archive, f"{self._root}data/{key}", self._unread)
            storage = _Storage(data, dtype)
            if len(data) % dtype.itemsize or len(storage) != size:
                raise ValueError(f"storage {key} has {len(storage)} numbers instead of {size}")
            # Entries of an archive may overlap, so the file's size limits each of them and the sum.
            self._unread -= len(data)
            self._storages[key] = storage
        return self._storages[key]


class _Namespace:
    """Empty stand-in for an argparse.Namespace."""


def _rebuild_tensor(storage, offset, size, stride, *_):
    """Returns a view of the storage. The tensor may not reach past it or be larger than it."""
    is_shape = _is_shape(size) and _is_shape(stride) and len(size) == len(stride)
    if type(storage) is not _Storage or not _is_count(offset) or not is_shape:
        raise ValueError("a tensor whose storage, offset, size and stride do not go together")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= len(storage) or math.prod(size) > len(storage):
        raise ValueError(f"a tensor of size {size} reaches past its storage")
    itemsize = storage.dtype.itemsize
    strides = [step * itemsize for step in stride]
    return np.ndarray(size, storage.dtype, storage.data, offset * itemsize, strides)


def _is_count(number):
    return type(number) is int and 0 <= number < 2**63


def _is_shape(numbers):
    return type(numbers) is tuple and len(numbers) <= MAX_DIMS and all(map(_is_count, numbers))


def _size(numbers):
    if not _is_shape(numbers):
        raise ValueError(f"a size that is not of up to {MAX_DIMS} numbers")
    return numbers


def _rebuild_parameter(data, *_):
    return data


_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch", "Size"): _size,
    ("argparse", "Namespace"): _Namespace,  # the arguments that the official train script saves
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}
