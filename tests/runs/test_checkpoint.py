import math
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from convnext import hosts, sharding
from convnext.errors import InputError, RunError
from convnext.runs import checkpoint
from convnext.training import mixup, optimizer, steps
from tests.helpers import classifiers
from tests.helpers.inputs import refused
from tests.helpers.processes import together


@pytest.fixture(scope="module")
def run(tiny_model, batch):
    """init, a compiled step, and an unchanging batch."""
    model = tiny_model.clone(drop_path_rate=0.5)
    tx = optimizer.adamw(optimizer.schedule(20, 4, peak_lr=5e-3, warmup_epochs=1))
    init = partial(classifiers.init, model=model, tx=tx, image_size=12, ema_decays=(0.9, 0.99))
    init = jax.jit(init)
    step = partial(
        classifiers.train_step,
        model=model,
        tx=tx,
        normalize=partial(steps.normalize, mean=(0.5,) * 3, std=(0.2,) * 3),
        mix=partial(mixup.mix, num_classes=5, mixup_alpha=0.0, cutmix_alpha=0.0),
        key=jax.random.key(1),
        ema_decays=(0.9, 0.99),
    )
    step = jax.jit(step)
    return init, lambda state: step(state, batch)[0]


def shape_and_place(init, fsdp=1):
    mesh = sharding.make_mesh(fsdp=fsdp)
    abstract = jax.eval_shape(init, jax.random.key(0))
    return abstract, sharding.state_sharding(abstract, mesh)


def opened(workdir, keep=3, best="val_ema/top1", **keywords):
    return checkpoint.Checkpoints(workdir, keep=keep, best=best, **keywords)


SMALL_STATE = {"params": np.arange(3.0)}


def save(workdir, state):
    with opened(workdir) as checkpoints:
        checkpoints.save(int(state.step), state)


def restore(workdir, abstract_state, state_sharding):
    with opened(workdir) as checkpoints:
        return checkpoints.restore(abstract_state, state_sharding)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("saved, fsdp", [(1, 1), (1, 4), (8, 2), (8, 1)])
def test_two_and_two_steps_with_a_restore_between_are_four(run, tmp_path, saved, fsdp):
    """The state is saved while it is split over `saved` devices, and restored split over `fsdp`."""
    init, step = run
    straight = init(jax.random.key(0))
    for _ in range(4):
        straight = step(straight)
    state = step(step(init(jax.random.key(0))))
    split = jax.device_put(state, shape_and_place(init, saved)[1])
    save(tmp_path, split)
    restored = restore(tmp_path, *shape_and_place(init, fsdp))
    assert isinstance(restored, steps.TrainState)
    assert_equal(restored, state)
    for each, parts in ((split, saved), (restored, fsdp)):
        kernel = each.params["stage_1_block_0"]["pwconv1"]["kernel"]
        assert kernel.addressable_shards[0].data.size * parts == kernel.size
    if fsdp == 1:
        on_one = jax.device_put(restored, jax.devices()[0])
        assert_equal(step(step(on_one)), straight)


@pytest.mark.parametrize("size, cut", [(8 * 2**18, True), (8 * 2**18 - 8, False)])
def test_of_what_all_devices_have_each_writes_a_part_if_it_is_large(tmp_path, caplog, size, cut):
    """To cut takes a program for each shape, and a state has hundreds of small arrays."""
    place = sharding.replicated(sharding.make_mesh())
    array = jax.device_put(np.arange(size, dtype=np.float32), place)
    with jax.log_compiles(), opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": array})
    assert ("jit(slice)" in caplog.text) == cut


def test_the_parameters_or_an_average_are_read_alone(run, tmp_path):
    init, step = run
    state = step(step(init(jax.random.key(0))))
    save(tmp_path, state)
    abstract = jax.eval_shape(init, jax.random.key(0)).variables
    place = sharding.replicated(sharding.make_mesh())
    raw = checkpoint.restore_variables(tmp_path, 2, abstract, place)
    assert_equal(raw, {"params": state.params})
    average = checkpoint.restore_variables(tmp_path, 2, abstract, place, ema_decay=0.99)
    assert_equal(average, {"params": state.ema_params["0.99"]})
    with pytest.raises(InputError, match="ema_params/0.5/.* is missing there"):
        checkpoint.restore_variables(tmp_path, 2, abstract, place, ema_decay=0.5)


