"""TensorFlow Datasets without TensorFlow; Parquet as the Hugging Face Hub has it."""

import io
import pickle
import resource
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from convnext.data import prepared as catalogs
from convnext.data import sources
from convnext.errors import RunError
from tests.helpers.inputs import refused


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def summary(source):
    """(red, label) of each example, in the order of red: TFDS shuffles what it writes."""
    examples = [source[np.int64(i)] for i in range(len(source))]
    return sorted((int(e["image"][0, 0, 0]), int(e["label"])) for e in examples)


class Birds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Three classes; a value in SPLITS is the red of an image, and modulo three its class."""

    VERSION = tfds.core.Version("1.2.3")
    SPLITS = {"train": range(7), "validation": range(10, 14), "test": range(20, 22)}
    UNLABELLED = ()

    def _info(self):
        features = dict(
            image=tfds.features.Image(),
            species=tfds.features.ClassLabel(names=["gull", "owl", "wren"]),
            file_name=tfds.features.Text(),
        )
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {split: self._generate_examples(split) for split in self.SPLITS}

    def _generate_examples(self, split):
        for i in self.SPLITS[split]:
            label = -1 if split in self.UNLABELLED else i % 3
            yield i, dict(image=io.BytesIO(png(i)), species=label, file_name=f"{i}.png")


class Moths(Birds, skip_registration=True):
    """Its test set has no labels, which is written as -1."""

    SPLITS = {"train": range(7), "test": range(20, 22)}
    UNLABELLED = ("test",)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with both, as download_and_prepare writes them."""
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (Birds, Moths):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return str(folder)


def test_a_prepared_data_set_of_tfds_is_read_without_tensorflow(prepared):
    train, val = sources.load("birds", prepared)
    assert list(train.class_names) == ["gull", "owl", "wren"]
    assert summary(train) == [(i, i % 3) for i in range(7)]
    assert summary(val) == [(i, i % 3) for i in range(10, 14)]
    assert train[0]["image"].shape == (4, 6, 3) and train[0]["label"].dtype == np.int32
    assert summary(pickle.loads(pickle.dumps(train))) == summary(train)  # to a worker
    assert "tensorflow" not in sys.modules


def test_splits_are_given_in_the_notation_of_tfds(prepared):
    splits = dict(train_split="train+validation", val_split="test")
    train, val = sources.load("birds:1.2.3", prepared, **splits)
    assert len(train) == 11 and summary(val) == [(20, 2), (21, 0)]
    train, val = sources.load("birds", prepared, train_split="train[:4]")
    assert (len(train), len(val)) == (4, 4)


def test_what_tfds_has_not_prepared_is_refused(prepared):
    refused("data.train_split is 'trian'; accepted: train, validation, test", sources.load, "birds",
            prepared, train_split="trian")  # fmt: skip
    refused("data.name is 'imagenet2012', but there is nothing in .*imagenet2012.*; accepted: a "
            "data set that is prepared", sources.load, "imagenet2012")  # fmt: skip


@pytest.mark.parametrize("name", ["", "no name", "mnist/large", "mnist:9.9.9", "mnist/tall=3"])
def test_what_is_no_name_in_tfds_is_refused_in_one_line(prepared, name):
    refused(rf"^data.name is '{name}': .*; accepted: digits, fol", sources.load, name, prepared)


@pytest.mark.parametrize(
    "name, accepted",
    [
        ("imagenet2012", "a data set that is prepared by"),
        ("cifar10", "cifar-10-python.tar.gz, or a data set that is prepared by"),
        ("cifar100", "cifar-100-python.tar.gz, or a data set that is prepared by"),
        ("oxford_flowers102", "a folder with imagelabels.mat, or a data set that is prepared by"),
    ],
)
def test_a_root_without_the_data_set_is_named(name, accepted):
    refused(f"data.name is '{name}', but there is nothing of it in data.root, '/no/such', and "
            f"nothing in .*{name}.*; accepted: {accepted}", sources.load, name,
            "/no/such")  # fmt: skip


UNLABELLED = "has no labels: that of its first image is {}; accepted: a split with labels, 0 to "


def test_a_split_of_tfds_without_labels_is_refused_by_its_name(prepared):
    refused(f"moths/test {UNLABELLED.format(-1)}2", sources.load, "moths", prepared,
            val_split="test")  # fmt: skip
    refused(f"moths/test {UNLABELLED.format(-1)}2", sources.load, "moths", prepared,
            train_split="test", val_split="train")  # fmt: skip


