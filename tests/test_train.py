"""The commands, as a user runs them, on a very small model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
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
from configs import convnext_tiny, folder
from configs import flowers as flowers_config
from convnext import Classifier, hosts, save_pretrained, sharding
from convnext.data import pipeline, sources
from convnext.errors import InputError, RunError
from convnext.evaluation import evaluate as evaluation
from convnext.runs import checkpoint, interruption
from convnext.runs import log as logs
from convnext.training import erasing, mixup
from convnext.weights import pretrained
from tests.helpers.archives import write_flowers
from tests.helpers.runs import (
    ROOT,
    SMALL,
    command,
    log_without_timing,
    run,
    small,
    two_processes,
    wait_for,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(finished_run, tmp_path_factory):
    """A run from start to end, and its last state."""
    workdir = shutil.copytree(finished_run, tmp_path_factory.mktemp("runs") / "finished")
    return workdir, train_command.train(small(), workdir)


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


def test_the_log_is_on_the_disk_before_a_save(wired):
    assert wired.logged == [(step, step) for step in (2, 4, 6, 8)]


def evaluated(config, workdir, weights):
    _, val_source = sources.load(**config.data)
    found = pretrained.load(workdir, weights=weights, dtype=None)
    return evaluation.evaluate(found, {"": val_source}, batch_size=config.batch_size).mean


# A group of images that are mixed with each other is the batch, of both processes.
MIXED = {"mix.mixup_alpha": 0.8, "mix.cutmix_alpha": 1.0, "mix.group_size": 128, "erase.prob": 0.5}


# To the whole process group, while the first evaluation starts its worker: of what
# multiprocessing starts, it is the third, after its own tracker and the worker that trains.
SIGNALLED = """
import os, signal
from multiprocessing import util
import train
from convnext.runs import cli
start, count = util.spawnv_passfds, 0
def start_and_signal(*args):
    global count
    pid, count = start(*args), count + 1
    if count == 3:
        os.killpg(0, signal.SIGTERM)
    return pid
util.spawnv_passfds = start_and_signal
cli.run(train.main)
"""


@pytest.mark.slow
def test_signals_to_a_run_save_it_and_it_ends_as_if_they_had_not_come(
    finished, tmp_path, capsys, monkeypatch
):
    python, _, *others = command("train.py", tmp_path, "--config.num_workers=1")
    signalled = subprocess.run([python, "-c", SIGNALLED, *others], cwd=ROOT, capture_output=True,
                               text=True, timeout=300, start_new_session=True)  # fmt: skip
    assert signalled.returncode == interruption.EXIT_STATUS == 75, signalled.stderr
    assert "SIGTERM: the run saves and stops; a second one stops it at once\n" in signalled.stderr
    assert "stopped after step 22; run the same command again to resume\n" in signalled.stdout
    assert "val/top1" not in signalled.stdout

    log_step = logs.Log.step

    def log_step_and_signal(log, step, values):
        log_step(log, step, values)
        if step == 30:
            os.kill(os.getpid(), signal.SIGINT)

    flags.FLAGS.mark_as_parsed()
    monkeypatch.setattr(logs.Log, "step", log_step_and_signal)
    with pytest.raises(SystemExit) as ended:
        train_command.main(small(), tmp_path)
    assert ended.value.code == 75 and checkpoint.latest_step(tmp_path) == 30
    assert "resumes from step 22\n" in capsys.readouterr().out

    state = train_command.train(small(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, finished[1])
    assert log_without_timing(tmp_path) == log_without_timing(finished[0])


SMALLEST = {"num_epochs": 2, "eval_every_epochs": 1, "ema_decays": (), "log.every_steps": 4,
            "model.depths": (1,), "model.dims": (8,)}  # fmt: skip


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
@pytest.mark.usefixtures("uncached")
def test_two_processes_with_two_devices_do_what_one_with_four_does(tmp_path, monkeypatch, capsys):
    """Also where they stop together and one goes on, and where they go on from what one saved."""
    four = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(4, 1), ("data", "fsdp"))
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda **_: four)
        train_command.train(small(**MIXED), tmp_path / "one")
    expected = log_without_timing(tmp_path / "one")
    workdir = tmp_path / "two"
    flags = [f"--config.{name}={value}" for name, value in MIXED.items()]

    with two_processes("train.py", workdir, *flags) as (first, second):
        wait_for("step 20/44", first)
        second.send_signal(signal.SIGTERM)  # to one of them
        (said, errors), (silence, noted) = (
            process.communicate(timeout=300) for process in (first, second)
        )
        assert first.returncode == interruption.EXIT_STATUS == 75, errors
        assert second.returncode == 75, noted
    assert "SIGTERM: the run saves and stops; a second one stops it at once\n" in noted
    step = int(re.search(r"stopped after step (\d+); run the same command again", said)[1])
    assert 22 < step < 44 and checkpoint.latest_step(workdir) == step
    assert "step" not in silence  # only process 0 logs

    capsys.readouterr()
    train_command.train(small(**MIXED), workdir)  # on eight devices
    resumed = capsys.readouterr().out
    assert f"resumes from step {step}\n" in resumed and "step 44/44" in resumed
    assert_same_lines(log_without_timing(workdir), expected)

    with two_processes("eval.py", workdir, "--weights=raw") as (first, second):
        said, errors = first.communicate(timeout=300)
    names = ("count", "loss", "top1")
    told = dict(line.split() for line in said.splitlines() if line.startswith(names))
    assert told["count"] == "360" and float(told["top1"]) == expected[-1]["val/top1"], errors
    assert float(told["loss"]) == pytest.approx(expected[-1]["val/loss"], rel=1e-5)

    shutil.rmtree(workdir / "checkpoints/44")
    before = checkpoint.latest_step(workdir)
    assert before in (step, 33)
    with two_processes("train.py", workdir, *flags) as (first, second):
        wait_for(f"resumes from step {before}\n", first)
        wait_for("step ", first)
        second.kill()
        first.communicate(timeout=300)
        assert first.returncode not in (0, 75)
    again = log_without_timing(workdir)
    assert before < again[-1]["step"]
    assert_same_lines(again, expected[: len(again)])


def assert_same_lines(lines, expected):
    for line, of_expected in zip(lines, expected, strict=True):
        assert line == pytest.approx(of_expected, rel=1e-5)


def test_processes_compare_config_flags_and_data_before_anything_is_compiled(tmp_path, monkeypatch):
    class ComparedError(Exception):
        pass

    compared = []

    def require_same(values):
        compared.append(values())
        if len(compared) == 2:
            raise ComparedError

    monkeypatch.setattr(hosts, "require_same", require_same)
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("compiled"))
    config = small(seed=7)
    with pytest.raises(ComparedError):
        train_command.train(config, tmp_path, profile_steps="1:2", dry_run=True, start_anew=True)
    flags = dict(profile_steps="1:2", dry_run=True, start_anew=True)
    train, val = map(sources.fingerprint, sources.load("digits"))
    assert compared == [dict(config=config.to_dict(), **flags), dict(train=train, val=val)]


# Of the rows of a batch, 3 is process 0's and 19 process 1's, which fails before its first step.
IN_TROUBLE = """
import sys
import jax, numpy as np
import train
from convnext import hosts, sharding
from convnext.data import pipeline, sources
from convnext.data.batches import EvalBatches, process_rows
from convnext.errors import InputError
from convnext.runs import checkpoint, cli, log as logs, workdirs
from tests.helpers.numbered import Damaged
hosts.HEARTBEAT_TIMEOUT, hosts.PARTING_TIMEOUT = 8, 2
del sys.argv[0]