def test_a_step_is_sound_or_refused(run, tmp_path):
    with pytest.raises(InputError, match="no checkpoint in"):
        checkpoint.sound_step(tmp_path)
    save(tmp_path, run[1](run[0](jax.random.key(0))))
    assert checkpoint.sound_step(tmp_path) == checkpoint.sound_step(tmp_path, 1) == 1
    with pytest.raises(InputError, match="the step of .* is 2; accepted: one of 1"):
        checkpoint.sound_step(tmp_path, 2)
    next((tmp_path / "checkpoints" / "1").rglob("_METADATA")).write_text("{}")
    with pytest.raises(InputError, match=r"the checkpoint of step 1 in .* has \d+ bytes, not"):
        checkpoint.sound_step(tmp_path, 1)


@pytest.mark.parametrize("score, best", [("val_ema/top1", "2"), ("-val_ema/top1", "1")])
def test_the_latest_and_the_best_are_kept(tmp_path, score, best):
    scores = {1: 0.3, 2: 0.9, 3: math.nan, 4: 0.5, 5: None, 6: 0.4}
    with opened(tmp_path, keep=2, best=score) as checkpoints:
        for step, value in scores.items():
            metrics = None if value is None else {"val_ema/top1": value, "val/loss": 1.0}
            checkpoints.save(step, {"a": jnp.zeros(1)}, metrics=metrics)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [best, "5", "6"]
    assert checkpoint.latest_step(tmp_path) == 6


def test_scores_without_the_one_to_choose_by_are_refused(tmp_path):
    with opened(tmp_path, best="-val/error") as checkpoints:
        scores = {"val/loss": 1.0, "val/top1": 0.5}
        message = "the best score is 'val/error'; accepted: one of val/loss, val/top1"
        refused(message, checkpoints.save, 1, SMALL_STATE, scores)
        refused(message, checkpoints.add_scores, 1, scores)
    assert checkpoint.latest_step(tmp_path) == 0


def test_an_empty_or_missing_workdir_is_at_step_zero(tmp_path):
    assert checkpoint.latest_step(tmp_path) == 0
    assert checkpoint.latest_step(tmp_path / "nowhere") == 0
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="no checkpoint in .*; accepted: the workdir of a"):
        restore(tmp_path, {}, {})


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(dims=(8, 24)),
            r"params/downsample_1_conv/bias is \(16,\) there and \(24,\) here",
        ),
        (dict(depths=(1, 3)), r"params/stage_1_block_2/\S+ is missing there and \(\S+\) here"),
        (dict(depths=(1, 1)), r"params/stage_1_block_1/\S+ is \(16,\) there and missing here"),
    ],
)
def test_the_checkpoint_of_another_model_is_refused_by_name(saved, tiny_model, change, message):
    workdir, _ = saved
    before = sorted(path.name for path in workdir.rglob("*"))
    model = tiny_model.clone(**change)
    tx = optimizer.adamw(optimizer.schedule(20, 4, peak_lr=5e-3, warmup_epochs=1))
    init = partial(classifiers.init, model=model, tx=tx, image_size=12, ema_decays=(0.9, 0.99))
    abstract, place = shape_and_place(init)
    with pytest.raises(InputError, match=f"holds another model: {message}"):
        restore(workdir, abstract, place)
    whole = sharding.replicated(sharding.make_mesh())
    with pytest.raises(InputError, match="holds another model: ema_params/0.99/"):
        checkpoint.restore_variables(workdir, 3, abstract.variables, whole, ema_decay=0.99)
    assert sorted(path.name for path in workdir.rglob("*")) == before


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    """A workdir with checkpoints of steps 1 to 3, and the state after each."""
    workdir, (init, step) = tmp_path_factory.mktemp("saved"), run
    states = [step(init(jax.random.key(0)))]
    states += [step(states[-1])]
    states += [step(states[-1])]
    with opened(workdir) as checkpoints:
        for state in states:
            checkpoints.save(int(state.step), state)
    return workdir, states


@pytest.fixture
def three(saved, tmp_path):
    """A copy of it."""
    return shutil.copytree(saved[0], tmp_path / "run"), saved[1]


