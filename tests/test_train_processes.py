"""A run in processes of its own: signals, two processes, and what they tell each other."""

import os
import re
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from absl import flags

import train as train_command
from convnext import hosts, sharding
from convnext.data import sources
from convnext.runs import checkpoint, interruption
from convnext.runs import log as logs
from tests.helpers.runs import (
    ROOT,
    command,
    log_without_timing,
    small,
    two_processes,
    wait_for,
)  # fmt: skip

# A group of images that are mixed with each other is the batch, of both processes.
MIXED = {"mix.mixup_alpha": 0.8, "mix.cutmix_alpha": 1.0, "mix.group_size": 128, "erase.prob": 0.5}


# To the whole process group, while the first evaluation starts its worker: of what
# multiprocessing starts, it is the second, after its own tracker. To train, the digits need none.
SIGNALLED = """
import os, signal
from multiprocessing import util
import train
from convnext.runs import cli
start, count = util.spawnv_passfds, 0
def start_and_signal(*args):
    global count
    pid, count = start(*args), count + 1
    if count == 2:
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
    kept = tmp_path / "programs"
    signalled = subprocess.run([python, "-c", SIGNALLED, *others], cwd=ROOT, capture_output=True,
                               env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(kept)},
                               text=True, timeout=300, start_new_session=True)  # fmt: skip
    assert not kept.exists()  # programs of eight CPU devices, see programs.may_hang_once_loaded
    assert signalled.returncode == interruption.EXIT_STATUS == 75, signalled.stderr
    assert "SIGTERM: the run saves and stops; a second one stops it at once\n" in signalled.stderr
    assert "stopped after step 22; run the same command again to resume\n" in signalled.stdout
    assert "val/top1" not in signalled.stdout
    assert "resource_tracker" not in signalled.stderr  # batches that are left in shared memory

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


@pytest.mark.slow
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
        wait_for("   1.82       20 ", first)  # epoch and step
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
    assert f"resumes from step {step}\n" in resumed and "\n   4.00       44 " in resumed
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
        wait_for("  epoch     step", first)
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