def main(config, workdir):
    digits, _ = sources.load("digits")
    Damaged.damaged = (3, 19)
    source = Damaged(digits.images[:320], digits.labels, digits.class_names)
    place = sharding.batch_sharding(sharding.make_mesh())
    for limit in (2, 1):
        batches = EvalBatches(source, dict, batch_size=32, rows=process_rows(32),
                              max_bad_images=limit)
        said, count = [], 0
        try:
            for batch in pipeline.Feed(place, report=said.append).evaluate(batches):
                count += int(batch["mask"].sum())
        except InputError as error:
            said.append(str(error))
        print(count, *said, sep=", ", file=sys.stderr)

    def no_room(*_, **__):
        raise OSError("no room")

    is_second = jax.process_index() == 1
    say = lambda text: print(text, file=sys.stderr)
    state = {"step": jax.device_put(np.arange(4), place)}
    with checkpoint.Checkpoints(workdir / "saves", keep=2, best="top1", report=say,
                                on_save_error="continue") as saves:
        saves.save(1, state, before=no_room if is_second else lambda: None)
        if is_second:
            saves._orbax.save_async = no_room
        saves.save(2, state)
        saves.save(3, state)
    say(checkpoint.latest_step(workdir / "saves"))
    workdirs.SEEN_WITHIN = 0
    seed = config.seed
    for other in (True, False):
        config.seed = seed + (is_second and not other)
        try:
            train.train(config, workdir / str(is_second) if other else workdir)
        except InputError as error:
            say(str(error).replace(str(workdir), "W"))
    config.seed = seed

    if is_second:
        def fail(log, text):
            raise InputError("broken; accepted: whole ones")
        logs.Log.print = fail
    train.main(config, workdir)

