"""The images whose label is likely wrong, and the tables beside the page of a run."""

import csv
import json

import jax
import jax.numpy as jnp
import pytest

from convnext import ConvNeXt, ImageProcessor, save_pretrained
from tests.helpers import own_images
from tools import linear, report
from tools.reporting import doubts, runs

MODEL = ConvNeXt(depths=(1, 1), dims=(8, 16), num_classes=7, patch_size=2,
                 layer_scale_init_value=0.1)  # fmt: skip


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run on blue and red images, two of which lie in the other's folder."""
    root = tmp_path_factory.mktemp("doubts")
    images, weights = root / "images", root / "weights"
    images.mkdir()
    own_images.write(images, 20, 24, count=60)
    for color, other in (("blue", "red"), ("red", "blue")):
        path = sorted((images / color).iterdir())[3]
        path.rename(images / other / "moved.png")
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    save_pretrained(weights, MODEL, params, labels=[f"label {i}" for i in range(7)],
                    processor=ImageProcessor(size=16), format="transformers")  # fmt: skip
    linear.main([str(images), f"--model={weights}", f"--workdir={root / 'run'}"])
    return root / "run"


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_images_in_the_wrong_folder_are_found(workdir, capsys):
    report.main([f"--workdir={workdir}"])
    images = workdir.parent / "images"
    header, *found = table(workdir / "report_wrong_labels.csv")
    assert header == ["image", "part", "label", "likeliest", "of_label", "of_likeliest"]
    moved = {color: str(images / color / "moved.png") for color in ("blue", "red")}
    assert {(row[0], row[2], row[3]) for row in found} == {
        (moved["blue"], "blue", "red"), (moved["red"], "red", "blue")
    }  # fmt: skip
    assert all(float(row[5]) > 20 * float(row[4]) for row in found)
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert 'alt="blue/moved.png, of blue"' in page and "2 of 120 training and validation" in page
    assert f"{workdir}/report_wrong_labels.csv: 2 images\n" in capsys.readouterr().out
    assert sorted(path.name for path in images.glob("*/moved.png")) == ["moved.png"] * 2

    header, *rows = table(workdir / "report_predictions.csv")
    assert header == ["image", "label", "prediction", "confidence"]
    config = json.loads((workdir / "config.json").read_text())
    assert len(rows) == config["val_size"]
    assert all(row[0].split("/")[-2] == row[1] for row in rows)


@pytest.mark.parametrize(
    "changes, why_not",
    [
        ({"problem_type": "regression"}, "an image has no single label in this run"),
        ({"data": {"name": "digits"}}, "the images of this run are no files of their own"),
        ({"init_from": "nowhere/weights.safetensors"},
         "the weights that the run started from cannot be read: no "),
    ],
)  # fmt: skip
def test_where_nothing_is_looked_for_the_page_says_why(workdir, changes, why_not):
    run = runs.read(workdir)
    run.config.update(changes)
    assert doubts.find(run, None, batch_size=8).why_not.startswith(why_not)


def test_more_images_than_one_waits_for_are_not_looked_at(workdir, monkeypatch):
    monkeypatch.setattr(doubts, "MOST", 119)
    asked = doubts.find(runs.read(workdir), None, batch_size=8)
    assert asked.why_not == "120 images are more than 119"


def test_one_may_do_without(workdir, tmp_path, capsys):
    report.main([f"--workdir={workdir}", "--no-wrong_labels", f"--out={tmp_path / 'page.html'}"])
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", "page_predictions.csv"}
    assert "likely wrong labels: not looked for, not asked for" in capsys.readouterr().out