def flip_a_bit(folder):
    """In the largest file."""
    path = max(folder.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(folder):
    path = folder / "state" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])


def lose_a_file(folder):
    (folder / "state" / "_METADATA").unlink()


def add_a_file(folder):
    (folder / "state" / "more").write_text("{}")


def lose_the_manifest(folder):
    (folder / "manifest.json").unlink()


def garble_the_manifest(folder):
    (folder / "manifest.json").write_text("[1, 2")


def make_a_file_of_it(folder):
    shutil.rmtree(folder)
    folder.touch()


@pytest.mark.parametrize(
    "damage, message",
    [
        (flip_a_bit, "state/.* has another checksum"),
        (cut_short, r"state/_METADATA has \d+ bytes, not \d+"),
        (lose_a_file, "state/_METADATA is missing"),
        (add_a_file, "state/more is not in manifest.json"),
        (lose_the_manifest, "it was not finished"),
        (garble_the_manifest, "manifest.json cannot be read"),
        (make_a_file_of_it, ".*Not a directory"),
    ],
)
def test_a_damaged_checkpoint_is_moved_and_the_one_before_it_taken(run, three, damage, message):
    workdir, states = three
    damage(workdir / "checkpoints" / "3")
    assert checkpoint.latest_step(workdir) == 2
    said = []
    with opened(workdir, report=said.append) as checkpoints:
        assert checkpoints.latest_step == 2
        assert_equal(checkpoints.restore(*shape_and_place(run[0])), states[1])
        checkpoints.save(3, states[2])
    assert len(said) == 1 and re.search(f"step 3 is moved to .*damaged/3: {message}", said[0])
    assert (workdir / "damaged" / "3").exists() and checkpoint.latest_step(workdir) == 3


@pytest.mark.parametrize("name", [".nfs0001", "state/.DS_Store", ".snapshot/a/b"])
def test_what_file_systems_hide_in_a_checkpoint_is_no_damage(tmp_path, name):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, SMALL_STATE)
    folder = tmp_path / "checkpoints" / "1"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    lose_the_manifest(folder)
    checkpoint._write_manifest(folder)  # it may be there in a save, and be gone later
    path.unlink()
    assert checkpoint.latest_step(tmp_path) == 1
    path.touch()
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 1


def test_a_run_whose_checkpoints_are_damaged_or_gone_starts_anew_only_where_it_is_told_to(
    tmp_path,
):
    assert checkpoint.start_step(tmp_path) == 0
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, SMALL_STATE)
    assert checkpoint.start_step(tmp_path) == checkpoint.start_step(tmp_path, True) == 1
    flip_a_bit(tmp_path / "checkpoints" / "1")
    before = sorted(tmp_path.rglob("*"))
    lost = "has had checkpoints, and no sound one is left"
    refused(rf"in \S+ {lost} \(1: .* another checksum\); accepted: .* or --start_anew, with",
            checkpoint.start_step, tmp_path)  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before
    shutil.rmtree(tmp_path / "checkpoints")
    refused(f"{lost}; accepted: one that", checkpoint.start_step, tmp_path)
    assert checkpoint.start_step(tmp_path, start_anew=True) == 0
    with opened(tmp_path):
        pass
    assert checkpoint.start_step(tmp_path) == 0  # killed before its first checkpoint


def test_a_run_that_was_killed_in_its_first_save_begins_again(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_write_manifest", lambda folder: 1 / 0)
    with pytest.raises(RunError), opened(tmp_path) as checkpoints:
        checkpoints.save(1, SMALL_STATE)
    assert (tmp_path / "checkpoints" / "1").is_dir()
    assert checkpoint.start_step(tmp_path) == 0
    with opened(tmp_path, report=lambda said: None):
        pass
    assert (tmp_path / "damaged" / "1").is_dir() and checkpoint.start_step(tmp_path) == 0


def test_a_checkpoint_is_read_once_by_a_process(tmp_path, monkeypatch):
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, SMALL_STATE)
    read, sha256 = [], checkpoint._sha256
    monkeypatch.setattr(checkpoint, "_sha256", lambda path: read.append(path) or sha256(path))
    for _ in range(2):
        assert checkpoint.sound_step(tmp_path) == checkpoint.start_step(tmp_path) == 2
        with opened(tmp_path):
            pass
    assert read and len(read) == len(set(read))
    flip_a_bit(tmp_path / "checkpoints" / "2")
    assert checkpoint.latest_step(tmp_path) == 1


