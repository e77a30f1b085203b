import shutil

import numpy as np
import pytest
from PIL import Image

from convnext.data import folders, survey, tables


def write(folder, count, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng((seed, i)).integers(256, size=(4, 6, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")


def told(root, **options):
    return survey.lines(*folders.load(str(root), **options))


@pytest.fixture
def root(tmp_path):
    for seed, (name, counts) in enumerate(dict(cat=(30, 2), dog=(3, 1), eel=(4, 0)).items()):
        for part, count in zip(("train", "val"), counts, strict=True):
            if count:
                write(tmp_path / part / name, count, seed + 10 * (part == "val"))
    return tmp_path


def test_each_class_is_counted_and_what_may_be_wrong_is_said(root):
    assert told(root) == [
        "classes    cat 30 + 2, dog 3 + 1, eel 4 + 0",
        "unbalanced 30 training images of cat, 3 of dog: --config.class_weights=balanced weighs "
        "the classes alike",
        "not asked  no validation images of eel",
    ]


def test_what_is_skipped_is_counted_in_both_parts(root):
    for name in ("train/cat/a.txt", "train/cat/b.heic_", "val/dog/c.txt", "val/dog/.d.png"):
        (root / name).write_text("")
    assert "skipped    2 .txt, 1 .heic_, 1 hidden" in told(root)


def test_how_the_parts_were_chosen_is_said_where_one_might_not_expect_it(root):
    (root / "val").rename(root / "test")
    assert "split      validates on test, as there is no other folder for it" in told(root)


def test_equal_files_are_counted_across_the_parts_and_within_them(root):
    shutil.copy(root / "train" / "cat" / "000.png", root / "val" / "dog" / "same.png")
    shutil.copy(root / "train" / "cat" / "001.png", root / "train" / "eel" / "same.png")
    assert told(root)[-2:] == [
        "equal      1 validation images have the content of a training image, such as "
        f"{root}/val/dog/same.png and {root}/train/cat/000.png",
        "equal      1 further images have the content of another",
    ]


def test_many_classes_are_summed_up(tmp_path):
    for number in range(13):
        write(tmp_path / "train" / f"c{number:02d}", 2 + number, number)
    write(tmp_path / "val" / "c00", 1, 99)
    assert told(tmp_path) == [
        "classes    13, of 2 to 14 training images, 8 in the median",
        "not asked  no validation images of c01, c02, c03, c04, c05 and 7 more",
    ]


def test_one_class_alone_is_said(tmp_path):
    write(tmp_path / "train" / "a", 4)
    write(tmp_path / "val" / "a", 2, 9)
    assert told(tmp_path)[1] == "classes    one alone: there is nothing to tell apart"


@pytest.mark.parametrize(
    ("column", "labels", "expected"),
    [
        ("labels", ["a|b", "b", "", "b"], "labels     a 1, b 3; none 1"),
        ("value", ["1.5", "-2", "3", "0"], "numbers    value from -2 to 3"),
    ],
)
def test_of_a_table_labels_are_counted_and_numbers_have_a_span(tmp_path, column, labels, expected):
    write(tmp_path / "x", 8)
    rows = [f"x/{i:03d}.png,{label},train" for i, label in enumerate(labels)]
    rows += [f"x/{i:03d}.png,{labels[0]},val" for i in range(4, 8)]
    (tmp_path / "t.csv").write_text("\n".join([f"file,{column},split", *rows]))
    assert survey.lines(*tables.load(tmp_path / "t.csv")) == [expected]
