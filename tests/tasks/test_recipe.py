import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train as train_command
from configs import finetune, folder
from convnext import ConvNeXt, ImageProcessor, save_pretrained, sharding
from convnext.data import in_memory
from convnext.runs import log, workdirs
from convnext.tasks import linear, recipe
from convnext.training import losses
from convnext.weights import pretrained
from tests.helpers import own_images
from tests.helpers.inputs import refused

MODEL = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=7, norm_eps=1e-5,
                 final_norm_eps=1e-5, layer_scale_init_value=0.1)  # fmt: skip
PROCESSOR = ImageProcessor(
    size=32, crop_pct=0.9, crop_mode="center", image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.3, 0.4)
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    labels = [f"label {i}" for i in range(7)]
    save_pretrained(folder, MODEL, params, labels=labels, processor=PROCESSOR, format="timm")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags:\n- timm\n---\n# Card\n")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of 20 images that are red and blue, more or less."""
    root = tmp_path_factory.mktemp("images")
    own_images.write(root, 36, 40)
    return root


def source(count, classes=4):
    images = np.zeros((count, 40, 50, 3), np.uint8)
    labels = np.arange(count, dtype=np.int32) % classes
    return in_memory.Arrays(images, labels, [str(i) for i in range(classes)])


def decided(config, count, devices=1, start=None, problem_type=losses.SINGLE_LABEL):
    mesh = sharding.make_mesh()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(devices, 1), mesh.axis_names)
    return recipe.decide(config, source(count), problem_type, mesh, start)


def fine_tuning(weights, **given):
    config = finetune.get_config()
    config.update_from_flattened_dict({"init_from": str(weights), **given})
    return config, partial(pretrained.load, str(weights))


def test_the_model_and_its_images_are_those_of_the_weights(weights):
    config, start = fine_tuning(weights)
    config, _ = decided(config, 40, start=start)
    model = ConvNeXt(**config.model)
    assert (model.depths, model.dims, model.norm_eps) == ((1, 1, 1, 1), (8, 16, 24, 32), 1e-5)
    assert config.image_size == 32 and config.licence == "apache-2.0"
    assert config.preprocess.to_dict() == dict(
        crop_pct=0.9, crop_mode="center", crop_rounding="round", resample=3
    )
    assert config.normalize.to_dict() == dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.mark.parametrize("count", [3, 40, 500, 3000, 20_000, 200_000])
