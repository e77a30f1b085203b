"""The command, on a very small run and on small test sets in the layout of their authors."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from PIL import Image

import eval as eval_command
import train as train_command
from configs import folder as folder_config
from convnext import hosts
from convnext.data import imagenet as labels
from convnext.data import sources
from convnext.errors import InputError
from convnext.evaluation import evaluate as evaluation
from convnext.evaluation import requests
from tests.helpers import imagenets
from tests.helpers.inputs import refused
from tests.helpers.runs import command, log_without_timing, run, small

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return imagenets.write_weights(tmp_path_factory.mktemp("exported") / "timm")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return imagenets.write(tmp_path_factory.mktemp("imagenet"))


def evaluate(config=None, workdir=None, **given):
    """The command in this process; what it writes as JSON."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**given):
        eval_command.main(config, workdir)
    return json.loads(Path(given["json"]).read_text()) if "json" in given else None


def test_the_logged_numbers_come_again_to_the_last_digit(finished_run, tmp_path):
    last = log_without_timing(finished_run)[-1]
    path = tmp_path / "results.json"
    done = run(*command("eval.py", finished_run, "--weights=ema,raw,ema_0.5,33", f"--json={path}"))
    assert done.returncode == 0, done.stderr
    ema, raw, further, step = json.loads(path.read_text())
    for found, prefix in ((ema, "val_ema"), (raw, "val"), (further, "val_ema_0.5")):
        assert [found[name] for name in ("loss", "top1", "top5", "count")] == [
            last[f"{prefix}/loss"], last[f"{prefix}/top1"], last[f"{prefix}/top5"], 360
        ]  # fmt: skip
    assert step["loss"] != ema["loss"]
    lines = done.stdout.splitlines()
    assert lines[:6] == [
        f"ema: the run {finished_run} at step 44 (EMA 0.9, val_ema/top1 "
        f"{last['val_ema/top1']:.4f}), on digits",
        f"16 px, crop_pct 1, bicubic; as {finished_run}/config.json says",
        f"loss  {last['val_ema/loss']!r}",
        f"top1  {last['val_ema/top1']!r}",
        f"top5  {last['val_ema/top5']!r}",
        "count 360",
    ]
    assert lines[6].startswith("ece ")


