import csv
import json

import pytest

from convnext.errors import InputError
from convnext.evaluation import results

RESULT = dict(
    model="convnext_tiny.fb_in1k", weights="", data="val", img_size=224, crop_pct=0.875,
    interpolation="bicubic", views=1, probe="", param_count=28_589_128, count=50_000,
    loss=0.8123456, top1=0.82066, top5=0.95854, ece=0.0512345, class_accuracy={"a": 0.5},
)  # fmt: skip


def test_the_columns_are_timms_and_more(tmp_path):
    path = tmp_path / "results.csv"
    results.write_csv(path, [RESULT])
    header, line = path.read_text().splitlines()
    # As in timm's results-imagenet.csv, but that it writes the error with three digits, too.
    assert header.startswith(
        "model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation,"
    )
    assert line.startswith(
        "convnext_tiny.fb_in1k,82.066,17.934,95.854,4.146,28.59,224,0.875,bicubic,"
    )
    (row,) = csv.DictReader(path.open())
    assert (row["data"], row["count"], row["loss"]) == ("val", "50000", "0.812346")
    assert (row["ece"], row["mce"]) == ("5.123", "")


def test_results_are_added_and_those_of_the_same_replaced(tmp_path):
    path = tmp_path / "results.csv"
    results.write_csv(path, [RESULT, {**RESULT, "img_size": 288}])
    results.write_csv(path, [{**RESULT, "top1": 0.5}, {**RESULT, "data": "a"}])
    rows = results.read_csv(path)
    found = [(row["data"], row["img_size"], row["top1"]) for row in rows]
    assert found == [("val", "224", "50.000"), ("val", "288", "82.066"), ("a", "224", "82.066")]


def test_what_is_interrupted_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    results.write_csv(path, [RESULT])
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.write_csv(path, [{**RESULT, "data": "a"}])
    assert path.read_bytes() == before


def test_a_loss_that_is_not_finite_is_null_in_json(tmp_path):
    results.write_json(tmp_path / "out", [{**RESULT, "loss": float("nan")}])
    (found,) = json.loads((tmp_path / "out").read_text())
    assert found["loss"] is None and found["class_accuracy"] == {"a": 0.5}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"model,top1\nx,1\n", "has the columns model, top1; accepted: a new file, or one with"),
        (b"", "has no columns; accepted"),
        (b"\xff\xfe\x00", "cannot read .*results.csv"),
    ],
)
def test_another_file_is_refused_and_not_touched(tmp_path, content, message):
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        results.check_csv(path)
    assert path.read_bytes() == content


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="accepted: a file in a folder that exists"):
        results.check_csv(tmp_path / "no" / "results.csv")