@pytest.mark.parametrize("kind", ["finetune", "scratch"])
def test_every_field_is_decided_and_said(kind, count, weights):
    config, start = fine_tuning(weights) if kind == "finetune" else (folder.get_config(), None)
    before = workdirs.fields(config.to_dict())
    config, lines = decided(config, count, start=start)
    after = workdirs.fields(config.to_dict())
    names = recipe.OF_THE_DATA
    names += recipe.OF_THE_WEIGHTS if kind == "finetune" else recipe.of_a_fresh_model(config.model)
    assert set(config.decided) == set(names) and config.given == ()
    assert {name for name in names if before[name] is not None} == set()
    may_be_none = {"preprocess.crop_mode", "model.head_hidden_size", "model.layer_scale_init_value"}
    assert {name for name in names if after[name] is None} <= may_be_none
    same = before.keys() - set(names) - {"decided", "given"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    said = "\n".join(lines)
    assert all(f"--config.{name}=" in said for name in names)
    assert config.num_steps >= 300 and config.num_epochs >= 1
    assert 0 <= config.schedule.warmup_steps < config.num_steps


def test_what_is_given_stays_and_the_rest_follows_from_it(weights):
    config, start = fine_tuning(weights)
    by_itself, _ = decided(config, 4000, start=start)
    config, start = fine_tuning(weights, batch_size=256, num_steps=5000)
    config, lines = decided(config, 4000, start=start)
    assert (config.batch_size, config.num_steps) == (256, 5000)
    assert config.given == ("batch_size", "num_steps")
    assert config.schedule.peak_lr == pytest.approx(2 * by_itself.schedule.peak_lr)
    assert config.num_epochs == 320 and config.schedule.warmup_steps == 500
    assert not [line for line in lines if "--config.batch_size" in line]


@pytest.mark.parametrize("make", [finetune.get_config, folder.get_config])
def test_a_length_in_epochs_is_kept_to_the_last_image(make, weights):
    config = make()
    config.update_from_flattened_dict(
        {"num_epochs": 3, "batch_size": 32, "init_from": str(weights)}
    )
    config, _ = decided(config, 100, start=partial(pretrained.load, str(weights)))
    assert (config.num_epochs, config.num_steps) == (3, 10)  # 320 images
    assert config.schedule.warmup_steps == 1


def test_a_batch_has_a_share_for_each_device(weights):
    config, start = fine_tuning(weights)
    config, _ = decided(config, 40, devices=3, start=start)
    assert config.batch_size == 9


def test_small_pictures_are_not_enlarged():
    config, _ = decided(folder.get_config(), 100)
    assert config.image_size == 32


def test_weights_that_are_not_there_are_named_with_what_else_there_is(
    weights, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    told = (
        "accepted: --config.init_from=.*; or --config=configs/folder.py, which trains from scratch"
    )
    read = recipe.starting_weights
    refused(f"no file or folder .*none; {told}", read, str(tmp_path / "none"))
    refused("init_from is None; accepted: weights .*or --config=configs/folder.py", read, None)
    refused(f"cannot reach timm/some on .*; {told}", read, "timm/some")


def test_few_images_from_scratch_are_told_of_weights(weights):
    config, start = fine_tuning(weights)
    hint = "few images configs/finetune.py gets further with them, in less time"
    assert hint not in decided(config, 100, start=start)[1]
    assert hint in decided(folder.get_config(), 100)[1]
    assert hint not in decided(folder.get_config(), 5000)[1]


def test_a_linear_classifier_is_for_one_label_and_not_too_many_images(weights):
    for count, problem_type, expected in (
        (40, losses.SINGLE_LABEL, True),
        (40, losses.MULTI_LABEL, False),
        (40_000, losses.SINGLE_LABEL, False),
    ):
        config, start = fine_tuning(weights)
        config, _ = decided(config, count, start=start, problem_type=problem_type)
        assert config.linear.is_head is config.linear.is_baseline is expected


def test_another_rule_and_missing_weights_are_refused(weights):
    config = folder.get_config()
    config.rule = "luck"
    refused("rule is 'luck'; accepted: finetune or scratch", decided, config, 40)


# A run.


def run(images, weights, workdir, **given):
    fields = {"num_steps": 6, "model.train_precision": "highest", **given}
    config, _ = fine_tuning(weights, **{"data.root": str(images), **fields})
    return train_command.train(config, workdir)


@pytest.fixture(scope="module")
def workdir(images, weights, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    run(images, weights, workdir)
    return workdir


@pytest.mark.slow
def test_a_run_records_what_was_decided_and_what_was_given(workdir):
    config = json.loads((workdir / "config.json").read_text())
    assert config["given"] == ["num_steps"] and "batch_size" in config["decided"]
    assert config["batch_size"] == 8 and config["model"]["dims"] == [8, 16, 24, 32]
    assert config["licence"] == "apache-2.0" and len(config["val_hash"]) == 16


@pytest.mark.slow
def test_a_run_resumes_by_what_was_decided(workdir, images, weights, monkeypatch, capsys):
    """Neither by a later rule, nor by one more image of those to choose from."""

    def later(choose, *_):
        raise AssertionError

    monkeypatch.setitem(recipe.RULES, "finetune", later)
    monkeypatch.setattr(linear, "fit", later)
    run(images, weights, workdir)
    assert f"{workdir} is complete at step 6" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_another_value_is_refused(workdir, images, weights):
    refused("num_steps is 7 and was 6", run, images, weights, workdir, num_steps=7)
    refused("batch_size is 16 and was 8", run, images, weights, workdir, batch_size=16)


@pytest.mark.slow
def test_a_run_notices_another_image(workdir, images, weights):
    extra = images / "red" / "extra.png"
    extra.write_bytes((images / "red" / "0.png").read_bytes()[:-1] + b"?")
    try:
        refused("is of other images: (train|val)_size is", run, images, weights, workdir)
    finally:
        extra.unlink()


@pytest.mark.slow
def test_a_run_begins_with_the_linear_classifier_and_is_compared_with_it(
    workdir, images, weights, capsys, tmp_path
):
    config = json.loads((workdir / "config.json").read_text())
    assert config["linear"]["top1"] == 1.0
    run(images, weights, tmp_path, num_steps=1, **{"schedule.peak_lr": 0.0, "schedule.end_lr": 0.0})
    said = capsys.readouterr().out
    assert "top1 1.0000, and 1.0000 of a linear classifier on the features" in said
    assert log.read(tmp_path / "metrics.jsonl")[-1]["val/top1"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("column", ["labels", "value"])
def test_a_run_learns_what_a_table_says(column, images, weights, tmp_path):
    """Several labels, and numbers: the share of red in an image."""
    rows = [f"file,{column}"]
    for name in ("blue", "red"):
        for index in range(20):
            label = f"{name}|even" if index % 2 == 0 else name
            value = {"labels": label, "value": str(float(name == "red"))}[column]
            rows.append(f"{name}/{index}.png,{value}")
    (images / "table.csv").write_text("\n".join(rows))
    run(images / "table.csv", weights, tmp_path, num_steps=4)
    (images / "table.csv").unlink()
    recorded = json.loads((tmp_path / "config.json").read_text())
    line = log.read(tmp_path / "metrics.jsonl")[-1]
    if column == "labels":
        assert recorded["problem_type"] == losses.MULTI_LABEL and 0 <= line["val/top1"] <= 1
        assert json.loads((tmp_path / "classes.json").read_text()) == ["blue", "even", "red"]
    else:
        assert recorded["problem_type"] == losses.REGRESSION and line["val/mae"] < 2


def test_a_regression_on_class_folders_is_refused(images, weights, tmp_path):
    refused(
        "problem_type of class folders is 'regression'; accepted: single_label_classification",
        run, images, weights, tmp_path, problem_type=losses.REGRESSION,
    )  # fmt: skip


@pytest.mark.slow
def test_the_plan_says_what_is_in_the_folder(workdir, images, weights, tmp_path, capsys):
    config, _ = fine_tuning(weights, **{"data.root": str(images)})
    train_command.train(config, tmp_path, dry_run=True)
    said = capsys.readouterr().out
    counts = np.bincount([p.parent.name == "red" for p in images.glob("*/*.png")])
    assert counts.tolist() == [20, 20]
    assert "\nclasses    blue 1" in said and "\nrecipe     finetune, for 3" in said
    assert "  --config.batch_size=8 " in said
    assert not (tmp_path / "config.json").exists()