@pytest.fixture
def of_folders(finished_run, tmp_path):
    """The workdir of a run whose data has moved, and where it is now."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 1), ("val", 2)):
        for label in range(10):
            place = tmp_path / "here" / part / str(label)
            place.mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
                image.save(place / f"{i}.png")
    workdir = shutil.copytree(finished_run, tmp_path / "run")
    made_with = json.loads((workdir / "config.json").read_text())
    made_with["data"].update(name="folder", root=str(tmp_path / "there"))
    (workdir / "config.json").write_text(json.dumps(made_with))
    return workdir, tmp_path / "here"


def test_the_data_of_a_run_may_lie_elsewhere_now(of_folders, tmp_path):
    workdir, root = of_folders
    (found,) = evaluate(workdir=workdir, data_root=str(root), json=str(tmp_path / "out"))
    assert (found["count"], found["data"]) == (20, "folder")
    with pytest.raises(InputError) as caught:
        evaluate(workdir=workdir, data_root=None)
    assert str(caught.value) == (
        f"the data of the run cannot be read: no folder {tmp_path}/there/train; accepted: "
        "--data_root=DIR, the folder where it lies now"
    )


def test_a_workdir_without_a_run_is_named(tmp_path, finished_run):
    message = f"no run in {finished_run}x; accepted: --workdir={finished_run}"
    with pytest.raises(InputError, match=f"^{message}$"):
        evaluate(workdir=Path(f"{finished_run}x"))
    with pytest.raises(InputError, match="^no run in .*/nosuch; accepted: the workdir of a train"):
        evaluate(workdir=tmp_path / "nosuch")


def test_a_run_needs_no_config(finished_run, tmp_path):
    (found,) = evaluate(workdir=finished_run, json=str(tmp_path / "out"))
    assert found["top1"] == log_without_timing(finished_run)[-1]["val_ema/top1"]
    assert (found["model"], found["weights"], found["data"]) == (str(finished_run), "ema", "digits")


@pytest.mark.slow
def test_test_sets_and_sizes_are_evaluated_each_with_its_rule(exported, imagenet, tmp_path, capsys):
    paths = dict(csv=str(tmp_path / "out.csv"), json=str(tmp_path / "out.json"))
    found = evaluate(weights=[str(exported)], data=["real", "a"], data_root=str(imagenet),
                     image_size=["32", "48"], batch_size=128, **paths)  # fmt: skip
    empty = sum(not classes for classes in labels.real()[:1000])
    assert [(row["data"], row["img_size"], row["count"]) for row in found] == [
        ("real", 32, 1000 - empty), ("real", 48, 1000 - empty), ("a", 32, 200), ("a", 48, 200),
    ]  # fmt: skip
    with open(paths["csv"]) as file:
        rows = list(csv.DictReader(file))
    assert [row["top1"] for row in rows] == [f"{100 * row['top1']:.3f}" for row in found]
    assert {row["model"] for row in rows} == {str(exported)}
    said = capsys.readouterr().out
    assert f"32 px, crop_pct 0.9, bicubic; size as asked for, the rest as {exported}/pre" in said


@pytest.mark.slow
def test_test_time_options_reach_the_evaluation(exported, imagenet, tmp_path):
    options = dict(weights=[str(exported)], data=["a"], data_root=str(imagenet), batch_size=40)
    (plain,) = evaluate(**options, json=str(tmp_path / "plain"))
    (views,) = evaluate(**options, flip=True, crops="5", json=str(tmp_path / "views"))
    (other,) = evaluate(
        **options, interpolation="bilinear", crop_mode="squash", json=str(tmp_path / "other")
    )
    assert (plain["views"], views["views"], other["interpolation"]) == (1, 10, "bilinear")
    assert len({plain["loss"], views["loss"], other["loss"]}) == 3


def test_weights_without_a_head_are_for_probes(imagenet):
    weights = str(ROOT / "tests" / "fixtures" / "pretrained" / "official_fcmae.pt")
    message = r"official_fcmae.pt \(fcmae\) has no head; accepted: .* --probe=knn or linear"
    refused(message, evaluate, weights=[weights], data=["a"], data_root=str(imagenet))


@pytest.mark.parametrize("probe", ["knn", "linear"])
def test_probes_learn_from_the_images_to_train_on(finished_run, tmp_path, probe):
    (found,) = evaluate(workdir=finished_run, probe=probe, json=str(tmp_path / "out"))
    assert found["probe"] == probe and found["count"] == 360
    assert found["top1"] > 0.45  # of the head 0.34


@pytest.fixture
def folder(tmp_path):
    """Validation images in folders, of the classes "0" to "9"."""
    rng = np.random.default_rng(0)
    for label in range(10):
        place = tmp_path / "images" / str(label)
        place.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(place / name)
    return tmp_path / "images"


def test_any_folder_of_the_same_classes_is_evaluated(finished_run, folder, tmp_path):
    (found,) = evaluate(workdir=finished_run, data=["folder"], data_root=str(folder), batch_size=8,
                        json=str(tmp_path / "out"))  # fmt: skip
    assert found["count"] == 20 and found["data"] == str(folder)


def lack(folder):
    shutil.rmtree(folder / "3")


def add(folder):
    (folder / "ten").mkdir()
    (folder / "3" / "b.png").rename(folder / "ten" / "b.png")


def duplicate(folder):
    shutil.copy(folder / "3" / "a.png", folder / "4" / "c.png")


def reorder(folder):
    (folder / "0").rename(folder / "zero")
    (folder / "9").rename(folder / "0")
    (folder / "zero").rename(folder / "9")
    (folder / "9").rename(folder / "nine")


@pytest.mark.parametrize(
    "change, message",
    [
        (lack, "images lacks class '3'; accepted: the 10 classes '0' to '9'"),
        (add, "images has the unknown class 'ten'; accepted: the 10 classes '0' to '9'"),
        (duplicate, "4/c.png has the content of .*3/a.png; accepted: each image once"),
        (reorder, "images lacks class '9'; accepted: the 10 classes"),
    ],
)
def test_a_folder_that_does_not_fit_the_weights_is_refused(finished_run, folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message):
        evaluate(
            workdir=finished_run, data=["folder"], data_root=str(folder), allow_duplicates=False
        )


def test_duplicates_may_be_allowed(finished_run, folder, tmp_path):
    duplicate(folder)
    (found,) = evaluate(workdir=finished_run, data=["folder"], data_root=str(folder), batch_size=8,
                        allow_duplicates=True, json=str(tmp_path / "out"))  # fmt: skip
    assert found["count"] == 21


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "--data is None; accepted: test sets to evaluate on, or a run"),
        (dict(data=["a"]), "--workdir is None; accepted: the run that --weights=ema is of"),
        (dict(data=["val"], weights=["nothing"]), "nothing"),
        (dict(data=["folder"], data_root=None), "--data_root is None; accepted: a folder of"),
        (dict(data=["a"], csv="/no/folder/out.csv"), "--csv is /no/folder/out.csv"),
        (dict(data=["a"], image_size=["big"], weights=["W"]), "--image_size is 'big'; accepted"),
        (dict(data=["a"], probe="knn", weights=["W"]), "what to learn from, of a is None"),
        (dict(data=["a"], batch_size=0, weights=["W"]), "batch_size is 0; accepted: "),
    ],
)
def test_what_cannot_be_evaluated_is_said(given, message, imagenet, exported):
    given = dict(data_root=str(imagenet)) | given
    given["weights"] = [name.replace("W", str(exported)) for name in given.get("weights", ["ema"])]
    with pytest.raises(InputError, match=message):
        evaluate(**given)


def test_weights_of_another_number_of_classes_are_refused(finished_run, exported, imagenet):
    with pytest.raises(InputError, match=r"a has 1,000 classes and the run .* 10; acc"):
        evaluate(workdir=finished_run, data=["a"], data_root=str(imagenet))
    with pytest.raises(InputError, match=r"digits has 10 classes and .*timm.* 1,000; accepted"):
        evaluate(data=["digits"], weights=[str(exported)])


def test_a_run_without_checkpoints_or_another_model_is_refused(finished_run, tmp_path):
    with pytest.raises(InputError, match="no checkpoint in"):
        evaluate(small(), tmp_path)
    with pytest.raises(InputError, match="weights of the run .* is 'ema_0.7'; accepted: raw, "):
        evaluate(workdir=finished_run, weights=["ema_0.7"])
    with pytest.raises(InputError, match="the step of .* is 7; accepted: one of 22, 33, 44"):
        evaluate(workdir=finished_run, weights=["7"])
    with pytest.raises(InputError, match="config.image_size is 24; accepted: 16, with which"):
        evaluate(small(image_size=24), finished_run)


def test_a_run_made_before_the_model_had_a_field_is_of_the_same_model(finished_run, tmp_path):
    made_with = json.loads((finished_run / "config.json").read_text())
    del made_with["model"]["residual_dtype"]
    (tmp_path / "config.json").write_text(json.dumps(made_with))
    assert requests.recorded(small(), tmp_path) == small()


def test_an_interrupted_evaluation_keeps_the_rows_that_are_done(
    exported, imagenet, tmp_path, monkeypatch
):
    path = tmp_path / "out.csv"
    real = evaluation.evaluate

    def interrupted_at_48_pixels(found, *arguments, **options):
        if found.processor.size == 48:
            raise KeyboardInterrupt
        return real(found, *arguments, **options)

    monkeypatch.setattr(evaluation, "evaluate", interrupted_at_48_pixels)
    with pytest.raises(KeyboardInterrupt):
        evaluate(weights=[str(exported)], data=["a"], data_root=str(imagenet), batch_size=40,
                 image_size=["32", "48"], csv=str(path))  # fmt: skip
    (row,) = csv.DictReader(path.open())
    assert row["img_size"] == "32" and [p.name for p in tmp_path.iterdir()] == ["out.csv"]


class ComparedError(Exception):
    """Ends a command where its processes would compare what they do."""


def test_processes_compare_flags_config_and_data_before_they_read_weights(monkeypatch, imagenet):
    def require_same(values):
        raise ComparedError(values())

    monkeypatch.setattr(hosts, "require_same", require_same)
    with pytest.raises(ComparedError) as of_run:
        evaluate(small(), None, weights=["raw"], crops="5")
    found = of_run.value.args[0]
    assert (found["--weights"], found["--crops"], found["--data"]) == (["raw"], 5, ())
    train, val = sources.load("digits")
    assert found["config"]["seed"] == 0 and found["data"] == [{"val": sources.fingerprint(val)}]
    with pytest.raises(ComparedError) as of_sets:
        evaluate(weights=["x"], data=["val", "real", "digits"], data_root=str(imagenet))
    assert [list(parts) for parts in of_sets.value.args[0]["data"]] == [["val"]] * 3
    with pytest.raises(ComparedError) as of_probe:
        evaluate(weights=["x"], data=["digits"], probe="knn")
    assert of_probe.value.args[0]["data"] == [
        {"val": sources.fingerprint(val), "train": sources.fingerprint(train)}
    ]


# A run on one's own images.


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder of two classes, and a run on four fifths of it."""
    root, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for name in ("a", "b"):
        (root / "images" / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / "images" / name / f"{index}.png")
    config = folder_config.get_config()
    config.update_from_flattened_dict({
        "data.root": str(root / "images"), "num_steps": 2, "model.depths": (1, 1),
        "model.dims": (4, 8), "image_size": 16,
    })  # fmt: skip
    train_command.train(config, root / "run")
    return root