def test_what_is_validated_on_without_being_named_has_labels(prepared):
    refused("moths has no validation images: its test has no labels; accepted: "
            "--config.data.val_fraction, or --config.data.val_split with the name of a split with "
            "labels", sources.load, "moths", prepared)  # fmt: skip
    train, val = sources.load("moths", prepared, val_fraction=0.3)
    assert sorted(summary(train) + summary(val)) == [(i, i % 3) for i in range(7)]
    assert len(val) == 2


def test_more_shards_of_tfds_than_can_be_open_are_refused(prepared, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (101, 101))
    refused("birds has 2 shards, which are open at once, and a process may open 101 files; "
            "accepted: ulimit -n 102", sources.load, "birds", prepared)  # fmt: skip


def test_too_many_open_files_are_said_in_one_line():
    class Rows:
        def __getitem__(self, index):
            raise RuntimeError("open() failed: Too many open files")

    rows = catalogs.Encoded(Rows(), ["gull"], image="pic", label="species", name="birds/train")
    with pytest.raises(RunError, match="open.. failed: .*; accepted: more, by ulimit -n"):
        rows[0]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """{file: {red: label}} -> a folder as the Hub has it."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        pic=datasets.Image(), caption=datasets.Value("string"),
        species=datasets.ClassLabel(names=["gull", "owl"]),
    )  # fmt: skip

    def files(contents):
        (tmp_path / "data").mkdir()
        for name, labels in contents.items():
            rows = dict(
                pic=[{"bytes": png(i), "path": f"{i}.png"} for i in labels],
                caption=["x" for _ in labels], species=list(labels.values()),
            )  # fmt: skip
            datasets.Dataset.from_dict(rows, features=features).to_parquet(
                tmp_path / "data" / f"{name}.parquet"
            )
        return str(tmp_path)

    return files


@pytest.fixture
def hub(write):
    """Two files of training examples, one of test examples."""
    values = {"train-00000-of-00002": range(3), "train-00001-of-00002": range(3, 5),
              "test-00000-of-00001": range(9, 11)}  # fmt: skip
    return write({name: {i: i % 2 for i in reds} for name, reds in values.items()})


def test_a_folder_of_parquet_files_is_read(hub):
    train, val = sources.load("parquet", hub)
    assert list(train.class_names) == ["gull", "owl"]
    assert summary(train) == [(i, i % 2) for i in range(5)]
    assert summary(val) == [(9, 1), (10, 0)]
    assert summary(pickle.loads(pickle.dumps(train))) == summary(train)
    refused("data.val_split is 'valid'; accepted: train, test", sources.load, "parquet", hub,
            val_split="valid")  # fmt: skip


@pytest.mark.parametrize("label", [-1, None])
def test_a_split_of_parquet_without_labels_is_refused(write, label):
    root = write({"train-00000-of-00001": {1: 0, 2: 1, 3: 0},
                  "test-00000-of-00001": {4: label, 5: label}})  # fmt: skip
    refused(f"{root}/test {UNLABELLED.format(label)}1", sources.load, "parquet", root,
            val_split="test")  # fmt: skip
    refused("parquet has no validation images: its test has no labels; acc", sources.load,
            "parquet", root)  # fmt: skip
    train, val = sources.load("parquet", root, val_fraction=0.3)
    assert (len(train), len(val)) == (2, 1)


@pytest.mark.parametrize("label", [-1, None])
def test_a_row_of_parquet_without_a_label_is_found_at_the_start(write, label):
    root = write({"train-00000-of-00001": {1: 0, 2: 1}, "validation-00000-of-00001": {4: 1},
                  "test-00000-of-00001": {5: 1, 6: label}})  # fmt: skip
    sources.load("parquet", root)
    refused(f"the label of image 1 of {root}/test is {label}; accepted: 0 to 1, of the 2 classes",
            sources.load, "parquet", root, val_split="test")  # fmt: skip


def test_a_row_that_is_only_the_name_of_a_file_is_refused_by_that_name():
    row = {"pic": {"bytes": None, "path": "gone/1.png"}, "species": 0}
    rows = catalogs.Encoded([row], ["gull"], image="pic", label="species", name="hub/train")
    refused("0 of hub/train is the name of a file, gone/1.png; accepted: images", rows.__getitem__,
            0)  # fmt: skip


def test_without_parquet_files_or_the_package_it_says_so(tmp_path, monkeypatch):
    refused("data.root is None; accepted: a folder of Parquet files", sources.load, "parquet")
    refused("data.root is .*; accepted: a folder of", sources.load, "parquet", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("'parquet', but datasets cannot be imported .*; accepted: pip install datasets",
            catalogs.parquet, "x", None, None)  # fmt: skip
