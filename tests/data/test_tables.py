import json

import numpy as np
import pytest
from PIL import Image

from convnext.data import folders, sources, tables
from convnext.training import losses
from tests.helpers.inputs import noise, refused


@pytest.fixture
def root(tmp_path):
    """Twenty images, of which two lie in a folder of their own."""
    (tmp_path / "inner").mkdir()
    for i in range(20):
        folder = tmp_path / "inner" if i < 2 else tmp_path
        Image.fromarray(noise(4, 5, 3) ^ np.uint8(i)).save(folder / f"{i:02d}.png")
    return tmp_path


def name(i):
    return f"inner/{i:02d}.png" if i < 2 else f"{i:02d}.png"


def table(root, lines, suffix="csv"):
    path = root / f"table.{suffix}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def by_name(*parts):
    return {
        str(part.path(i).relative_to(part.root)): part[i]["label"]
        for part in parts
        for i in range(len(part))
    }


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_label_is_one_class(root, suffix):
    names = ["dog", "cat", "ä, b"]
    if suffix == "csv":
        lines = ["file_name,label", *(f'{name(i)},"{names[i % 3]}"' for i in range(20))]
    else:
        lines = [json.dumps({"file": name(i), "label": names[i % 3]}) for i in range(20)]
    train, val = sources.load("folder", str(table(root, lines, suffix)), val_fraction=0.3)
    assert train.class_names == ["cat", "dog", "ä, b"] and train.problem_type is None
    found = by_name(train, val)
    assert found == {name(i): train.class_names.index(names[i % 3]) for i in range(20)}
    assert train[0]["label"].dtype == np.int32 and 0 < len(val) < 15
    np.testing.assert_array_equal(
        train[0]["image"], np.asarray(Image.open(train.path(0)).convert("RGB"))
    )


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_labels_are_several_classes_or_none(root, suffix):
    several = [["cat", "dog"], [], ["eel"]]
    if suffix == "csv":
        lines = ["file,labels", *(f"{name(i)},{'|'.join(several[i % 3])}" for i in range(20))]
    else:
        lines = [json.dumps({"file": name(i), "labels": several[i % 3]}) for i in range(20)]
    train, val = tables.load(table(root, lines, suffix), val_fraction=0.3)
    assert train.class_names == ["cat", "dog", "eel"]
    assert train.problem_type == losses.MULTI_LABEL == val.problem_type
    rows = [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    for path, label in by_name(train, val).items():
        assert label.tolist() == rows[int(path[-6:-4]) % 3] and label.dtype == np.float32


def test_values_are_numbers_to_predict(root):
    lines = ["image,value_x,other,value_y", *(f"{name(i)},{i},?,-1.5" for i in range(20))]
    train, val = tables.load(table(root, lines), val_fraction=0.3)
    assert train.problem_type == losses.REGRESSION and train.class_names == ["value_x", "value_y"]
    for path, label in by_name(train, val).items():
        assert label.tolist() == [int(path[-6:-4]), -1.5] and label.dtype == np.float32


def test_problem_types_are_those_of_the_losses():
    assert {*tables.PROBLEM_TYPES.values()} - {None} <= {*losses.PROBLEM_TYPES}


def test_a_column_says_the_split(root):
    splits = ["train", "train", "valid", "holdout"]
    lines = ["file,label,split"]
    lines += [f"{name(i)},{'ab'[i % 2]},{splits[i % 4]}" for i in range(20)]
    path = table(root, lines)
    train, val = tables.load(path)
    assert (len(train), len(val)) == (10, 5)
    assert train.notes == ("5 lines of other splits are not used",)
    _, val = tables.load(path, val_split="holdout")
    assert sorted(by_name(val)) == [name(i) for i in range(3, 20, 4)]
    refused("the splits in .* are holdout, train, valid; accepted: x", tables.load, path, None, "x")
    train, val = tables.load(path, 0.3, "train", "train")
    assert len(train) + len(val) == 20


def test_numbers_are_split_by_the_names_alone(root):
    """So that one label more or less, or another value, moves nothing."""
    lines = ["file,value", *(f"{name(i)},{i}" for i in range(20))]
    _, before = tables.load(table(root, lines), 0.3)
    lines = ["file,value", *(f"{name(i)},{-i}" for i in range(20))]
    _, after = tables.load(table(root, lines), 0.3)
    assert by_name(before).keys() == by_name(after).keys()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["file,label"], "names no files; accepted: a first line such as file,label"),
        (["label", "a"], "has the columns label; accepted: a first line"),
        (["file,label,labels", "02.png,a,a"], "has the columns file, label, labels"),
        (["file,label", "99.png,a"], "line 2 of .* names 99.png, which is not there"),
        (["file,label", "02.png,a", "02.png,b"], "lines 2 and 3 of .* name 02.png"),
        (["file,label", "02.png,"], "label is '' in line 2 of .*; accepted: the name of a class"),
        (["file,labels", "02.png,a|"], "labels is 'a|' in line 2"),
        (["file,value", "02.png,abc"], "value is 'abc' in line 2 of .*; accepted: finite numbers"),
        (["file,value", "02.png,nan"], "value is 'nan' in line 2"),
        (["file,label", "table.csv,a"], "line 2 of .* names table.csv; accepted: files ending in"),
        (["file,label", "02.png,a,b"], "line 2 of .* has more fields than the first"),
        (["file,label", "02.png"], "line 2 of .* has fewer fields than the first"),
        (["file,label", '02.png,"a'], "cannot read .*table.csv: unexpected end of data"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(root, lines, told):
    refused(told.replace("|", r"\|"), tables.load, table(root, lines), 0.5)


def test_a_table_that_cannot_be_read_is_named(root):
    refused("cannot read .*: No such file", tables.load, root / "none.csv", 0.5)
    refused("cannot read .*: ", tables.load, table(root, ["{"], "jsonl"), 0.5)
    refused("line 1 of .* is no object", tables.load, table(root, ["[1]"], "jsonl"), 0.5)
    (root / "table.csv").write_bytes(b"file,label\n\xff,a\n")
    refused("cannot read .*: 'utf-8'", tables.load, root / "table.csv", 0.5)
    path = table(root, ["file,label", f"{name(2)},a", f"{name(3)},a"])
    refused("has no column split; accepted: .* data.val_fraction", tables.load, path)


def test_the_whole_table_is_evaluated_on(root):
    path = table(root, ["file,label,split", f"{name(2)},a,train", f"{name(3)},b,val"])
    assert by_name(tables.whole(path)) == {name(2): 0, name(3): 1}


def test_a_home_is_expanded(root, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    table(root, ["file,label", *(f"{name(i)},{'ab'[i % 2]}" for i in range(20))])
    train, _ = sources.load("folder", "~/table.csv", val_fraction=0.3)
    assert train.root == root and isinstance(train, folders.Files)