@pytest.mark.slow
def test_a_run_on_a_folder_is_evaluated_on_its_validation_images(own, tmp_path, capsys):
    (found,) = evaluate(workdir=own / "run", json=str(tmp_path / "out"))
    recorded = json.loads((own / "run" / "config.json").read_text())
    assert found["count"] == recorded["val_size"] < 20
    assert "no longer" not in capsys.readouterr().out


@pytest.mark.slow
def test_an_image_more_is_noticed_and_moves_no_other(own, tmp_path, capsys):
    path = own / "images" / "a" / "new.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path)
    try:
        evaluate(workdir=own / "run", json=str(tmp_path / "out"))
    finally:
        path.unlink()
    said = capsys.readouterr().out
    assert re.search("the images are no longer those of the run: (train|val)_size is", said)


@pytest.mark.slow
def test_images_that_a_run_was_trained_on_are_refused(own, tmp_path):
    recorded = json.loads((own / "run" / "config.json").read_text())
    count = recorded["train_size"]
    message = f"was trained on {count} of the 40 images of .*images; accepted: other images, or"
    for given in (dict(workdir=own / "run"), dict(weights=[str(own / "run")])):
        refused(message, evaluate, **given, data=["folder"], data_root=str(own / "images"))
    shutil.copytree(own / "images", tmp_path / "others")
    (found,) = evaluate(workdir=own / "run", data=["folder"], data_root=str(tmp_path / "others"),
                        json=str(tmp_path / "out"))  # fmt: skip
    assert found["count"] == 40


def test_a_table_is_a_test_set(own, tmp_path):
    lines = [f"images/{name}/{index}.png,{name}" for name in "ab" for index in range(20)]
    shutil.copytree(own / "images", tmp_path / "images")
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines]))
    (found,) = evaluate(workdir=own / "run", data=["folder"], json=str(tmp_path / "out"),
                        data_root=str(tmp_path / "labels.csv"))  # fmt: skip
    assert found["count"] == 40
