import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest

from convnext import hosts
from convnext.data import folders, in_memory, sources
from convnext.errors import InputError
from convnext.images import decode
from tests.helpers import numbered
from tests.helpers.archives import jpeg
from tests.helpers.inputs import refused
from tools import prepare


def test_an_unknown_source_is_refused(tmp_path):
    accepted = (
        "accepted: digits, folder, arrayrecord, parquet, or a data set of TensorFlow Datasets"
    )
    refused(f"data.name is 'imagnet'; {accepted}", sources.load, "imagnet")
    refused(f"data.name is 'imagnet', and there is none in data.root, '{tmp_path}'; {accepted}",
            sources.load, "imagnet", str(tmp_path))  # fmt: skip


def test_a_source_without_a_validation_part_is_split_at_random(monkeypatch):
    images = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    whole = in_memory.Arrays(images, np.arange(50, dtype=np.int32) % 5, list("abcde"))
    monkeypatch.setattr(sources.arrayrecord, "load", lambda root: (whole, None))
    refused("arrayrecord has no validation images; accepted: --config.data.val_fraction",
            sources.load, "arrayrecord", "x")  # fmt: skip
    train, val = sources.load("arrayrecord", "x", val_fraction=0.2)
    found = [[int(part[i]["image"][0, 0, 0]) for i in range(len(part))] for part in (train, val)]
    assert len(found[1]) == 10 and sorted(found[0] + found[1]) == list(range(50))
    assert found[1] != list(range(10)) and train.class_names == list("abcde")
    assert int(val[3]["label"]) == found[1][3] % 5


@pytest.mark.parametrize("fraction", [0, 1, 1.5])
def test_a_fraction_is_between_0_and_1(fraction):
    refused(f"data.val_fraction is {fraction}; accepted: a number between 0 and 1", sources.load,
            "folder", "x", val_fraction=fraction)  # fmt: skip


def labelled(labels):
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    return sources.Labelled(in_memory.Arrays(images, labels, ["a", "b", "c"]), "training image")


@pytest.mark.parametrize("label", [-1, 3, None])
def test_a_label_that_is_of_no_class_is_refused_by_its_image(label):
    source = labelled([np.int32(0), np.int32(2), label])
    assert [int(source[index]["label"]) for index in (0, 1)] == [0, 2]
    refused(f"the label of training image 2 is {label}; accepted: 0 to 2, of the 3 classes",
            source.__getitem__, 2)  # fmt: skip


def test_labels_of_several_numbers_are_left_as_they_are():
    row = np.array([0, -7.5, 9], np.float32)
    np.testing.assert_array_equal(labelled([row])[0]["label"], row)


