import importlib
import io
import pickle
import tarfile
from functools import partial

import numpy as np
import pytest

from convnext.data import in_memory, sources
from convnext.data.batches import EvalBatches, TrainBatches
from convnext.data.epochs import Epochs
from convnext.images import augment
from tests.helpers.inputs import refused


def test_the_digits_are_split_by_writer():
    train, val = sources.load("digits")
    assert (len(train), len(val)) == (1437, 360)
    assert list(train.class_names) == [str(i) for i in range(10)]
    example = train[0]
    assert example["image"].shape == (8, 8, 3) and example["image"].dtype == np.uint8
    assert (example["image"].max(), example["label"]) == (239, 0)  # 15 of 16, a zero
    labels = [int(val[i]["label"]) for i in range(360)]
    assert np.bincount(labels).tolist() == [35, 36, 35, 37, 37, 37, 37, 36, 33, 37]


class Python2Pickler(pickle._Pickler):
    """Writes bytes as the strings that they are in Python 2, which wrote CIFAR's archives."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    dispatch[bytes] = save_string


def add(archive, name, value):
    """A file in an archive: of these bytes, or of what Python 2 would pickle."""
    data = value
    if not isinstance(value, bytes):
        file = io.BytesIO()
        Python2Pickler(file, protocol=2).dump(value)
        data = file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def planes(count, first):
    """Rows of 3,072 bytes: 1,024 of red, of green, of blue. Red says which image it is."""
    data = np.zeros((count, 3, 32, 32), np.uint8)
    data[:, 0] = np.arange(first, first + count)[:, None, None]
    data[:, 1] = np.arange(32)[:, None]
    data[:, 2] = np.arange(32)
    return data.reshape(count, 3072)


@pytest.fixture
def cifar10(tmp_path):
    return write_cifar10(tmp_path)


def write_cifar10(folder):
    path = folder / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for i in range(1, 6):
            batch = {b"data": planes(4, 10 * i), b"labels": [i, 0, 9, 3], b"batch_label": b"x"}
            add(archive, f"cifar-10-batches-py/data_batch_{i}", batch)
        add(
            archive,
            "cifar-10-batches-py/test_batch",
            {b"data": planes(3, 90), b"labels": [7, 8, 9]},
        )
        names = [f"class {i}".encode() for i in range(10)]
        add(archive, "cifar-10-batches-py/batches.meta", {b"label_names": names})
        add(archive, "cifar-10-batches-py/readme.html", b"<html>")
    return str(path)


def test_cifar_10_is_read_from_its_archive(cifar10):
    train, test = sources.load("cifar10", cifar10)
    assert (len(train), len(test)) == (20, 3) and train.class_names[9] == "class 9"
    assert [int(train[i]["label"]) for i in (0, 4, 8, 1)] == [1, 2, 3, 0]
    assert train[5]["image"].dtype == np.uint8
    assert train[5]["image"][6, 7].tolist() == [21, 6, 7]  # row and column in place
    assert [int(test[i]["label"]) for i in range(3)] == [7, 8, 9]


@pytest.mark.slow
def test_cifars_config_takes_whole_images_from_the_archive(cifar10):
    config = importlib.import_module("configs.cifar10").get_config()
    config.data.root = cifar10
    train, test = sources.load(**config.data)
    assert len(train.class_names) == config.model.num_classes == 10
    transform = partial(augment.evaluate, image_size=config.image_size, **config.preprocess)
    batch = EvalBatches(test, transform, batch_size=4)[0]
    np.testing.assert_array_equal(batch["image"][:3], test.images)
    transform = partial(augment.train, image_size=config.image_size, **config.augment)
    batch = TrainBatches(train, transform, Epochs(len(train), 20, num_epochs=1))[0]
    assert batch["image"].shape == (20, 32, 32, 3) and sorted(batch["label"]) == sorted(
        train.labels
    )


def test_cifar_100_is_read_with_its_fine_classes(tmp_path):
    path = str(tmp_path / "cifar-100-python.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        for name, labels in dict(train=[99, 5], test=[42]).items():
            data = planes(len(labels), 0)
            batch = {b"data": data, b"fine_labels": labels, b"coarse_labels": [1] * len(labels)}
            add(archive, f"cifar-100-python/{name}", batch)
        fine = [f"fine {i}".encode() for i in range(100)]
        meta = {b"fine_label_names": fine, b"coarse_label_names": [b"coarse"] * 20}
        add(archive, "cifar-100-python/meta", meta)
    train, test = sources.load("cifar100", path)
    assert [int(train[i]["label"]) for i in range(2)] == [99, 5] and len(test) == 1
    assert train.class_names[99] == "fine 99" and len(train.class_names) == 100


def test_an_archive_that_is_not_cifars_is_refused(tmp_path, cifar10):
    other = tmp_path / "other.tar.gz"
    with tarfile.open(other, "w:gz") as archive:
        add(archive, "cifar-10-batches-py/data_batch_1", {})
    refused(f"{other} has no batches.meta; accepted: ", in_memory.cifar, str(other))
    other.write_bytes(b"no archive")
    refused(f"cannot read {other}: ", in_memory.cifar, str(other))
    with open(cifar10, "rb") as file:
        other.write_bytes(file.read()[:-100])
    refused(f"cannot read {other}: ", in_memory.cifar, str(other))


class Hostile:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_in_an_archive_runs_nothing(tmp_path, capsys):
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("train", "test", "meta"):
            add(archive, name, Hostile())
    refused("it refers to __builtin__.print; accepted: ", in_memory.cifar, str(path))
    assert "this ran" not in capsys.readouterr().out


class Array:
    """Pickled as an array of another kind than it is."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state


