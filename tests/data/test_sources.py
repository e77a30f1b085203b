from pathlib import Path

import numpy as np
import pytest

from convnext.data import folders, imagenet, in_memory, sources
from convnext.errors import InputError
from convnext.training import losses
from tests.helpers.inputs import refused


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
    refused("arrayrecord has nothing to validate on; accepted: --config.data.val_fraction",
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


def test_the_first_label_is_of_an_image_that_can_be_read():
    class Damaged(in_memory.Arrays):
        def __getitem__(self, index):
            if index < 2:
                raise InputError(f"cannot read {index}")
            return super().__getitem__(index)

    images, labels = np.zeros((3, 2, 2, 3), np.uint8), np.array([5, 6, 7], np.int32)
    assert sources.first_label(Damaged(images, labels, [])) == 7
    with pytest.raises(InputError, match="cannot read 1"):
        sources.first_label(Damaged(images[:2], labels[:2], []))


def test_the_number_of_classes_is_the_datas():
    train, _ = sources.load("digits")
    assert sources.check_num_classes(train, None, losses.SINGLE_LABEL) == 10
    assert sources.check_num_classes(train, 10, losses.SINGLE_LABEL) == 10
    with pytest.raises(InputError, match="model.num_classes is 1000; accepted: 10"):
        sources.check_num_classes(train, 1000, losses.SINGLE_LABEL)


def test_a_regression_has_as_many_outputs_as_a_label_has_numbers():
    train, _ = sources.load("digits")
    assert sources.check_num_classes(train, None, losses.REGRESSION) == 1
    with pytest.raises(InputError, match="num_classes is 10 in a regression; accepted: 1, as"):
        sources.check_num_classes(train, 10, losses.REGRESSION)


SYNSETS = imagenet.synsets("1k")


@pytest.mark.parametrize(
    "found, labels, message",
    [
        ("ab", "abc", "the set lacks class 'c'; accepted: the 3 classes 'a' to 'c'"),
        ("abcd", "abc", "the set has the unknown class 'd'; accepted: the 3 classes"),
        ("acb", "abc", "or another order: class 1 is 'c' there and 'b' here; accepted: the same"),
        ("xyz", "abc", "other classes than W, or another order: class 0 is 'x' there and 'a' here"),
        ("xy", "abc", "the set has 2 classes and W 3; accepted: as many"),
        ("ab", ["LABEL_0"], "the set has 2 classes and W 1; accepted: as many"),
        (SYNSETS[:2] + SYNSETS[3:] + SYNSETS[2:3], SYNSETS, "another order: class 2 is 'n0149"),
        (SYNSETS, "abc", "the set has 1,000 classes and W 3; accepted"),
    ],
)
def test_classes_that_weights_do_not_have_are_named(found, labels, message):
    with pytest.raises(InputError, match=message):
        sources.check_labels(list(found), list(labels), "the set", "W")


@pytest.mark.parametrize(
    "found, labels",
    [
        ("abc", "abc"),
        ("ab", ["LABEL_0", "LABEL_1"]),  # weights without names
        (SYNSETS, imagenet.names(1000)),  # folders of synsets, labels in words
        (SYNSETS, SYNSETS),
    ],
)
def test_classes_that_weights_have_are_accepted(found, labels):
    sources.check_labels(list(found), list(labels), "the set", "W")


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
