"""The three commands for one's own images, as the README and docs/own_data.md have them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convnext.runs import log
from dev import shapes
from tools import predict, report

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
CLASSES = ("blue_star", "red_circle", "yellow_bar")
# What makes a run of seconds of each; all the rest is as it comes.
SMALL = ("--config.num_steps=24", "--config.image_size=64", "--config.model.depths=(1,1)",
         "--config.model.dims=(16,32)", "--config.schedule.peak_lr=4e-3")  # fmt: skip


def run(*arguments):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1"},
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of 30, of several sizes and kinds, as people have them."""
    folder = tmp_path_factory.mktemp("tutorial") / "photos"
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for index in range(30):
            rng = np.random.default_rng((index, *name.encode()))
            size = ((320, 240), (240, 320), (400, 300))[index % 3]
            suffix = (".jpg", ".JPG", ".jpeg", ".png", ".webp")[index % 5]
            photo = shapes.draw(*name.split("_"), rng).resize(size)
            photo.save(folder / name / f"IMG_{index:04d}{suffix}")
    return folder


@pytest.fixture(scope="module")
def weights(photos):
    """The workdir of a run from scratch, in the place of published weights."""
    workdir = photos.parent / "scratch"
    run("train.py", "--config=configs/folder.py", f"--config.data.root={photos}",
        f"--workdir={workdir}", *SMALL)  # fmt: skip
    assert log.read(workdir / "metrics.jsonl")[-1]["val/top1"] > 0.6  # chance is 0.33
    return workdir


@pytest.fixture(scope="module")
def trained(photos, weights):
    """The workdir of the first command, and what it printed."""
    workdir = photos.parent / "run"
    return workdir, run("train.py", "--config=configs/finetune.py", f"--config.data.root={photos}",
                        f"--workdir={workdir}", f"--config.init_from={weights}",
                        "--config.num_steps=12")  # fmt: skip


def test_train_learns_the_classes_and_leaves_its_files(trained):
    workdir, printed = trained
    assert "\ndata       73 training images, 17 validation images\n" in printed
    assert "\nclasses    blue_star 25 + 5, red_circle 26 + 4, yellow_bar 22 + 8\n" in printed
    assert "\nsteps      12 in all, which is 1.315 epochs\n" in printed
    _, _, matrix = printed.partition(": labels (rows) and predictions (columns)\n")
    rows = matrix.splitlines()[:4]
    assert rows[0].split() == list(CLASSES) and [row.split()[0] for row in rows[1:]] == [*CLASSES]
    assert " of a linear classifier on the features that the run began with\n" in printed
    last = log.read(workdir / "metrics.jsonl")[-1]
    assert last["step"] == 12 and last["val_ema/top1"] > 0.6
    assert json.loads((workdir / "classes.json").read_text()) == [*CLASSES]
    assert {"checkpoints", "classes.json", "config.json", "curves.png", "metrics.jsonl",
            "tensorboard"} <= {path.name for path in workdir.iterdir()}  # fmt: skip


def test_predict_names_what_is_in_an_image(trained, photos, monkeypatch, capsys):
    path = photos / "red_circle" / "IMG_0000.jpg"
    monkeypatch.setattr(sys, "argv", ["predict", str(path), f"--model={trained[0]}"])
    predict.main()
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == str(path)
    scores, labels = zip(*(line.split() for line in lines), strict=True)
    assert labels[0] == "red_circle" and sorted(labels) == [*CLASSES]
    assert sum(map(float, scores)) == pytest.approx(1, abs=1e-3)
    assert list(scores) == sorted(scores, reverse=True)


def test_report_writes_a_page(trained):
    workdir = trained[0]
    report.main([f"--workdir={workdir}"])
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in CLASSES)