class Nested:
    """Pickled as a tuple that holds itself twice, 60 times over: to convert it takes forever."""


def save_nested(pickler, _):
    pickler.write(b")" + b"q\xc8h\xc8\x86" * 60)


Python2Pickler.dispatch[Nested] = save_nested


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": Array(1, Nested(), np.dtype("u1"), False, b"123")}, "not two axes"),
        ({"data": Array(1, (Nested(), 3072), np.dtype("u1"), False, b"123")}, "not two axes"),
        ({"data": Array(1, (1,) * 9, np.dtype("u1"), False, b"123")}, "not two axes"),
        ({"data": Array(1, (1, 3), np.dtype("u1"), False, Nested())}, "not of uint8"),
        ({"data": Array(1, (1, 3), Nested(), False, b"123")}, "not of uint8"),
        ({"fine_labels": Nested()}, "no list of integers"),
        ({"fine_labels": [Nested()]}, "no list of integers"),
        ({"fine_labels": [True]}, "no list of integers"),
        ({"fine_labels": [10**5000]}, "of no class"),
        ({"data": np.array([[None] * 3072])}, "not of uint8"),  # whose bytes would be addresses
        ({"data": np.zeros((1, 3072))}, "not of uint8"),
        ({"data": Array(1, (10**9, 3072), np.dtype("u1"), False, b"123")}, "reshape"),
        ({"data": 3}, "images that are a int, and no array"),
        ({"fine_labels": [100]}, "of no class"),
        ({"fine_labels": [-1]}, "of no class"),
        ({"fine_labels": [1, 2]}, "not one for each image"),
        ({"fine_labels": "x"}, "no list of integers"),
    ],
)
def test_an_archive_with_other_things_in_it_is_refused(change, message, tmp_path):
    path = tmp_path / "cifar-100-python.tar.gz"
    batch = {b"data": planes(1, 0), b"fine_labels": [3]}
    change = {key.encode(): value for key, value in change.items()}
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "cifar-100-python/meta", {b"fine_label_names": [b"x"] * 100})
        for name, value in dict(train=batch | change, test=batch).items():
            add(archive, f"cifar-100-python/{name}", value)
    refused(f"cannot read {path}: .*{message}", in_memory.cifar, str(path))


@pytest.mark.parametrize(
    "meta, message",
    [(Nested(), "a tuple instead of a dict"), ({b"fine_label_names": Nested()}, "short strings"),
     ({b"fine_label_names": [Nested()]}, "short strings"),
     ({b"fine_label_names": [b"x" * 101]}, "short strings")],
)  # fmt: skip
def test_names_of_classes_are_short_strings(meta, message, tmp_path):
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("train", "test"):
            add(archive, f"cifar-100-python/{name}", {})
        add(archive, "cifar-100-python/meta", meta)
    refused(f"cannot read {path}: .*{message}", in_memory.cifar, str(path))


def test_an_archive_has_a_few_files(cifar10, monkeypatch):
    monkeypatch.setattr(in_memory, "MAX_MEMBERS", 7)
    refused("the number of files is 8; accepted: 7", in_memory.cifar, cifar10)


def test_a_file_of_an_archive_has_a_size(cifar10, monkeypatch):
    monkeypatch.setattr(in_memory, "MAX_BYTES", 1000)
    refused("the size of data_batch_1 is .*; accepted: 1000", in_memory.cifar, cifar10)
