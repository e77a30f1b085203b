"""The loop carries a task of another kind (tests/helpers/maps_task.py), in real processes."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import eval as eval_command
import train as train_command
from configs import convnext_tiny
from convnext import VARIANTS, sharding, tasks
from convnext.data.batches import EvalBatches, TrainBatches
from convnext.data.epochs import Epochs
from convnext.errors import InputError, RunError
from convnext.evaluation.requests import Request
from convnext.models.convnext import Backbone
from convnext.runs import checkpoint, interruption, profiling
from convnext.runs import log as logs
from convnext.task import Task, joined
from convnext.training import optimizer, steps
from tests.helpers import maps_task
from tests.helpers.inputs import refused

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
ONE = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
# The processes have one device, so that programs are compiled once for all of them.
ENVIRONMENT = {"JAX_NUM_CPU_DEVICES": "1"}
EVALUATED = ("val", "val_ema", "val_ema_0.5")  # raw, and the averages in the config's order
WEIGHTS = ("raw", "ema", "ema_0.5")


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Runs in this process have a device, as those of the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda **_: ONE)
        yield


def command(*arguments):
    return [sys.executable, "-m", "tests.helpers.maps_task", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, env={**os.environ, **ENVIRONMENT},
                          capture_output=True, text=True, timeout=300)  # fmt: skip


def train(workdir, watch=None, make=maps_task.make, **changes):
    config = maps_task.get_config()
    config.update_from_flattened_dict(changes)
    return train_command.train(config, workdir, watch, make=make)


class Signalled(interruption.Watch):
    """SIGTERM during a step."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def stops_after(self, step, *args, **keywords):
        if step == self.step:
            signal.raise_signal(signal.SIGTERM)
        return super().stops_after(step, *args, **keywords)