cli.run(main)
"""


@pytest.mark.slow
def test_what_is_wrong_in_one_of_two_processes_both_know(tmp_path):
    with two_processes("train.py", tmp_path, program=IN_TROUBLE) as (first, second):
        _, errors = second.communicate(timeout=300)
        assert second.returncode == 1 and "error: broken; accepted: whole ones\n" in errors
        _, also = first.communicate(timeout=30)
        assert first.returncode not in (0, 75)
    left_out = [f"cannot read the image {i}.jpg: cut off; accepted: whole ones" for i in (3, 19)]
    too_many = "2 images cannot be read, the last of them 19; accepted: max_bad_images, which is 1"
    for said in (errors, also):
        lines = [line for line in said.splitlines() if not line.startswith("[Gloo]")]
        assert lines[:5] == [
            ", ".join(["318", *left_out]),
            ", ".join([str(8 * 32 - 2), *left_out, too_many]),
            *(f"the checkpoint of step {step} could not be saved: process 1: no room; the run "
              "continues, as on_save_error says" for step in (1, 2)),
            "3",
        ]  # fmt: skip
        place, seed = lines[5:7]
        assert place.endswith(": process 1: what process 0 wrote is not in W/True; accepted: a "
                              "folder that all processes see and can write")  # fmt: skip
        assert seed == (
            "config.seed is 1 in process 1 and 0 in process 0; accepted: the same config, flags "
            "and data in all processes of a run"
        )


def test_a_run_that_diverges_stops_at_the_state_of_before(tmp_path, capsys):
    config = small(max_skipped=3, **{"schedule.peak_lr": 1e30, "schedule.warmup_epochs": 0})
    message = r"at steps [2-6] to [4-9], and max_skipped is 3; the state after step \d+ is saved"
    with pytest.raises(RunError, match=message):
        train_command.train(config, tmp_path)
    step = int(re.search(r"stopped after step (\d+)", capsys.readouterr().out)[1])
    assert checkpoint.latest_step(tmp_path) == step < 20
    lines = log_without_timing(tmp_path)
    assert lines[-1]["train/loss"] is None and lines[-1]["train/skipped"] >= 3


def test_a_signal_during_the_last_save_does_not_keep_it_from_being_made(tmp_path, monkeypatch):
    write = checkpoint._write_manifest

    def write_while_stopped(folder):
        os.kill(os.getpid(), signal.SIGTERM)
        write(folder)

    monkeypatch.setattr(checkpoint, "_write_manifest", write_while_stopped)
    flags.FLAGS.mark_as_parsed()
    train_command.main(small(num_epochs=1, **{"model.depths": (1,), "model.dims": (8,)}), tmp_path)
    assert checkpoint.latest_step(tmp_path) == 11


def test_another_recipe_in_the_workdir_is_refused_and_nothing_is_touched(finished):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    config = small(**{"model.dims": (8, 24), "num_epochs": 6, "num_workers": 1})
    changes = r"model.dims is \[8, 24\] and was \[8, 16\], num_epochs is 6 and was 4; accepted"
    with pytest.raises(InputError, match=f"is of another recipe: {changes}"):
        train_command.train(config, workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


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


def test_before_the_first_checkpoint_the_recipe_may_not_change_either(finished, tmp_path):
    shutil.copy(finished[0] / "config.json", tmp_path)
    for dry_run in (True, False):
        message = "another recipe: seed is 7 and was 0; accepted: .* is left --start_anew"
        with pytest.raises(InputError, match=message):
            train_command.train(small(seed=7), tmp_path, dry_run=dry_run)
    train_command.train(small(seed=7), tmp_path, dry_run=True, start_anew=True)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


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


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path):
    workdir = tmp_path / "run"
    result = run(*command("train.py", workdir, "--dry_run"))
    assert result.returncode == 0, result.stderr
    names = [line.split()[0] for line in result.stdout.splitlines() if line[0] != " "]
    assert names == ["devices", "model", "precision", "data", "batch", "steps", "rate", "mixing",
                     "averages", "start", "published", "memory", "updates"]  # fmt: skip
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
        ({"image_size": 3}, "image is 3x3 pixels; accepted: sides of at least 4"),
        ({"num_epochs": 1, "schedule.warmup_epochs": 5}, "warmup_epochs is 5; accepted: at most"),
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
        ({"preprocess.crop_pct": 1.5}, "crop_pct is 1.5; accepted: above 0, at most 1"),
        ({"erase.area": (0.9, 0.5)}, "erase.area is .0.9, 0.5.; accepted: two numbers in order, "),
        ({"normalize.std": (0.0, 1.0, 1.0)}, "normalize.std is .0.0, 1.0, 1.0.; accepted: above 0"),
        ({"optimizer.b1": 1.0}, "b1 is 1.0; accepted: from 0 to below 1"),
        ({"model.drop_path_rate": 1.0}, "drop_path_rate is 1.0; accepted: from 0 to below 1"),
        ({"model.dtype": "bf16"}, "model.dtype is 'bf16'; accepted: float32, bfloat16 or float16"),
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
    config.normalize.mean = (0.1, 0.2, 0.3)
    with pytest.raises(EnoughError):
        train_command.train(config, tmp_path)
    assert asked == [((0.1, 0.2, 0.3), False), False]


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


def test_weights_of_another_architecture_are_refused(finished, tmp_path):
    config = small(init_from=str(finished[0]), **{"model.use_grn": True})
    with pytest.raises(InputError, match="use_grn False, not True; accepted: '--config.mod"):
        train_command.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