@pytest.mark.parametrize("score, best", [("score", ["2", "5", "6"]), ("-score", ["3", "5", "6"])])
def test_scores_that_come_after_a_save_count_in_the_choice_of_the_best(tmp_path, score, best):
    named = partial(checkpoint.Checkpoints, tmp_path, keep=2, best=score)
    with named() as checkpoints:
        assert not checkpoints.latest_has_scores
        checkpoints.save(1, SMALL_STATE, metrics={"score": 0.5})
        checkpoints.save(2, SMALL_STATE)
    with named() as checkpoints:
        assert not checkpoints.latest_has_scores
        checkpoints.add_scores(2, {"score": 0.9})
        checkpoints.save(3, SMALL_STATE, metrics={"score": 0.1})
    with named() as checkpoints:
        assert checkpoints.latest_step == 3 and checkpoints.latest_has_scores
        for step in (4, 5, 6):
            checkpoints.save(step, SMALL_STATE, metrics={"score": 0.2})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == best
    (tmp_path / "checkpoints" / best[0] / "scores.json").write_text("{")  # it is not vital
    with named() as checkpoints:
        assert checkpoints.latest_step == 6


def test_of_an_older_checkpoint_only_the_small_files_are_read(run, tmp_path, monkeypatch):
    state = run[0](jax.random.key(0))
    with opened(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, metrics={"val_ema/top1": 0.5})
    monkeypatch.setattr(checkpoint, "SMALL", 1000)
    flip_a_bit(tmp_path / "checkpoints" / "1")
    metrics = tmp_path / "checkpoints" / "2" / "metrics" / "metrics"
    metrics.write_text(metrics.read_text().replace("{", "[", 1))  # Orbax reads all of these
    said = []
    with opened(tmp_path, report=said.append) as checkpoints:
        assert checkpoints.latest_step == 3
        checkpoints.save(4, state)
    assert len(said) == 1 and re.search("step 2 is moved to .*: metrics/metrics has", said[0])
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3", "4"]


def test_a_single_checkpoint_is_refused_as_it_would_go_before_the_next_is_sound(tmp_path):
    refused("keep_checkpoints is 1; accepted: 2 and more", opened, tmp_path, keep=1)


def test_what_belongs_to_a_checkpoint_is_written_before(three):
    workdir, states = three

    def fail():
        raise OSError("no room")

    message = "step 4 could not be saved: no room"
    with pytest.raises(RunError, match=message), opened(workdir) as checkpoints:
        checkpoints.save(4, states[2], before=fail)
    assert not (workdir / "checkpoints" / "4").exists()


def test_a_second_damaged_checkpoint_of_a_step_does_not_replace_the_first(three):
    workdir, states = three
    for _ in range(2):
        flip_a_bit(workdir / "checkpoints" / "3")
        with opened(workdir) as checkpoints:
            checkpoints.save(3, states[2])
    assert sorted(path.name for path in (workdir / "damaged").iterdir()) == ["3", "3_again"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="faults that Linux can be told to have")
@pytest.mark.parametrize("on_save_error", checkpoint.ON_SAVE_ERROR)
@pytest.mark.parametrize(
    "fault, reason",
    [
        ("full_disk", "File too large"),
        ("almost_full_disk", "File too large"),
        ("read_only", "Permission denied"),
    ],
)
def test_a_save_that_fails_leaves_the_earlier_ones_and_stops_or_not(
    tmp_path, fault, reason, on_save_error
):
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-m", "tests.helpers.failing_saves", tmp_path, fault, on_save_error],
        cwd=root, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    failed = f"the checkpoint of step 80 could not be saved: .*{reason}"
    if on_save_error == "stop":
        assert result.returncode == 1 and re.search(f"(?m)^error: {failed}", result.stderr)
        assert checkpoint.latest_step(tmp_path) == 10
    else:
        assert result.returncode == 0, result.stderr
        assert re.search(failed, result.stdout)
        said = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
        assert said[-3:] == ["at step 10", "at step 90", f"lines {list(range(1, 91))}"]
        assert [line.split(" ")[0] for line in said[:-3]] == (
            ["metrics.jsonl", "tensorboard/", "the"] if fault == "full_disk" else ["the"]
        )
        assert not (tmp_path / "checkpoints/80").exists()


