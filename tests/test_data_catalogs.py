"""TensorFlow Datasets without TensorFlow; Parquet as the Hugging Face Hub has it."""

import io
import pickle
import resource
import sys

import numpy as np
import pytest
from PIL import Image

from convnext.data import catalogs, sources
from convnext.errors import RunError
from tests.inputs import refused


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def summary(source):
    """(red, label) of each example, in the order of red: TFDS shuffles what it writes."""
    examples = [source[np.int64(i)] for i in range(len(source))]
    return sorted((int(e["image"][0, 0, 0]), int(e["label"])) for e in examples)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data set "birds" of three classes, as download_and_prepare writes it."""
    import tensorflow_datasets as tfds

    class Birds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.3")

        def _info(self):
            features = dict(
                image=tfds.features.Image(),
                species=tfds.features.ClassLabel(names=["gull", "owl", "wren"]),
                file_name=tfds.features.Text(),
            )
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {
                "train": self._generate_examples(range(7)),
                "validation": self._generate_examples(range(10, 14)),
                "test": self._generate_examples(range(20, 22)),
            }

        def _generate_examples(self, values):
            for i in values:
                yield i, dict(image=io.BytesIO(png(i)), species=i % 3, file_name=f"{i}.png")

    folder = tmp_path_factory.mktemp("tfds")
    Birds(data_dir=folder, file_format="array_record").download_and_prepare()
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
    refused("the split is 'trian'; accepted: train, validation, test", sources.load, "birds",
            prepared, train_split="trian")  # fmt: skip
    refused("data.name is .cifar10., but there is nothing in .*cifar10.*; accepted: a data "
            "set that is prepared", sources.load, "cifar10", prepared)  # fmt: skip


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
def hub(tmp_path, monkeypatch):
    """A folder as the Hub has it: two files of training examples, one of test examples."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(
        pic=datasets.Image(), caption=datasets.Value("string"),
        species=datasets.ClassLabel(names=["gull", "owl"]),
    )  # fmt: skip
    (tmp_path / "data").mkdir()
    for name, values in {
        "train-00000-of-00002": range(3), "train-00001-of-00002": range(3, 5),
        "test-00000-of-00001": range(9, 11),
    }.items():  # fmt: skip
        rows = dict(
            pic=[{"bytes": png(i), "path": f"{i}.png"} for i in values],
            caption=["x" for _ in values], species=[i % 2 for i in values],
        )  # fmt: skip
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            tmp_path / "data" / f"{name}.parquet"
        )
    return str(tmp_path)


def test_a_folder_of_parquet_files_is_read(hub):
    train, val = sources.load("parquet", hub)
    assert list(train.class_names) == ["gull", "owl"]
    assert summary(train) == [(i, i % 2) for i in range(5)]
    assert summary(val) == [(9, 1), (10, 0)]
    assert summary(pickle.loads(pickle.dumps(train))) == summary(train)
    refused("the split is 'valid'; accepted: train, test", sources.load, "parquet", hub,
            val_split="valid")  # fmt: skip


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