@pytest.mark.parametrize("name", ["folder", "arrayrecord", "parquet"])
def test_files_that_are_decoded_on_demand_are_the_same(name, tmp_path):
    """In another process, too: those that make batches are sent the source."""
    root, data = tmp_path / "folder", [jpeg(value) for value in range(0, 60, 10)]
    for part in ("train", "val"):
        for index, one in enumerate(data):
            path = root / part / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one)
    if name == "arrayrecord":
        prepare.main([f"--source={root}", f"--out={tmp_path / name}"])
    if name == "parquet":
        rows = {"image": [{"bytes": one, "path": None} for one in data], "label": [0, 1] * 3}
        features = dict(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        made.to_parquet(tmp_path / name / "train.parquet")
    source, _ = sources.load(name, str(tmp_path / name), val_fraction=0.5)
    assert isinstance(source[0]["image"], np.ndarray)
    on_demand = sources.decoded_on_demand(sources.Labelled(source, "image"))
    on_demand = pickle.loads(pickle.dumps(on_demand))
    for index in range(len(source)):
        image = on_demand[index]["image"]
        assert isinstance(image, decode.Rows)
        np.testing.assert_array_equal(image, source[index]["image"])
        assert on_demand[index]["label"] == source[index]["label"]
    in_memory = numbered.source(3)
    assert sources.decoded_on_demand(in_memory) is in_memory


def test_joined_sources_follow_one_another():
    parts = [numbered.source(count, numbered.Counted) for count in (3, 0, 1, 5)]
    joined = sources.Joined(parts)
    assert len(joined) == 9 and joined.class_names == ["a", "b", "c"]
    assert [int(joined[i]["image"][0, 0, 0]) for i in range(9)] == [0, 1, 2, 0, 0, 1, 2, 3, 4]
    assert [part.read for part in parts] == [[0, 1, 2], [], [0], [0, 1, 2, 3, 4]]
    assert [joined.part(index) for index in range(9)] == [0, 0, 0, 2, 3, 3, 3, 3, 3]
    assert joined.parts().tolist() == [0, 0, 0, 2, 3, 3, 3, 3, 3]


def test_a_source_that_another_process_does_not_have_is_named(monkeypatch):
    compared = []
    monkeypatch.setattr(hosts, "require_same", lambda values: compared.append(values()))
    train, val = numbered.source(3), numbered.source(2)
    sources.require_same(train=train, val=val)
    expected = {"train": sources.fingerprint(train), "val": sources.fingerprint(val)}
    assert compared == [expected]
    monkeypatch.undo()
    sources.require_same(train=None)  # a process alone compares nothing


def files(root="a", names=(b"0.jpg", b"1.jpg", b"2.jpg"), labels=(0, 0, 1), classes=("cat", "dog")):
    return folders.Files(Path(root), classes, np.array(names), np.array(labels, np.int32))


def test_a_source_is_known_by_its_classes_and_by_which_images_come_in_which_order():
    known = sources.fingerprint(files())
    assert known == sources.fingerprint(files(root="b"))
    assert (known["length"], known["class_names"]) == (3, ["cat", "dog"])
    others = [
        files(names=(b"0.jpg", b"1.jpg", b"3.jpg")), files(names=(b"1.jpg", b"0.jpg", b"2.jpg")),
        files(labels=(0, 1, 1)), files(names=(b"0.jpg", b"1.jpg"), labels=(0, 0)),
        sources.Part(files(), np.array([0, 1])), sources.Part(files(), np.array([0, 2])),
    ]  # fmt: skip
    contents = {sources.fingerprint(source)["content"] for source in others}
    assert len(contents | {known["content"]}) == 7
    of_others = sources.fingerprint(files(classes=("cat", "cow")))
    assert of_others != known and of_others["content"] == known["content"]


def test_a_source_in_memory_is_known_by_all_of_its_pixels():
    source, _ = sources.load("digits")
    images = source.images.copy()
    images[1234, 4, 4, 2] ^= 1
    changed = in_memory.Arrays(images, source.labels, source.class_names)
    assert sources.fingerprint(changed) != sources.fingerprint(source)


def test_what_stands_around_a_source_does_not_change_what_it_is_known_by():
    assert sources.fingerprint(sources.Labelled(files(), "image")) == sources.fingerprint(files())


class Stream:
    """Images that are only known when they are asked for; every tenth is damaged."""

    class_names = ("all",)

    def __init__(self, size, first=0):
        self.size, self.first, self.asked = size, first, []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.asked.append(index)
        if index % 10 == 9:
            raise InputError("damaged")
        image = np.full((1, 1, 3), (self.first + index) % 256, np.uint8)
        return {"image": image, "label": np.int32(0)}


@pytest.mark.parametrize("size", [0, 1, 63, 64, 127, 1000, 1_281_167])
def test_of_any_other_source_examples_from_start_to_end_are_looked_at(size):
    source = Stream(size)
    known = sources.fingerprint(source)
    assert len(source.asked) <= 127 and known == sources.fingerprint(Stream(size))
    assert source.asked == sorted(set(source.asked))
    if size:
        assert max(source.asked) >= size - 1 - size // 64
        assert known != sources.fingerprint(Stream(size, first=1))
