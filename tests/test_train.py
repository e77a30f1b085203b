"""The commands, as a user runs them, on a very small model."""

import json
import os
import re
import shutil
import signal
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from orbax.checkpoint import v1 as ocp
from PIL import Image

import train as train_command
from configs import flowers as flowers_config
from configs import folder
from convnext import Classifier, save_pretrained, sharding
from convnext.data import pipeline, sources
from convnext.errors import InputError, RunError
from convnext.evaluation import evaluate as evaluation
from convnext.runs import checkpoint, interruption
from convnext.runs import log as logs
from convnext.tasks import classification
from convnext.training import erasing, mixup
from convnext.weights import pretrained
from tests.helpers.archives import write_flowers
from tests.helpers.runs import (
    SMALL,
    log_without_timing,
    small,
)  # fmt: skip


def test_a_run_logs_evaluates_and_leaves_its_files(finished):
    workdir, state = finished
    lines = log_without_timing(workdir)
    assert [line["step"] for line in lines] == [5, 10, 15, 20, 22, 25, 30, 35, 40, 44]
    assert int(state.step) == 44
    evaluated = [line["step"] for line in lines if "val/top1" in line]
    assert evaluated == [22, 44]
    assert lines[0].keys() == {"step", "train/loss", "train/grad_norm", "train/lr"}
    for prefix in ("val", "val_ema", "val_ema_0.5"):
        assert {f"{prefix}/{name}" for name in ("loss", "top1", "top5")} <= lines[-1].keys()
    assert lines[-1]["val/top1"] > 0.3  # chance is 0.1
    assert lines[1]["train/lr"] == pytest.approx(0.01 * 9 / 10)  # the tenth update
    assert json.loads((workdir / "classes.json").read_text()) == [str(i) for i in range(10)]
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["dims"] == [8, 16]
    assert (config["train_size"], config["val_size"]) == (1437, 360)  # others are refused
    assert Image.open(workdir / "curves.png").width > 1000
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert steps == [22, 33, 44]


def test_the_same_command_again_does_nothing(finished, capsys):
    workdir, state = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = train_command.train(small(), workdir)
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    assert capsys.readouterr().out == f"{workdir} is complete at step 44; nothing to do\n"


# How train.py puts things together, with a step and an evaluation that compute nothing.


