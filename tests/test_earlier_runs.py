"""A run that was begun before there were tasks, in a layout that must stay readable.

tests/fixtures/run_before_tasks.tar.gz holds the workdir of a run of 20 steps after 10 of them, made
at version 0.1.0, and the lines of its log that followed.
"""

import json
import shutil
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

import train as train_command
from configs import digits
from convnext import from_pretrained
from convnext.runs import log

ARCHIVE = Path(__file__).parent / "fixtures" / "run_before_tasks.tar.gz"
TIMINGS = ("seconds/", "images_per_second", "wait_fraction")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def the_config():
    config = digits.get_config()
    config.augment_on = "host"  # as then
    config.update_from_flattened_dict({
        "num_epochs": 4, "batch_size": 256, "image_size": 8, "eval_every_epochs": 2,
        "checkpoint_every_epochs": 2, "ema_decays": (0.9, 0.99), "schedule.warmup_epochs": 1,
        "model.depths": (1, 1), "model.dims": (4, 8), "log.every_steps": 1,
    })  # fmt: skip
    return config


def values(lines):
    return [{k: v for k, v in line.items() if not any(t in k for t in TIMINGS)} for line in lines]


@pytest.mark.slow
def test_it_resumes_and_ends_as_it_would_have(earlier, tmp_path, capsys):
    workdir = shutil.copytree(earlier / "run", tmp_path / "run")
    train_command.train(the_config(), workdir)
    said = capsys.readouterr().out
    assert "new since the run began: task, which is 'classification'\n" in said
    assert "resumes from step 10\n" in said
    lines = values(log.read(workdir / "metrics.jsonl"))
    expected = [json.loads(line) for line in (earlier / "expected.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, 21)]
    for line, of_expected in zip(lines[10:], values(expected), strict=True):
        assert line == pytest.approx(of_expected, rel=1e-4)


def test_its_weights_are_read(earlier):
    model, raw = from_pretrained(earlier / "run", weights="raw")
    _, average = from_pretrained(earlier / "run")
    assert model.dims == (4, 8)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(params)) for params in (raw, average)]
    assert sizes == [1646, 1646]
    assert not np.array_equal(raw["head"]["kernel"], average["head"]["kernel"])