def log_without_timing(workdir):
    lines = logs.read(workdir / "metrics.jsonl")
    timings = ("second", "wait")
    return [{k: v for k, v in line.items() if not any(t in k for t in timings)} for line in lines]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def copied(state):
    """The step takes the memory of what it is given."""
    return jax.tree.map(jnp.copy, state)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run from start to end: its workdir, last state, task and jitted step, and the shapes of the
    images for which `prepare` and `measure` were traced."""
    found = SimpleNamespace(workdir=tmp_path_factory.mktemp("finished"), prepared=[], measured=[])

    def make(*args, **keywords):
        task = found.task = maps_task.make(*args, **keywords)

        def prepare(keys, batch):
            found.prepared.append(batch["image"].shape)
            return task.prepare(keys, batch)

        def measure(variables, batch):
            found.measured.append(batch["image"].shape)
            return task.evaluation.measure(variables, batch)

        evaluation = dataclasses.replace(task.evaluation, measure=measure)
        return dataclasses.replace(task, prepare=prepare, evaluation=evaluation)

    def traced(step, **options):
        found.step = step
        return plain(step, **options)

    with pytest.MonkeyPatch.context() as patch:
        plain = profiling.traced
        patch.setattr(profiling, "traced", traced)
        found.state = train(found.workdir, make=make)
    return found


@pytest.fixture(scope="module")
def task():
    return maps_task.make(maps_task.get_config(), ONE)


def train_batches(task, size=16, **changes):
    order = dict(num_epochs=300, num_steps=task.config.num_steps, groups=task.train_groups)
    epochs = Epochs(len(task.train_source), size, **order)
    return TrainBatches(task.train_source, task.train_transform, epochs, **changes)


def host_batch(batches, number):
    batch = batches[number]
    return {name: batch[name] for name in batch if name != "bad"}


# A run.


def test_it_trains_and_logs_what_its_loss_returns(finished):
    lines = log_without_timing(finished.workdir)
    assert [line["step"] for line in lines] == list(range(1, 13))
    losses = [line["train/loss"] for line in lines]
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:3])
    for line in lines:
        total = line["train/loss_main"] + 0.4 * line["train/loss_aux"]
        assert line["train/loss"] == pytest.approx(total, rel=1e-6)
    assert [line["step"] for line in lines if "val/median" in line] == [6, 12]
    for prefix in EVALUATED:
        assert lines[-1][f"{prefix}/images"] == 21
    assert lines[-1]["val/accuracy"] > 0.75  # chance is 0.25
    assert not (finished.workdir / "classes.json").exists()
    assert (finished.workdir / "curves.png").exists()


def test_the_run_is_as_long_as_it_has_steps_and_saves_by_steps(finished):
    assert int(finished.state.step) == 12
    saved = sorted(int(path.name) for path in (finished.workdir / "checkpoints").iterdir())
    assert saved == [8, 12]


def test_what_the_task_decides_is_what_the_loop_reads_and_what_is_recorded(finished):
    config = json.loads((finished.workdir / "config.json").read_text())
    assert maps_task.get_config().schedule.warmup_steps is None
    assert config["schedule"]["warmup_steps"] == 3 and config["head"]["num_classes"] == 4
    assert config["colours"] == maps_task.COLOURS.tolist()
    assert (config["train_size"], config["val_size"]) == (40, 21)
    rates = [line["train/lr"] for line in log_without_timing(finished.workdir)]
    decay = 0.03 * (1 - np.arange(12) / 12)
    decay[:3] *= 1 - (1 - np.arange(3) / 3) * (1 - 1e-6)
    np.testing.assert_allclose(rates, decay, rtol=1e-6)


def test_each_canvas_is_compiled_once(finished):
    wide, tall = ((16, *canvas, 3) for canvas in maps_task.CANVASES)
    # The wide one is the example's, with whose shapes train.py checks what it can in advance.
    assert Counter(finished.prepared) == {wide: 2, tall: 1}
    assert Counter(finished.measured) == {wide: 1, tall: 1}  # of all weights together


def test_a_run_that_is_killed_and_stopped_ends_as_if_it_had_not_been(finished, tmp_path, capsys):
    killed = run("train", f"--workdir={tmp_path}", "--kill_after=9")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Signalled(10) as watch, pytest.raises(SystemExit) as ended:
        train(tmp_path, watch)
    assert ended.value.code == 75 and checkpoint.latest_step(tmp_path) == 10
    # Of the last two saves before it was killed the second may not have been finished.
    assert any(f"resumes from step {step}\n" in capsys.readouterr().out for step in (4, 8))
    # In the last step there is nothing left to stop.
    with Signalled(12) as watch:
        state = train(tmp_path, watch)
    assert "val_ema: most mistakes in image" in capsys.readouterr().out
    assert_same(state, finished.state)
    assert "batch_stats" in state.others
    assert log_without_timing(tmp_path) == log_without_timing(finished.workdir)


def test_a_dry_run_needs_no_data(tmp_path, capsys):
    config = maps_task.get_config()
    train_command.train(config, tmp_path / "run", dry_run=True, make=maps_task.make)
    text = capsys.readouterr().out
    for fact in (
        "model      4,364 parameters, a segmenter\n",
        "data       5,000 training images, 5,000 validation images\n",
        "batch      16 images: devices 1 x parts 2 x images 8\n",
        "steps      12 in all, which is 0.0384 epochs\n",
        "light      changes by a tenth\n", "averages   0.9, 0.5\n",
        "published  97.5 median (a table that is made up)\n", "memory     not known\n",
        "rate x 1, decay 0; 56 in 5: auxiliary_head/{bias,kernel} head/bias ",
        "rate x 0.5905, decay 0.05; ", "backbone/stage_3_block_0/{dwconv/kernel,",
    ):  # fmt: skip
        assert fact in text
    assert not (tmp_path / "run").exists()


def test_the_projects_own_tasks_are_not_this_one():
    refused("task is 'maps'; accepted: classification", tasks.make, maps_task.get_config(), ONE)


def test_a_run_of_another_task_is_not_resumed(finished, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"task": "classification"}))
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    with pytest.raises(InputError, match="task is 'maps' and was 'classification'"):
        train(tmp_path)


# Evaluation.


def last_scores(workdir, prefix):
    line = log_without_timing(workdir)[-1]
    return {
        name.removeprefix(f"{prefix}/"): value
        for name, value in line.items()
        if name.startswith(f"{prefix}/")
    }


def scores_in(path):
    names = ("median", "accuracy", "loss", "images")
    rows = json.loads(path.read_text())
    assert [row["weights"] for row in rows] == list(WEIGHTS)
    return [{name: row[name] for name in names} for row in rows]


def test_eval_py_finds_the_scores_of_the_run_to_the_last_digit(finished, tmp_path):
    path = tmp_path / "scores.json"
    flags = [f"--workdir={finished.workdir}", f"--weights={','.join(WEIGHTS)}", f"--json={path}"]
    evaluated = run("eval", *flags)
    assert evaluated.returncode == 0, evaluated.stderr
    assert f"ema: the run {finished.workdir} at step 12 (EMA " in evaluated.stdout
    assert scores_in(path) == [last_scores(finished.workdir, prefix) for prefix in EVALUATED]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_two_processes_of_eval_py_find_them_too(finished, tmp_path, num_workers):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = tmp_path / "scores.json"
    arguments = ["eval", f"--workdir={finished.workdir}", f"--weights={','.join(WEIGHTS)}",
                 f"--json={path}", f"--num_workers={num_workers}",
                 f"--coordinator={address}", "--num_processes=2"]  # fmt: skip
    environment = {**os.environ, **ENVIRONMENT}
    processes = [
        subprocess.Popen(command(*arguments, f"--process_id={index}"), cwd=ROOT, env=environment,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for index in (0, 1)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], told
    for found, prefix in zip(scores_in(path), EVALUATED, strict=True):
        expected = last_scores(finished.workdir, prefix)
        assert found.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-5)
        assert found == expected


def test_flags_of_a_classifier_are_refused(finished):
    with pytest.raises(InputError, match="--flip is True; accepted: no such flag for a run of the"):
        eval_command.answer(Request(flip=True), None, finished.workdir, make=maps_task.make)


def eval_batches(task, batch_size, **options):
    evaluation = task.evaluation
    return EvalBatches(evaluation.source, evaluation.transform, groups=evaluation.groups,
                       batch_size=batch_size, **options)  # fmt: skip


def test_neither_the_batch_size_nor_what_fills_the_last_batch_changes_a_score(finished):
    evaluation, total = finished.task.evaluation, None
    measure = jax.jit(evaluation.measure)
    batches = eval_batches(finished.task, 7)  # 14 wide ones, and 7 tall ones: none is filled up
    for number in range(len(batches)):
        result = measure(finished.state.variables, host_batch(batches, number))
        total = evaluation.combine(total, jax.device_get(result))
    found, expected = evaluation.scores(total), last_scores(finished.workdir, "val")
    assert found.pop("loss") == pytest.approx(expected.pop("loss"), rel=1e-5)
    assert found == expected


def test_processes_make_the_rows_of_one_batch(task):
    whole = eval_batches(task, 16)
    parts = [eval_batches(task, 16, rows=rows) for rows in (slice(0, 8), slice(8, 16))]
    for number, filled in enumerate((14, 7)):
        halves = [part[number] for part in parts]
        made = {name: np.concatenate([half[name] for half in halves]) for name in halves[0]}
        assert_same(made, whole[number])
        assert made["mask"].sum() == filled


def test_rows_are_those_of_the_source_in_its_order(task):
    total, batches = None, eval_batches(task, 16)
    for number in range(len(batches)):
        batch = batches[number]
        rows = {"mask": batch["mask"], "index": batch["index"], "first": batch["image"][:, 0, 0]}
        total = task.evaluation.combine(total, rows)
    rows = joined(total)
    assert rows.keys() == {"index", "first"} and rows["index"].tolist() == list(range(21))
    for index, first in enumerate(rows["first"]):
        np.testing.assert_array_equal(first, task.evaluation.source[index]["image"][0, 0])


# An update.


def broken(batch):
    gain = batch["gain"].copy()
    gain[3] = np.nan
    return {**batch, "gain": gain}


def test_an_update_that_is_not_finite_touches_neither_statistics_nor_averages(finished):
    batch = host_batch(train_batches(finished.task), 0)
    before = jax.device_get(finished.state)
    state, values = finished.step(copied(finished.state), broken(batch))
    assert np.isnan(values["loss"]) and int(values["skipped"]) == 1 and int(state.step) == 13
    for name in ("params", "others", "ema_params"):
        assert_same(getattr(state, name), getattr(before, name))
    assert_same(state.opt_state[1], before.opt_state[1])  # Adam's moments
    state, values = finished.step(state, batch)
    assert np.isfinite(values["loss"]) and int(values["skipped_in_a_row"]) == 0
    for name in ("params", "others", "ema_params"):
        pairs = zip(
            jax.tree.leaves(getattr(state, name)), jax.tree.leaves(getattr(before, name)),
            strict=True,
        )  # fmt: skip
        assert all(np.isfinite(new).all() for new, _ in pairs)
    norm = state.others["batch_stats"]["head_norm"]
    assert not np.array_equal(norm["mean"], before.others["batch_stats"]["head_norm"]["mean"])


def test_eight_devices_do_what_one_does(finished):
    task, config = finished.task, finished.task.config
    mesh = Mesh(np.array(jax.devices()).reshape(8, 1), ("data", "fsdp"))
    whole, by_batch = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    schedule = optimizer.schedule(12, 1, **config.schedule)
    tx = optimizer.adamw(schedule, num_steps=12, **config.optimizer)
    update = steps.Update(tx, config.ema_decays, accumulation_steps=2)
    key = jax.random.split(jax.random.key(config.seed))[1]
    step = jax.jit(
        partial(steps.train_step, task=task, update=update, key=key, gathered=whole),
        in_shardings=(whole, by_batch), out_shardings=whole,
    )  # fmt: skip
    batches = train_batches(task)
    wide = [n for n in range(12) if batches[n]["image"].shape[1:3] == maps_task.CANVASES[0]][:2]
    one, eight = copied(finished.state), jax.device_put(jax.device_get(finished.state), whole)
    for number, rtol in zip(wide, (1e-5, 1e-3), strict=True):  # Adam enlarges what is rounded
        batch = host_batch(batches, number)
        one, values = finished.step(one, batch)
        eight, values_of_eight = step(eight, jax.device_put(batch, by_batch))
        assert_close(values_of_eight, values, rtol)
        assert_close(eight.others, one.others, rtol)
        assert_close(eight.params, one.params, rtol=1e-3, atol=1e-4)


# The same by a loss that one can write down.

IMAGES = np.random.default_rng(0).random((8, 3), np.float32)


def counting(parts_in_turn=False, accumulation_steps=1, ema_decays=()):
    """A state, an update of it, and its step: the loss adds a statistic, which moves half of the
    way to the mean of the images."""

    def loss(variables, batch, key):
        seen = batch["image"].mean() * variables["params"]["w"]
        old = variables["batch_stats"]["mean"]
        loss = seen + old + jax.random.uniform(key)
        stats = {"mean": 0.5 * (old + seen), "count": variables["batch_stats"]["count"] + 1}
        return loss, ({"batch_stats": stats}, {"seen": seen, "old": old})

    unused = dict.fromkeys(field.name for field in dataclasses.fields(Task))
    parts = dict(prepare=lambda keys, batch: batch, loss=loss, parts_in_turn=parts_in_turn)
    task = Task(**{**unused, **parts})
    tx = optimizer.adamw(optimizer.schedule(10, 1, peak_lr=0.1))
    stats = {"mean": jnp.float32(1), "count": jnp.int32(2**24)}
    variables = {"params": {"w": jnp.float32(2)}, "batch_stats": stats}
    update = steps.Update(tx, ema_decays, accumulation_steps=accumulation_steps)
    step = partial(steps.train_step, task=task, update=update, key=jax.random.key(3))
    return steps.start(variables, tx=tx, ema_decays=ema_decays), update, jax.jit(step)


def statistic(state):
    return float(state.others["batch_stats"]["mean"])


@pytest.mark.parametrize("in_turn", [False, True])
def test_accumulation_is_a_loop_over_parts(in_turn):
    state, _, step = counting(in_turn, accumulation_steps=4)
    new, values = step(state, {"image": IMAGES})

    loss_key = jax.random.split(jax.random.fold_in(jax.random.key(3), 0), 3)[1]
    mean, means, losses, seen, old = 1.0, [], [], [], []
    for part in range(4):
        seen.append(2 * IMAGES[part::4].mean())
        old.append(mean if in_turn else 1.0)
        losses.append(seen[-1] + old[-1] + jax.random.uniform(jax.random.fold_in(loss_key, part)))
        mean = 0.5 * (old[-1] + seen[-1])
        means.append(mean)
    assert values["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert values["seen"] == pytest.approx(np.mean(seen), rel=1e-6)
    assert values["old"] == pytest.approx(np.mean(old), rel=1e-6)
    assert values["grad_norm"] == pytest.approx(IMAGES.mean(), rel=1e-6)
    assert statistic(new) == pytest.approx(means[-1] if in_turn else np.mean(means), rel=1e-6)
    count = new.others["batch_stats"]["count"]
    assert count.dtype == jnp.int32 and count == 2**24 + (4 if in_turn else 1)


def test_a_skipped_update_keeps_the_statistics():
    state, _, step = counting(accumulation_steps=2, ema_decays=(0.9,))
    images = IMAGES.copy()
    images[3, 1] = np.nan
    skipped, values = step(state, {"image": images})
    assert int(values["skipped"]) == 1
    for name in ("params", "others", "ema_params"):
        assert_same(getattr(skipped, name), getattr(state, name))
    updated, _ = step(skipped, {"image": IMAGES})
    assert statistic(updated) != statistic(state) and np.isfinite(statistic(updated))


def test_averages_follow_every_update_and_the_first_is_the_one_reported():
    decays = (0.9, 0.5)  # not as jit sorts their names
    state, update, step = counting(ema_decays=decays)
    expected = [2.0, 2.0, 2.0]
    for _ in range(3):
        state, _ = step(state, {"image": IMAGES})
        new = float(state.params["w"])
        expected = [
            new,
            *(d * e + (1 - d) * new for d, e in zip(decays, expected[1:], strict=True)),
        ]
    weights = update.weights(state)
    assert list(weights) == list(EVALUATED)
    found = [float(variables["params"]["w"]) for variables in weights.values()]
    assert found == pytest.approx(expected, rel=1e-6) and len(set(found)) == 3
    assert all(
        variables["batch_stats"]["mean"] == statistic(state) for variables in weights.values()
    )
    assert update.best("median") == "val_ema/median" and update.best("-loss") == "-val_ema/loss"


# A step that computes nothing, in the whole loop.


@pytest.fixture
def empty(monkeypatch):
    """The last two updates count as skipped."""
    in_a_row = jnp.zeros(13, jnp.int32).at[11:].set([1, 2])

    def train_step(state, batch, **_):
        zeros = {name: jnp.zeros(()) for name in ("loss", "grad_norm")}
        step = state.step + 1
        return state.replace(step=step), {**zeros, "skipped_in_a_row": in_a_row[step]}

    row = dict(hits=[1], pixels=[2], loss=[1.0], mask=[1.0], index=[0])
    total = [{name: np.array(values) for name, values in row.items()}]
    monkeypatch.setattr(steps, "train_step", train_step)
    monkeypatch.setattr(steps, "evaluate", lambda *_: dict.fromkeys(EVALUATED, total))


@pytest.mark.usefixtures("empty")
def test_in_the_last_step_there_is_nothing_left_to_stop(tmp_path):
    with Signalled(12) as watch:
        train(tmp_path / "stopped", watch, max_skipped=3)
    assert "val/median" in log_without_timing(tmp_path / "stopped")[-1]


@pytest.mark.usefixtures("empty")
def test_a_run_that_diverges_in_its_last_steps_is_no_success(tmp_path):
    with pytest.raises(RunError, match="not finite at steps 11 to 12, and max_skipped is 2"):
        train(tmp_path, max_skipped=2)
    assert checkpoint.latest_step(tmp_path) == 12


# What is made on the host.


def classes_of(image):
    """By the nearest colour, which the noise does not change."""
    distances = np.abs(image[:, :, None].astype(int) - maps_task.COLOURS).sum(-1)
    return distances.argmin(-1)


def test_a_label_map_is_cropped_with_its_image(task):
    corners = set()
    for index in range(len(task.train_source)):
        example = task.train_source[index]
        cropped = task.train_transform(example, np.random.default_rng(index))
        assert cropped["label"].shape == cropped["image"].shape[:2] in maps_task.CANVASES
        corners.add(cropped["image"][0, 0].tobytes())
        label, valid = cropped["label"], cropped["valid"]
        assert (label[~valid] == maps_task.IGNORED).all()
        if (example["label"] == maps_task.IGNORED).all():
            assert (label == maps_task.IGNORED).all() and index % 5 == 4
        else:
            np.testing.assert_array_equal(label[valid], classes_of(cropped["image"])[valid])
    assert len(corners) > 20


def test_a_batch_has_one_canvas_and_is_a_function_of_its_number(task):
    batches = train_batches(task)
    again = train_batches(maps_task.make(maps_task.get_config(), ONE))
    shapes = [batches[number]["image"].shape[1:3] for number in range(12)]
    assert set(shapes) == set(maps_task.CANVASES)
    assert_same(again[7], batches[7])
    parts = [train_batches(task, rows=rows) for rows in (slice(0, 8), slice(8, 16))]
    halves = [part[7] for part in parts]
    assert_same({name: np.concatenate([h[name] for h in halves]) for name in halves[0]}, again[7])


def test_workers_are_sent_a_source_and_a_transform_and_no_task(task):
    pickled = cloudpickle.dumps(train_batches(task))
    assert len(pickled) < 10_000  # no arrays of a model
    for name in (b"convnext.task", b"flax", b"jaxlib"):
        assert name not in pickled
    assert_same(cloudpickle.loads(pickled)[3], train_batches(task)[3])


# The model, and how fast its layers learn.


def test_what_lies_beside_an_image_on_its_canvas_is_not_seen(finished):
    task, variables = finished.task, finished.state.variables
    example = maps_task.whole(task.train_source[0])
    assert example["valid"].any(0).sum() == 16 < example["valid"].shape[1]
    images = np.random.default_rng(0).normal(size=(2, 16, 32, 3)).astype(np.float32)
    images[1, :, :16] = images[0, :, :16]
    valid = np.stack([example["valid"]] * 2)
    logits, _ = jax.jit(task.model.apply)(variables, images, valid)
    assert_same(logits[0, :, :16], logits[1, :, :16])
    assert not np.allclose(logits[0, :, 16:], logits[1, :, 16:])


def backbone_scales(name, decay, kind):
    """The factors of the parameters of a variant that is a backbone, by their full names."""
    model = maps_task.Segmenter(Backbone(**VARIANTS[name]), num_classes=2, dim=1)
    images, valid = jnp.zeros((1, 32, 32, 3)), jnp.ones((1, 32, 32), bool)
    params = jax.eval_shape(model.init, jax.random.key(0), images, valid)["params"]
    scales = optimizer.layer_scales(params, decay, kind)
    flat = jax.tree.leaves_with_path(scales)
    return {"/".join(entry.key for entry in path): scale for path, scale in flat}


def test_layers_of_a_backbone_learn_at_the_published_rates():
    """The official detection and segmentation code, of ConvNeXt-T."""
    mask_rcnn = backbone_scales("tiny", 0.95, "layer_wise")
    assert mask_rcnn["backbone/stem_conv/kernel"] == pytest.approx(0.69834, abs=5e-6)
    assert mask_rcnn["head/kernel"] == mask_rcnn["head_norm/scale"] == 1
    upernet = backbone_scales("tiny", 0.9, "stage_wise")
    for scale, names in {
        0.4783: ("stem_conv/kernel", "downsample_1_norm/scale", "downsample_3_conv/kernel"),
        0.5314: ("stage_0_block_0/gamma", "stage_0_block_2/pwconv2/kernel"),
        0.5905: ("stage_1_block_0/dwconv/bias",),
        0.6561: ("stage_2_block_0/norm/scale", "stage_2_block_8/norm/scale"),
        0.7290: ("stage_3_block_2/pwconv1/kernel",),
    }.items():
        for name in names:
            assert upernet[f"backbone/{name}"] == pytest.approx(scale, abs=5e-5)
    assert upernet["auxiliary_head/kernel"] == 1


def test_the_task_learns_at_these_rates_and_decays_by_its_own_rule(task):
    """The first update of Adam has the size of the factor, whatever the gradient."""
    tx = optimizer.adamw(lambda step: 1.0, num_steps=12, **task.config.optimizer, **task.rules)
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    params = jax.tree.map(lambda _: jnp.ones(1), params)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    backbone = updates["backbone"]
    for update, expected in (
        (backbone["stem_conv"]["bias"], 0.9**5),
        (backbone["stage_3_block_0"]["gamma"], 0.9),
        (backbone["stage_3_block_0"]["dwconv"]["kernel"], 0.9 * 1.05),
        (updates["head"]["kernel"], 1.05),
        (updates["auxiliary_head"]["kernel"], 1),
    ):
        assert float(-update[0]) == pytest.approx(expected, rel=1e-4)


def test_the_rates_of_published_segmentation():
    config = convnext_tiny.get_config()
    config.schedule.update(kind="poly", peak_lr=1e-4, end_lr=0.0, warmup_epochs=0,
                           warmup_steps=1500, warmup_ratio=1e-6)  # fmt: skip
    rates = optimizer.schedule(160_000, 1263, **config.schedule)
    for step, rate in {
        0: 1.0000e-10, 1: 6.676618e-8, 749: 4.969963e-5, 1499: 9.899708e-5, 1500: 9.90625e-5,
        80_000: 5e-5, 159_999: 6.25e-10,
    }.items():  # fmt: skip
        assert rates(step) == pytest.approx(rate, rel=1e-6)


def test_a_run_starts_from_given_variables(finished, tmp_path):
    with Signalled(2) as watch, pytest.raises(SystemExit):
        train(tmp_path, watch, init_from="5")
    init_key = jax.random.split(jax.random.key(0))[0]
    variables = finished.task.pretrained("5", init_key)
    tx = optimizer.adamw(lambda step: 0.0, num_steps=12, **finished.task.config.optimizer)
    state = jax.jit(partial(steps.start, tx=tx, ema_decays=(0.9, 0.5)))(variables)
    for number in range(2):
        state, _ = finished.step(state, host_batch(train_batches(finished.task), number))
    abstract = jax.eval_shape(finished.task.init, init_key)
    saved = checkpoint.restore_variables(tmp_path, 2, abstract, sharding.replicated(ONE))
    assert_same(saved, state.variables)


def test_a_run_on_eight_devices_ends_as_on_one(finished, tmp_path, monkeypatch):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))
    monkeypatch.setattr(sharding, "make_mesh", lambda **_: mesh)
    train(tmp_path)
    pairs = zip(log_without_timing(tmp_path), log_without_timing(finished.workdir), strict=True)
    for line, expected in pairs:
        assert line == pytest.approx(expected, rel=0.02)