@pytest.fixture(scope="module")
def wired(tmp_path_factory):
    """The config of a regression of 4 epochs of 2 steps, its workdir and last state; the keywords
    of its step; whether it is given each leaf of the state; each step that was saved, and the last
    one in the log then."""
    workdir, keywords, donated, logged = tmp_path_factory.mktemp("wired"), {}, [], []
    # The average is best after the first epoch, the raw weights after the second.
    evaluations = iter(zip((0.9, 0.1, 0.8, 0.7), (0.2, 0.5, 0.4, 0.3), strict=True))

    def train_step(state, batch, **given):
        keywords.update(given)
        zeros = {name: jnp.zeros(()) for name in ("loss", "grad_norm", "skipped_in_a_row")}
        return state.replace(step=state.step + 1), zeros

    def evaluate(*_):
        raw, average = next(evaluations)
        return {"val": {"loss": raw, "count": 1}, "val_ema": {"loss": average, "count": 1}}

    def traced(step, **_):
        def watched(number, state, batch):
            if not donated:
                (given, _), _ = step.lower(state, batch).args_info
                donated.extend(leaf.donated for leaf in jax.tree.leaves(given))
            return step(state, batch)

        return watched

    def save_async(orbax, step, *args, **options):
        logged.append((step, logs.read(workdir / "metrics.jsonl")[-1]["step"]))
        return saved(orbax, step, *args, **options)

    config = small(
        batch_size=704, accumulation_steps=2, problem_type="regression", frozen="^(?!head/)",
        ema_decays=(0.9,), ema_warmup=True, eval_every_epochs=1, keep_checkpoints=2,
        **{"model.depths": (1,), "model.dims": (8,), "model.num_classes": 1, "erase.prob": 0.5,
           "mix.mixup_alpha": 0.8, "mix.group_size": 32, "log.every_steps": 1},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        saved = ocp.training.Checkpointer.save_async
        patch.setattr(ocp.training.Checkpointer, "save_async", save_async)
        patch.setattr(train_command.steps, "train_step", train_step)
        patch.setattr(train_command.steps, "evaluate", evaluate)
        patch.setattr(train_command.profiling, "traced", traced)
        state = train_command.train(config, workdir)
    return SimpleNamespace(config=config, workdir=workdir, state=state, keywords=keywords,
                           donated=donated, logged=logged)  # fmt: skip


def test_the_step_gets_what_the_config_says(wired):
    config, given = wired.config, wired.keywords
    for name in ("accumulation_steps", "ema_decays", "ema_warmup", "frozen"):
        assert getattr(given["update"], name) == config[name]
    assert given["gathered"].is_fully_replicated
    assert given["task"].loss.keywords["problem_type"] == config.problem_type
    prepare = given["task"].prepare.keywords
    assert prepare["normalize"].keywords == config.normalize.to_dict()
    assert prepare["erase"].func is erasing.erase
    assert prepare["erase"].keywords == config.erase.to_dict()
    mix = {**config.mix, "problem_type": config.problem_type, "mesh": sharding.make_mesh(),
           "num_classes": config.model.num_classes}  # fmt: skip
    assert (prepare["mix"].func, prepare["mix"].keywords) == (mixup.mix, mix)
    # Two moments of the head alone, and two counts.
    of_head = sum(leaf.size for leaf in jax.tree.leaves(wired.state.params["head"]))
    state = jax.eval_shape(given["update"].tx.init, wired.state.params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * of_head + 2


def test_the_state_is_donated(wired):
    assert len(wired.donated) == len(jax.tree.leaves(wired.state)) and all(wired.donated)


def test_the_best_by_the_average_is_kept(wired):
    steps = sorted(int(path.name) for path in (wired.workdir / "checkpoints").iterdir())
    assert steps == [2, 6, 8]


def test_a_run_ends_where_evaluations_bring_nothing_better(tmp_path, monkeypatch, capsys):
    """And stays ended, unless it is given more patience."""
    scores = iter((0.5, 0.3, 0.4, 0.35, 0.2, 0.6))
    made = []

    def train_step(state, batch, **_):
        zeros = {name: jnp.zeros(()) for name in ("loss", "grad_norm", "skipped_in_a_row")}
        return state.replace(step=state.step + 1), zeros

    def evaluate(*_):
        made.append(next(scores))
        return {"val": {"loss": made[-1], "top1": 1 - made[-1], "count": 1}}

    monkeypatch.setattr(train_command.steps, "train_step", train_step)
    monkeypatch.setattr(train_command.steps, "evaluate", evaluate)
    monkeypatch.setattr(
        train_command.steps, "scores", lambda _, totals: {"val/top1": totals["val"]["top1"]}
    )
    config = small(
        batch_size=704, num_epochs=3, eval_every_steps=1, checkpoint_every_steps=100, ema_decays=(),
        patience=2, **{"model.depths": (1,), "model.dims": (8,), "mix.group_size": 32},
    )  # fmt: skip
    monkeypatch.setattr(classification, "report", lambda *_, **__: "the matrix")
    assert train_command.train(config, tmp_path).step == 4
    said = capsys.readouterr().out
    assert "fewer where 2 evaluations bring no better top1" in said
    assert "val: the matrix" in said
    ended = "ended      at step 4 of 6: 2 evaluations without a better score\n"
    assert ended in said and "best       val/top1 0.7000 at step 2, 0.6500 at the last\n" in said
    assert (tmp_path / "curves.png").is_file()

    assert train_command.train(config, tmp_path).step == 4
    assert ended in capsys.readouterr().out and len(made) == 4

    config.patience = 3
    assert train_command.train(config, tmp_path).step == 6
    assert made[4:] == [0.2, 0.6]


def test_the_log_is_on_the_disk_before_a_save(wired):
    assert wired.logged == [(step, step) for step in (2, 4, 6, 8)]


def evaluated(config, workdir, weights):
    _, val_source = sources.load(**config.data)
    found = pretrained.load(workdir, weights=weights, dtype=None)
    return evaluation.evaluate(found, {"": val_source}, batch_size=config.batch_size).mean


SMALLEST = {"num_epochs": 2, "eval_every_epochs": 1, "ema_decays": (), "log.every_steps": 4,
            "model.depths": (1,), "model.dims": (8,)}  # fmt: skip


@pytest.mark.slow
def test_a_stop_at_the_end_of_an_epoch_saves_at_once_and_its_evaluation_is_made_later(
    tmp_path, monkeypatch, capsys
):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    expected = train_command.train(small(**SMALLEST), straight)
    said = capsys.readouterr().out
    assert "val: labels (rows) and predictions (columns)\n" in said
    watch = interruption.Watch()
    log_step = logs.Log.step

    def log_step_and_stop(log, step, values):
        log_step(log, step, values)
        watch.received = step == 11

    with monkeypatch.context() as patch:
        patch.setattr(logs.Log, "step", log_step_and_stop)
        patch.setattr(train_command.steps, "evaluate", None)  # it would raise
        with pytest.raises(SystemExit):
            train_command.train(small(**SMALLEST), stopped, watch=watch)
    assert checkpoint.latest_step(stopped) == 11
    with pytest.raises(SystemExit) as ended:  # in the evaluation
        train_command.train(small(**SMALLEST), stopped, watch=watch)
    assert (
        ended.value.code == 75 and "stopped after step 11; run the same" in capsys.readouterr().out
    )
    assert [line["step"] for line in log_without_timing(stopped)] == [4, 8, 11]

    state = train_command.train(small(**SMALLEST), stopped)
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert log_without_timing(stopped) == log_without_timing(straight)
    added = json.loads((stopped / "checkpoints/11/scores.json").read_text())
    assert added == json.loads((straight / "checkpoints/11/metrics/metrics").read_text())


@pytest.mark.slow
def test_a_run_that_diverges_stops_at_the_state_of_before(tmp_path, capsys):
    config = small(max_skipped=3, **{"schedule.peak_lr": 1e30, "schedule.warmup_epochs": 0})
    message = r"at steps [2-6] to [4-9], and max_skipped is 3; the state after step \d+ is saved"
    with pytest.raises(RunError, match=message):
        train_command.train(config, tmp_path)
    step = int(re.search(r"stopped after step (\d+)", capsys.readouterr().out)[1])
    assert checkpoint.latest_step(tmp_path) == step < 20
    lines = log_without_timing(tmp_path)
    assert lines[-1]["train/loss"] is None and lines[-1]["train/skipped"] >= 3


@pytest.mark.slow
def test_a_signal_during_the_last_save_does_not_keep_it_from_being_made(tmp_path, monkeypatch):
    write = checkpoint._write_manifest

    def write_while_stopped(folder):
        os.kill(os.getpid(), signal.SIGTERM)
        write(folder)

    monkeypatch.setattr(checkpoint, "_write_manifest", write_while_stopped)
    flags.FLAGS.mark_as_parsed()
    train_command.main(small(num_epochs=1, **{"model.depths": (1,), "model.dims": (8,)}), tmp_path)
    assert checkpoint.latest_step(tmp_path) == 11


@pytest.mark.slow
def test_a_run_without_a_sound_checkpoint_starts_anew_only_where_it_is_told_to(
    finished, tmp_path, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    for saved in (workdir / "checkpoints").iterdir():
        (saved / ".nfs0001").touch()
    train_command.train(small(), workdir)
    assert capsys.readouterr().out == f"{workdir} is complete at step 44; nothing to do\n"

    for saved in (workdir / "checkpoints").iterdir():
        (saved / "manifest.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    other = small(**SMALLEST, seed=7)
    for dry_run in (True, False):
        with pytest.raises(InputError, match=r"no sound one is left \(44: it was not finished\)"):
            train_command.train(other, workdir, dry_run=dry_run)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before

    old = {name: (workdir / name).read_text() for name in ("metrics.jsonl", "config.json")}
    state = train_command.train(other, workdir, start_anew=True)
    assert int(state.step) == 22 and json.loads((workdir / "config.json").read_text())["seed"] == 7
    assert {name: (workdir / f"{name}.1").read_text() for name in old} == old


def test_images_that_were_left_out_before_a_restart_count_after_it(finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "44")
    (workdir / "bad_images.json").write_text('{"one": 5, "one that is met again": 40}')
    given = []

    class Feed(pipeline.Feed):
        def train(self, batches, start):
            given.append((start, self.skipped))
            raise InterruptedError

    monkeypatch.setattr(train_command, "Feed", Feed)
    with pytest.raises(InterruptedError):
        train_command.train(small(), workdir)
    assert given == [(33, {"one"})]


@pytest.mark.slow
def test_your_own_folder_trains(tmp_path):
    rng = np.random.default_rng(0)
    for name, colour in {"red": (200, 30, 30), "blue": (30, 30, 200)}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            noise = rng.integers(-30, 30, (20, 24, 3))
            image = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / name / f"{i}.jpg")
    config = folder.get_config()
    config.update_from_flattened_dict({
        **SMALL, "num_epochs": 6, "batch_size": 16, "image_size": 16, "model.patch_size": 2,
        "data.root": str(tmp_path / "images"), "num_workers": 1, "schedule.peak_lr": 4e-3,
        "eval_every_epochs": 6, "checkpoint_every_epochs": 6,
    })  # fmt: skip
    workdir = tmp_path / "run"
    train_command.train(config, workdir)
    assert json.loads((workdir / "classes.json").read_text()) == ["blue", "red"]
    assert log_without_timing(workdir)[-1]["val/top1"] == 1.0
    config.num_workers = 0
    assert evaluated(config, workdir, "raw")["count"] == 8


@pytest.mark.slow
def test_flowers_as_published_are_fine_tuned_from_given_weights(finished, tmp_path):
    source, _ = finished
    labels = [*range(1, 103)] * 2
    splits = dict(trnid=[*range(1, 52)], valid=[*range(52, 103)], tstid=[*range(103, 205)])
    write_flowers(tmp_path, labels, [100] * len(labels), **splits)
    config = flowers_config.get_config()
    config.update_from_flattened_dict({
        "data.root": str(tmp_path), "init_from": str(source), "num_workers": 0, "num_epochs": 2,
        "batch_size": 32, "image_size": 16, "preprocess.crop_pct": 1.0,
        "model.depths": (1, 1), "model.dims": (8, 16), "model.patch_size": 2,
        "model.layer_scale_init_value": 1.0, "model.dtype": "float32",
        "optimizer.layer_decay_type": "single", "schedule.warmup_epochs": 1,
    })  # fmt: skip
    state = train_command.train(config, tmp_path / "run")
    params = pretrained.load(source, weights="ema").params
    kernel = params["stem_conv"]["kernel"]
    # The rate of the stem is 1e-4 at most, over 6 updates, and it has decayed by a third.
    assert 0 < np.abs(state.params["stem_conv"]["kernel"] - kernel).max() < 6e-4
    assert state.params["head"]["kernel"].shape == (16, 102)
    assert evaluated(config, tmp_path / "run", "raw")["count"] == 102


# Weights from elsewhere, and other problems than one label.


def test_a_run_is_a_source_of_weights(finished, tmp_path):
    """Its model, either weights, labels and preprocessing; the predictions are those evaluated."""
    workdir, state = finished
    _, val = sources.load("digits")
    for weights, params in (("raw", state.params), (None, state.ema_params["0.9"])):
        found = pretrained.load(workdir, weights=weights)
        assert (found.model.depths, found.model.dims) == ((1, 1), (8, 16))
        assert found.labels == tuple("0123456789")
        jax.tree.map(np.testing.assert_array_equal, found.params, params)

    save_pretrained(
        tmp_path, found.model, found.params, labels=found.labels, processor=found.processor
    )
    classifier = Classifier.from_pretrained(tmp_path)
    best = classifier(list(val.images), top_k=1, batch_size=128)
    hits = [entry[0]["label"] == str(label) for entry, label in zip(best, val.labels, strict=True)]
    assert np.mean(hits) == log_without_timing(workdir)[-1]["val_ema/top1"]


@pytest.mark.slow
def test_a_run_starts_from_given_weights(finished, tmp_path):
    """With a rate of 0 they stay."""
    start, params = finished[0], pretrained.load(finished[0]).params
    frozen = {"init_from": str(start), "num_epochs": 1, "schedule.peak_lr": 0.0,
              "schedule.end_lr": 0.0, "schedule.warmup_epochs": 0}  # fmt: skip
    state = train_command.train(small(**frozen), tmp_path / "same")
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    close = partial(np.testing.assert_allclose, rtol=1e-5)  # the average of equals rounds
    jax.tree.map(close, state.ema_params["0.9"], params)


def test_batches_are_of_the_problem_and_the_mean_of_the_config(tmp_path, monkeypatch):
    """The mean, in which images are normalized, is what comes in from outside of them."""

    class EnoughError(Exception):
        pass

    asked = []

    def train_batches(source, transform, *_, **__):
        asked.append((transform.keywords["mean"], isinstance(source, sources.Labelled)))

    def eval_batches(source, *_, **__):
        asked.append(isinstance(source, sources.Labelled))
        raise EnoughError

    monkeypatch.setattr(train_command, "TrainBatches", train_batches)
    monkeypatch.setattr(train_command, "EvalBatches", eval_batches)
    config = small(**{"problem_type": "regression", "model.num_classes": 1})
    config.normalize.mean, config.augment_on = (0.1, 0.2, 0.3), "host"
    with pytest.raises(EnoughError):
        train_command.train(config, tmp_path)
    assert asked == [((0.1, 0.2, 0.3), False), False]


@pytest.mark.slow
def test_a_regression_from_given_weights_has_a_head_of_its_own(finished, regression):
    params = pretrained.load(regression, weights="raw").params
    start = pretrained.load(finished[0]).params
    head, _ = params.pop("head"), start.pop("head")
    assert head["kernel"].shape == (16, 1) and (head["kernel"] != 0).any()
    jax.tree.map(np.testing.assert_array_equal, params, start)

    last = log_without_timing(regression)[-1]
    assert {"val/loss", "val/mae"} <= last.keys() and "val/top1" not in last
    assert evaluated(small(), regression, "raw")["mae"] == last["val/mae"]
    found = pretrained.load(regression)
    assert (found.model.num_classes, found.problem_type) == (1, "regression")