def test_a_mistake_in_on_save_error_is_named(tmp_path):
    with pytest.raises(InputError, match="on_save_error is 'ignore'; accepted: stop or continue"):
        opened(tmp_path, on_save_error="ignore")


@pytest.mark.parametrize("place", ["before", "as it begins", "in the background"])
def test_a_save_fails_where_it_does_in_another_process(tmp_path, monkeypatch, place):
    errors = {"before": [], "as it begins": [None], "in the background": [None, None]}[place]
    errors = [*errors, OSError("process 1: no room")]

    def raise_together(error):
        if error := error or (left.pop(0) if left else None):
            raise error

    monkeypatch.setattr(hosts, "raise_together", raise_together)
    state, said, left = {"weights": np.zeros(3)}, [], list(errors)
    with opened(tmp_path, on_save_error="continue", report=said.append) as checkpoints:
        checkpoints.save(4, state)
        checkpoints.save(5, state)
    message = "the checkpoint of step 4 could not be saved: process 1: no room"
    assert said == [f"{message}; the run continues, as on_save_error says"]
    assert checkpoint.latest_step(tmp_path) == 5
    left = list(errors)
    message = message.replace("4", "6")
    with pytest.raises(RunError, match=message), opened(tmp_path) as checkpoints:
        checkpoints.save(6, state)


@pytest.mark.parametrize("place", ["_try_to_write", "_begin", "_complete"])
def test_what_one_process_cannot_save_the_others_are_told(tmp_path, monkeypatch, place):
    told = []

    def fail(*_, **__):
        raise OSError("no room")

    def raise_together(error):
        told.append(error and str(error))
        if error:
            raise error

    monkeypatch.setattr(hosts, "raise_together", raise_together)
    with opened(tmp_path, on_save_error="continue", report=lambda text: None) as checkpoints:
        where, name = {
            "_try_to_write": (checkpoint.tempfile, "TemporaryFile"),
            "_begin": (checkpoints._orbax, "save_async"),
            "_complete": (checkpoint, "_write_manifest"),
        }[place]
        monkeypatch.setattr(where, name, fail)
        checkpoints.save(4, {"weights": np.zeros(3)})
    before = ["_try_to_write", "_begin", "_complete"].index(place)
    assert told == [None] * before + ["no room"]


def test_each_process_tries_to_write(tmp_path, monkeypatch):
    def refuse(**_):
        if jax.process_index() == 1:
            raise OSError("read-only")
        return nullcontext()

    monkeypatch.setattr(checkpoint.tempfile, "TemporaryFile", refuse)
    checkpoints = SimpleNamespace(workdir=tmp_path)
    write = partial(checkpoint.Checkpoints._try_to_write, checkpoints, lambda: None)
    said = together(monkeypatch, write, write)
    assert [str(error) for error in said] == ["process 1: read-only"] * 2
    assert together(monkeypatch, write) == [None]


def begin(*actions):
    """Checkpoints._begin, where this is what Orbax does."""

    def save_async(*_, **__):
        for action in actions:
            action()
        return "begun"

    checkpoints = SimpleNamespace(_orbax=SimpleNamespace(save_async=save_async))
    return lambda: checkpoint.Checkpoints._begin(checkpoints, 4, {}, None)


def test_no_process_waits_in_orbax_for_one_that_failed(monkeypatch):
    def fail():
        raise OSError("no room")

    def meet(name):
        return partial(multihost_utils.sync_global_devices, name)

    first, second = meet("first"), meet("second")
    for failing in ([fail], [first, fail], [first, second, fail]):
        said = together(monkeypatch, begin(first, second), begin(*failing), begin(first, second))
        assert [str(error) for error in said] == ["process 1: no room"] * 3
    said = together(monkeypatch, begin(first, fail), begin(fail), begin(first, second))
    assert [str(error) for error in said] == ["process 1: no room"] * 3
    said = together(monkeypatch, begin(first, fail), begin(first, fail))
    assert [str(error) for error in said] == ["process 0: no room"] * 2
    assert together(monkeypatch, begin(first, second), begin(first, second)) == ["begun"] * 2
