"""Before the first step: dry runs, and what is refused."""

import shutil
import sys

import jax
import numpy as np
import pytest

import train as train_command
from configs import convnext_tiny
from convnext.errors import InputError
from tests.helpers.runs import (
    command,
    run,
    small,
)  # fmt: skip


def test_another_recipe_in_the_workdir_is_refused_and_nothing_is_touched(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    config = small(**{"model.dims": (8, 24), "num_epochs": 6, "num_workers": 1})
    changes = r"model.dims is \[8, 24\] and was \[8, 16\], num_epochs is 6 and was 4; accepted"
    with pytest.raises(InputError, match=f"is of another recipe: {changes}"):
        train_command.train(config, workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_before_the_first_checkpoint_the_recipe_may_not_change_either(finished, tmp_path):
    shutil.copy(finished[0] / "config.json", tmp_path)
    for dry_run in (True, False):
        message = "another recipe: seed is 7 and was 0; accepted: .* is left --start_anew"
        with pytest.raises(InputError, match=message):
            train_command.train(small(seed=7), tmp_path, dry_run=dry_run)
    train_command.train(small(seed=7), tmp_path, dry_run=True, start_anew=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path):
    workdir = tmp_path / "run"
    result = run(*command("train.py", workdir, "--dry_run"))
    assert result.returncode == 0, result.stderr
    names = [line.split()[0] for line in result.stdout.splitlines() if line[0] != " "]
    assert names == ["devices", "model", "precision", "augments", "data", "batch", "steps", "rate",
                     "mixing", "averages", "start", "published", "memory", "updates"]  # fmt: skip
    assert "\nstart      random weights\npublished  nothing\n" in result.stdout
    assert " GB a device (analytic estimate): state " in result.stdout
    assert not workdir.exists()


def test_a_dry_run_leaves_a_run_as_it_is_and_an_accelerator_compiles_it(
    finished, capsys, monkeypatch
):
    workdir, state = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shapes = train_command.train(small(), workdir, dry_run=True)
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, state)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    text = capsys.readouterr().out
    assert f"\nstart      step 44 of {workdir}\n" in text
    assert " GB a device (compiled): arguments " in text


def test_a_dry_run_makes_do_with_the_published_size_of_the_data(tmp_path, capsys):
    config = convnext_tiny.get_config()
    config.data.root = str(tmp_path / "nowhere")
    state = train_command.train(config, tmp_path / "run", dry_run=True)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 28_589_128
    text = capsys.readouterr().out
    for fact in (
        f"data       no folder {config.data.root}/train; the sizes are those published\n",
        "1,281,167 training images, 50,000", "devices 8 x parts 1 x images 512", "93,600 in all",
        "0.004 at step 6,240", "groups of 128", "averages   0.9999", "published  82.1 top1",
        "rate x 1, decay 0.05; 28,524,000 in 59: ",
    ):  # fmt: skip
        assert fact in text
    assert list(tmp_path.iterdir()) == []

    config.published.train_size = None
    with pytest.raises(InputError, match="no folder .*; accepted: --config.data.root"):
        train_command.train(config, tmp_path / "run", dry_run=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 60}, "batch_size is 60; accepted: multiples of 8, for 8 devices"),
        ({"batch_size": 2048}, "batch_size is 2048; accepted: 1 to 1437"),
        ({"model.num_classes": 1000}, "model.num_classes is 1000; accepted: 10"),
        ({"image_size": 3}, "image_size is 3; accepted: 4 to 13377 pixels, of a model of 2 stages"),
        (
            {"num_epochs": 1, "schedule.warmup_epochs": 5},
            "schedule.warmup_epochs is 5; accepted: at",
        ),
        ({"mesh.fsdp": 0}, "mesh.fsdp is 0; accepted: 1 and more"),
        ({"accumulation_steps": 0}, "accumulation_steps is 0; accepted: 1 and more"),
        ({"checkpoint_every_epochs": 0}, "checkpoint_every_epochs is 0; accepted: 1 and more"),
        ({"mesh.fsdp": 3}, "mesh is 2 x 3 .data x fsdp.; accepted: a product of 8"),
        ({"data.name": "imagenet"}, "data.name is 'imagenet'; accepted: digits, folder"),
        ({"mix.group_size": 48}, "mix.group_size is 48; accepted: div"),
        ({"seed": -1}, "seed is -1; accepted: 0 and more"),
        ({"num_workers": -1}, "num_workers is -1; accepted: 0 and more"),
        ({"max_skipped": 0}, "max_skipped is 0; accepted: 1 and more"),
        ({"ema_decays": (0.9, 1.5)}, "ema_decays is .0.9, 1.5.; accepted: each from 0 to below 1"),
        ({"mix.label_smoothing": 3.0}, "mix.label_smoothing is 3.0; accepted: from 0 to below 1"),
        ({"augment.crop_scale": (2.0, 3.0)}, "augment.crop_scale is .2.0, 3.0.; accepted: two"),
        ({"preprocess.crop_pct": 1.5}, "preprocess.crop_pct is 1.5; accepted: above 0, at most 1"),
        ({"erase.area": (0.9, 0.5)}, "erase.area is .0.9, 0.5.; accepted: two numbers in order, "),
        (
            {"normalize.std": (0.0, 1.0, 1.0)},
            "normalize.std is .0.0, 1.0, 1.0.; accepted: 3 numbers",
        ),
        ({"optimizer.b1": 1.0}, "optimizer.b1 is 1.0; accepted: from 0 to below 1"),
        ({"model.drop_path_rate": 1.0}, "model.drop_path_rate is 1.0; accepted: from 0 to below 1"),
        ({"model.dtype": "bf16"}, "model.dtype is 'bf16'; accepted: float32 or bfloat16"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_written(tmp_path, changes, message):
    workdir = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        train_command.train(small(**changes), workdir)
    assert not workdir.exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config=configs/digits.py", "--config.model.dimz=3"],
         "error: unknown config field --config.model.dimz; accepted: the fields of the config; "
         "did you mean dims?"),
        (["--config=configs/convnext_tiny.py", "--config.data.root=nowhere"],
         "error: no folder nowhere/train; accepted: --config.data.root=ROOT with "),
        (["--config=configs/nothing.py"], "error: no config file configs/nothing.py; accepted: "),
        ([], "error: --config is not given; accepted: "),
        (["--config=configs/folder.py:v3"], "error: the variant is 'v3'; accepted: atto, femto, "),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line_and_not_success(flags, message):
    result = run(sys.executable, "train.py", *flags)
    assert result.returncode == 1
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_weights_of_another_architecture_are_refused(finished, tmp_path):
    config = small(init_from=str(finished[0]), **{"model.use_grn": True})
    with pytest.raises(InputError, match="use_grn False, not True; accepted: '--config.mod"):
        train_command.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
