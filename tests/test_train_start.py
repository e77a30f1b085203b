"""Before the first step: dry runs, and what is refused."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest

import train as train_command
from configs import convnext_tiny
from convnext.errors import InputError
from convnext.runs import workdirs
from tests.helpers.runs import (
    command,
    run,
    small,
)  # fmt: skip


def test_another_recipe_in_the_workdir_is_refused_and_nothing_is_touched(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    config = small(**{"model.dims": (8, 24), "num_epochs": 6, "num_workers": 1})
    changes = (
        r"model.dims is \[8, 24\] and was \[8, 16\], num_epochs is 6 and was 4; accepted: .*; to "
        f"train on from its weights another --workdir with --config.init_from={workdir}$"
    )
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


def test_a_store_is_refused_in_a_line(tmp_path):
    done = run(*command("train.py", "gs://bucket/run"))
    assert done.returncode == 1 and done.stderr == (
        "error: --workdir is 'gs://bucket/run'; accepted: a folder of a disk, or a store that is "
        "mounted as one\n"
    )
    config = small(**{"data.name": "folder", "data.root": "gs://bucket/images"})
    with pytest.raises(InputError, match="^data.root is 'gs://bucket/images'; accepted: a folder"):
        train_command.train(config, tmp_path / "run")


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


def test_a_dry_run_without_the_data_knows_another_recipe(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    fields = {"data.name": "folder", "data.root": str(tmp_path / "nowhere"),
              "model.num_classes": 10, "published.train_size": 1400,
              "published.val_size": 300}  # fmt: skip
    recorded = json.loads((workdir / "config.json").read_text())
    recorded["data"].update(name="folder", root="elsewhere")
    recorded["model"]["num_classes"] = 10
    (workdir / "config.json").write_text(json.dumps(recorded))
    (workdir / "classes.json").write_text(json.dumps([f"class {label}" for label in range(10)]))
    train_command.train(small(**fields), workdir, dry_run=True)
    text = capsys.readouterr().out
    assert f"\nstart      step 44 of {workdir}\n" in text
    assert "changed since the run began: data.root is" in text and " train_size" not in text
    config = small(seed=7, **fields)
    for start_anew in (True, False):
        with pytest.raises(InputError, match="of another recipe: seed is 7 and was 0; accepted: t"):
            train_command.train(config, workdir, dry_run=True, start_anew=start_anew)


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

    changed = ["batch_size", "seed"]
    train_command.train(config, tmp_path / "run", dry_run=True, changed=changed)
    assert ") of the recipe; yours differs in batch_size\n" in capsys.readouterr().out

    config.data.val_fraction = 2.0
    with pytest.raises(InputError, match="data.val_fraction is 2.0; accepted: a number between"):
        train_command.train(config, tmp_path / "run", dry_run=True)
    config.data.val_fraction = config.published.train_size = None
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
        ({"mesh.fsdp": 3}, "mesh.data x mesh.fsdp is 2 x 3; accepted: a product of 8"),
        ({"data.name": "imagenet"}, "data.name is 'imagenet'; accepted: digits, folder"),
        ({"mix.group_size": 48}, "mix.group_size is 48; accepted: div"),
        ({"seed": -1}, "seed is -1; accepted: 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296; accepted: 0 to 4294967295"),
        ({"num_workers": -1}, "num_workers is -1; accepted: 0 and more"),
        ({"max_skipped": 0}, "max_skipped is 0; accepted: 1 and more"),
        ({"patience": 0}, "patience is 0; accepted: 1 and more, or None"),
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


NAN = float("nan")
# A value out of range for each field that has a range. A change that takes more than one field is a
# dict, whose first field is the one to be named.
NONSENSE = {
    "task": "ranking", "seed": -1, "num_epochs": 0, "num_steps": 0, "batch_size": -8,
    "accumulation_steps": 0, "image_size": 3, "problem_type": "ranking",
    "data.name": "", "data.val_fraction": 2.0,
    "num_workers": -1, "max_bad_images": -1,
    "augment_on": "moon", "augment.crop_scale": (), "augment.crop_ratio": ("a", "b"),
    "augment.crop_padding": 10**6, "augment.flip_prob": 2.0, "augment.randaugment.num_ops": -1,
    "augment.randaugment.magnitude": 100.0, "augment.randaugment.magnitude_std": -1.0,
    "augment.randaugment.prob": 2.0, "augment.color_jitter": NAN, "augment.affine_degrees": -1.0,
    "augment.affine_translate": 2.0, "augment.affine_scale": (2.0, 1.0),
    "augment.affine_shear": 90.0, "augment.gamma": float("inf"),
    "rule": "luck", "model.in_chans": 0,
    "preprocess.crop_pct": 2.0, "preprocess.crop_mode": "zoom", "preprocess.crop_rounding": "up",
    "preprocess.resample": 9, "normalize.mean": (0.5,), "normalize.std": ("a", "b", "c"),
    "erase.prob": 2.0, "erase.area": (0.0, 0.5), "erase.min_aspect": 0.0,
    "mix.mode": "all", "mix.mixup_alpha": -1.0, "mix.cutmix_alpha": NAN, "mix.prob": 2.0,
    "mix.switch_prob": NAN, "mix.label_smoothing": 2.0, "mix.group_size": 0,
    "model.depths": (1, 0), "model.dims": (8, 16, 32), "model.num_classes": 3,
    "model.patch_size": 0, "model.norm_eps": 0.0, "model.final_norm_eps": NAN,
    "model.head_hidden_size": 0, "model.drop_path_rate": 2.0, "model.layer_scale_init_value": -1.0,
    "model.head_init_scale": -1.0, "model.dtype": "half", "model.residual_dtype": "fp16",
    "model.kernels": "cuda", "model.train_precision": "tf32",
    "schedule.kind": "line", "schedule.peak_lr": -1.0, "schedule.end_lr": NAN,
    "schedule.warmup_epochs": -1, "schedule.warmup_steps": -1, "schedule.warmup_ratio": 2.0,
    "schedule.v2": {"schedule.v2": True, "schedule.kind": "poly"}, "schedule.power": -1.0,
    "schedule.milestone_epochs": ("a",), "schedule.milestone_steps": (1,), "schedule.factor": 2.0,
    "optimizer.weight_decay": -1.0, "optimizer.weight_decay_end": NAN, "optimizer.b1": 1.0,
    "optimizer.b2": -1.0, "optimizer.eps": 0.0, "optimizer.clip_norm": 0.0,
    "optimizer.layer_decay": 2.0, "optimizer.layer_decay_type": "double",
    "max_skipped": 0, "patience": 0, "class_weights": "x", "frozen": "(", "ema_decays": ("a",),
    "mesh.data": 3, "mesh.fsdp": 16,
    "eval_every_epochs": 0, "eval_every_steps": 0, "checkpoint_every_epochs": 0,
    "checkpoint_every_steps": 0, "keep_checkpoints": 1, "on_save_error": "hope",
    "log.every_steps": 0,
}  # fmt: skip
# Switches, free texts, and what a dry run expects.
WITHOUT_RANGE = (
    "augment.three_augment", "augment.randaugment.increasing", "model.stem_norm", "model.use_grn",
    "model.head_norm_first", "model.remat", "ema_warmup",
    "init_from", "decided", "given", "licence", "linear.is_head", "linear.is_baseline",
    "linear.top1", "data.exif_orientation", "data.root", "data.train_split", "data.val_split",
    "log.wandb_project",
    "published.scores.top1", "published.source", "published.train_size", "published.val_size",
)  # fmt: skip


def test_every_field_that_has_a_range_is_tried():
    fields = workdirs.fields(convnext_tiny.get_config().to_dict())
    assert sorted([*NONSENSE, *WITHOUT_RANGE]) == sorted(fields)


@pytest.mark.parametrize("dry_run", [False, True], ids=["run", "dry_run"])
@pytest.mark.parametrize("field", NONSENSE)
def test_nonsense_is_refused_by_the_full_name_of_its_field(tmp_path, capsys, field, dry_run):
    value = NONSENSE[field]
    changes = value if isinstance(value, dict) else {field: value}
    workdir = tmp_path / "run"
    with pytest.raises(InputError) as caught:
        train_command.train(small(**changes), workdir, dry_run=dry_run)
    assert field in caught.value.problem and caught.value.accepted
    assert not workdir.exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config=configs/digits.py", "--config.model.dimz=3"],
         "error: unknown config field --config.model.dimz; accepted: --config.model.dims=3\n"),
        (["--config=configs/convnext_tiny.py", "--config.data.root=nowhere"],
         "error: no folder nowhere/train; accepted: --config.data.root=ROOT with "),
        (["--config=configs/digits.py", "--batch_size=8"],  # which eval.py has
         "error: no flag --batch_size; accepted: --config.batch_size=8\n"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line_and_not_success(flags, message):
    result = run(sys.executable, "train.py", *flags)
    assert result.returncode == 1
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_wandb_that_is_not_installed_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = small(**{"log.wandb_project": "digits"})
    for dry_run in (True, False):
        with pytest.raises(InputError, match="log.wandb_project is set, but wandb cannot be imp"):
            train_command.train(config, tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_architecture_are_refused(finished, tmp_path):
    config = small(init_from=str(finished[0]), **{"model.use_grn": True})
    with pytest.raises(InputError, match="use_grn False, not True; accepted: '--config.mod"):
        train_command.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
