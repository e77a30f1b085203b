import mmap
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections import deque
from itertools import islice
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext import sharding
from convnext.data import folders, in_memory, pipeline, shared_memory
from convnext.data.batches import EvalBatches, TrainBatches
from convnext.data.epochs import Epochs
from convnext.errors import InputError
from tests.helpers import numbered
from tests.helpers.inputs import refused
from tests.helpers.numbered import Damaged, TwoShapes, train_batches, unchanged

N = 22  # examples


@pytest.fixture(scope="module")
def source():
    return numbered.source(N)


@pytest.fixture
def damaged():
    return numbered.source(N, Damaged)


@pytest.fixture
def parts_of_three(monkeypatch):
    """Batches of eight are made in parts of three, three and two rows."""
    monkeypatch.setattr(pipeline, "PART_SIZE", 3)


class Steps(in_memory.Arrays):
    """From example 15 on the images are higher."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        return example | {"image": np.repeat(example["image"], 1 + index // 15, axis=0)}


def on_one_device(num_workers=0, **options):
    return pipeline.Feed(
        jax.sharding.SingleDeviceSharding(jax.devices()[0]), num_workers, **options
    )


def on_all_devices(num_workers=0):
    return pipeline.Feed(sharding.batch_sharding(sharding.make_mesh()), num_workers)


def workers():
    return {process.pid for process in multiprocessing.active_children()}


def check(seen, expected):
    """That batches of the devices are these of the host."""
    for batch, ours in zip(seen, expected, strict=True):
        assert set(batch) == set(ours) - {"bad"}
        for name, value in batch.items():
            np.testing.assert_array_equal(value, ours[name])


@pytest.mark.usefixtures("parts_of_three")
@pytest.mark.parametrize("num_workers", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("start", [0, 3])
def test_batches_and_their_order_do_not_depend_on_the_workers(num_workers, start):
    batches = train_batches(numbered.source(N, TwoShapes), groups=np.arange(N) % 2)
    with on_all_devices(num_workers) as feed:
        seen = list(feed.train(batches, start=start))
    assert len(seen) == 6 - start and len({batch["image"].shape for batch in seen}) == 2
    check(seen, islice(batches, start, None))
    assert all(value.sharding == feed.sharding for batch in seen for value in batch.values())


@pytest.mark.slow
def test_workers_of_evaluations_stay_for_the_next():
    """Also while there is another one, and training; and all end with the feed."""
    alone = workers()
    groups = np.arange(N) // 15  # of two shapes
    several = EvalBatches(numbered.source(N, Steps), unchanged, batch_size=8, groups=groups)
    single = EvalBatches(numbered.source(18), unchanged, batch_size=32)
    train = train_batches(numbered.source(8), num_epochs=1)
    with on_one_device(2) as feed:
        check(feed.evaluate(several), several)
        check(feed.evaluate(single), single)
        stayed = workers() - alone
        assert len(stayed) == 2 + 1  # one for each part, up to two
        training = feed.train(train)
        check([next(training)], [train[0]])
        both = workers() - alone
        assert len(both) == 4 and both > stayed
        for batches in (single, several, several, single):
            check(feed.evaluate(batches), batches)
            assert workers() - alone == both
    assert workers() == alone  # though the training is not over


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_evaluation_that_is_left_early_does_not_spoil_the_next(source, num_workers):
    alone = workers()
    batches = EvalBatches(source, unchanged, batch_size=4)
    with on_one_device(num_workers) as feed:
        evaluation = feed.evaluate(batches)
        check(islice(evaluation, 2), [batches[0], batches[1]])
        evaluation.close()
        assert workers() == alone
        check(feed.evaluate(batches), batches)
        check(feed.evaluate(batches), batches)


def test_for_images_at_hand_there_are_no_workers(source):
    alone = workers()
    batches = train_batches(source, transform=None)
    with on_one_device(2) as feed:
        training = feed.train(batches, start=1)
        check([next(training)], [batches[1]])
        assert workers() == alone
        check(training, [batches[step] for step in range(2, len(batches))])


def test_without_workers_nothing_is_read_for_the_next_evaluation():
    counted = numbered.source(N, numbered.Counted)
    batches = EvalBatches(counted, unchanged, batch_size=8)
    with on_one_device() as feed:
        for times in (1, 2):
            check(feed.evaluate(batches), EvalBatches(numbered.source(N), unchanged, batch_size=8))
            # The first one once more, for the blank rows.
            assert counted.read == [*range(N), 0, *range(N)][: times * N + 1]


@pytest.mark.usefixtures("parts_of_three")
def test_parts_of_an_evaluation_are_joined_with_their_masks_in_memory_of_their_own(damaged):
    batches = EvalBatches(damaged, unchanged, batch_size=16, max_bad_images=4, rows=slice(8, 16))
    parts = pipeline._Parts(batches)
    assert len(parts) == 2 * 3
    assert [len(parts[i]["bad"]) for i in range(6)] == [3, 3, 2] * 2
    joined = list(pipeline._joined((parts[i] for i in range(6)), 8, deque()))
    assert len(joined) == 2
    for number, batch in enumerate(joined):
        jax.tree.map(np.testing.assert_array_equal, batch, batches[number])
        assert all(rows.base is None for rows in batch.values())
    assert [batch["mask"].sum() for batch in joined] == [8, 0]


@pytest.mark.usefixtures("parts_of_three")
def test_memory_is_filled_again_when_its_batch_is_on_devices_that_have_their_own(
    source, monkeypatch
):
    places, events = [], []

    def placed(batch, sharding):
        places.append(batch["image"].ctypes.data)
        events.append(len(places))
        return jax.tree.map(jnp.array, batch)  # a copy

    def ready(arrays, wait=jax.block_until_ready):
        events.append("ready" if arrays else "new")
        return wait(arrays)

    batches = train_batches(source, num_steps=6)
    with on_one_device() as feed:
        feed._on_cpu = False
        monkeypatch.setattr(jax, "device_put", placed)
        monkeypatch.setattr(jax, "block_until_ready", ready)
        made = list(feed.train(batches))
    check(made, batches)
    first, second = places[:2]
    assert first != second and places == [first, second] * 3
    assert events == ["new", 1, "new", 2, "ready", 3, "ready", 4, "ready", 5, "ready", 6]


@pytest.fixture
def asked(monkeypatch):
    """What workers are asked for: they make nothing."""
    asked = []

    def made_by_workers(parts, first, num_workers, **options):
        asked.append(dict(first=first, num_workers=num_workers, **options))
        yield from ()

    monkeypatch.setattr(pipeline, "_by_workers", made_by_workers)
    return asked


@pytest.mark.parametrize(("start", "expected"), [(0, 18), (4, 6), (5, 3)])
@pytest.mark.usefixtures("parts_of_three")
def test_there_are_no_more_workers_than_parts_to_make(source, asked, start, expected):
    with on_one_device(64) as feed:
        list(feed.train(train_batches(source), start=start))
    assert [(each["first"], each["num_workers"]) for each in asked] == [(3 * start, expected)]


def test_there_is_room_for_those_who_train_and_those_who_evaluate(source, asked):
    val = EvalBatches(source, unchanged, batch_size=8)
    for evaluated_before, times in ((False, [2, 1, 1]), (True, [1, 1])):
        asked.clear()
        with on_one_device(2) as feed:
            if evaluated_before:  # as in a run that resumes: there are those who evaluate
                list(feed.evaluate(val))
            list(feed.train(train_batches(source)))
            list(feed.evaluate(val))
            list(feed.evaluate(EvalBatches(source, unchanged, batch_size=4)))
        assert [each["times"] for each in asked] == times + [1] * evaluated_before


def test_workers_read_the_same_pages_of_a_listing_and_write_to_their_own(tmp_path):
    labels = np.arange(1000, dtype=np.int32)
    given = in_memory.Arrays(np.zeros((3, 4, 4, 3), np.uint8), labels, ["a"])
    with (tmp_path / "file").open("wb") as file:
        begin = pipeline._write(given, file)
    content = (tmp_path / "file").read_bytes()
    assert len(content) < begin + 1000  # the arrays are before the pickle
    for _ in range(2):
        read = pipeline._read(tmp_path / "file", begin)
        np.testing.assert_array_equal(read.labels, labels)
        assert read.class_names == ["a"] and read.images.shape == (3, 4, 4, 3)
        base = read.labels
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base.obj, mmap.mmap)
        read.labels[:] = 0
    assert (tmp_path / "file").read_bytes() == content


class Disk:
    """What statvfs says of one with so many bytes free."""

    def __init__(self, free):
        self.f_bavail, self.f_frsize = free, 1


def test_workers_are_not_started_with_less_shared_memory_than_they_take(source, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", Path("/dev/null"))  # has nothing left over
    for times, batches in (
        (2, train_batches(source)),  # while it evaluates with as many
        (1, EvalBatches(source, unchanged, batch_size=8)),
    ):
        needed = times * 2 * 7 * 8 * (4 * 4 * 3 + 4)
        monkeypatch.setattr(os, "statvfs", lambda _, free=needed: Disk(free))
        pipeline._make_room(pipeline._Parts(batches), 2, times)
        monkeypatch.setattr(os, "statvfs", lambda _, free=needed - 1: Disk(free))
        with on_one_device(2) as feed:
            made = feed.train(batches) if times == 2 else feed.evaluate(batches)
            refused("2 workers take up to 0 MB of shared memory, and /dev/null has 0 MB; accepted: "
                    ".*--shm-size=.*num_workers=0", next, made)  # fmt: skip
        assert workers() == set()


def test_what_a_killed_run_has_left_is_removed_and_said(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    monkeypatch.setattr(shared_memory, "remove_left_over", lambda folders: (38, 120_000_000))
    pipeline._make_room(pipeline._Parts(train_batches(source)), 1, 1)
    said = f"removed 38 files, 120.0 MB, of runs that were killed, in {tmp_path} and "
    assert capsys.readouterr().err.startswith(said)


def test_a_worker_that_shared_memory_ran_out_for_says_so():
    crash = "Worker process was terminated unexpectedly with exit code {}. Search the logs above"
    shortage = pytest.raises(InputError, match="as shared memory ran out, .*--shm-size")
    with shortage, pipeline._shortage_said():
        raise RuntimeError(crash.format(-signal.SIGBUS))
    with pytest.raises(RuntimeError, match="exit code -9"), pipeline._shortage_said():
        raise RuntimeError(crash.format(-9))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_ends_the_run_with_its_path(tmp_path, num_workers):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes(f"broken {name}{i}".encode())
    source, _ = folders.load(str(tmp_path), val_fraction=0.25)
    batches = train_batches(source, num_epochs=1, batch_size=2)
    said = rf"cannot read the image {tmp_path}/[ab]/\d.png: "
    with on_one_device(num_workers) as feed, pytest.raises(InputError, match=said):
        list(feed.train(batches))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_each_image_that_is_left_out_is_reported_once(damaged, num_workers):
    reported = []
    batches = train_batches(damaged, batch_size=2, num_epochs=2, max_bad_images=4)
    with on_one_device(num_workers, report=reported.append) as feed:
        made = list(feed.train(batches))
    assert len(made) == N and set(made[0]) == {"image", "label", "epoch", "index"}
    assert sorted(reported) == sorted(
        f"cannot read the image {i}.jpg: cut off; accepted: whole ones" for i in damaged.damaged
    )


def test_more_images_than_may_be_left_out_end_the_run(damaged):
    reported = []
    batches = train_batches(damaged, batch_size=2, num_epochs=2, max_bad_images=3)
    with on_one_device(report=reported.append) as feed:
        with pytest.raises(InputError, match="4 images .*; accepted: max_bad_images, which is 3"):
            list(feed.train(batches))
        assert len(reported) == 4
        with pytest.raises(InputError, match="cannot read the image"):
            list(feed.train(train_batches(damaged)))


def test_images_left_out_are_counted_over_training_evaluations_and_restarts(damaged):
    messages = [f"cannot read the image {i}.jpg: cut off; accepted: whole ones" for i in range(N)]
    skipped, reported = {messages[5], "cannot read the image of another source"}, []
    with on_one_device(report=reported.append, skipped=skipped) as feed:
        damaged.damaged = (5,)
        list(feed.train(train_batches(damaged, batch_size=2, num_epochs=2, max_bad_images=3)))
        assert len(skipped) == 2
        damaged.damaged = (5, 6)
        val = EvalBatches(damaged, unchanged, batch_size=8, max_bad_images=3)
        for _ in range(2):
            list(feed.evaluate(val))
        assert skipped > {messages[5], messages[6]} and len(skipped) == 3
        damaged.damaged = (5, 6, 7)
        with pytest.raises(InputError, match="4 images cannot be read, the last of them 7; accept"):
            list(feed.evaluate(val))
    assert set(reported) == set(messages[5:8])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_the_memory_of_the_host_stays_flat():
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    source = in_memory.Arrays(images, np.zeros(len(images), np.int32), ["a"])
    resident = {}
    with on_one_device() as feed:
        for number, _ in enumerate(feed.train(train_batches(source, num_epochs=376)), 1):
            if number in (1_000, 3_000):
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                resident[number] = pages * mmap.PAGESIZE
    assert resident[3_000] - resident[1_000] < 11e6  # a batch has 25 kB


KILLED = """
import os, signal
import jax
import jax.numpy as jnp
from convnext.data import batches, pipeline
from tests.helpers import numbered
if __name__ == "__main__":
    source = numbered.source(64)
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    feed = pipeline.Feed(placed, num_workers=1)
    list(feed.evaluate(batches.EvalBatches(source, numbered.unchanged, batch_size=8)))
    training = feed.train(numbered.train_batches(source, num_epochs=100))
    next(training)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "killed.py"  # of its own, as workers import it again
    script.write_text(KILLED)
    root = Path(__file__).parents[2]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(temporary)}
    # Returns when all processes that write to the pipe have ended.
    result = subprocess.run([sys.executable, script], cwd=root, timeout=60, capture_output=True,
                            env=environment)  # fmt: skip
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert list(temporary.iterdir()) == []


def test_a_worker_that_is_killed_as_it_starts_is_an_error_and_no_hang(monkeypatch):
    start = multiprocessing.util.spawnv_passfds

    def start_and_kill(*args):
        pid = start(*args)
        os.kill(pid, signal.SIGKILL)
        return pid

    multiprocessing.resource_tracker.ensure_running()
    monkeypatch.setattr(multiprocessing.util, "spawnv_passfds", start_and_kill)
    images = np.zeros((64, 32, 32, 3), np.uint8)  # more than a pipe holds
    source = in_memory.Arrays(images, np.zeros(64, np.int32), ["a"])
    with (
        on_one_device(1) as feed,
        pytest.raises(RuntimeError, match="Worker process was terminated .* exit code -9"),
    ):
        next(feed.train(train_batches(source)))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_and_no_hang(source):
    with on_one_device(1) as feed:
        batches = feed.train(train_batches(source, num_epochs=9999))
        next(batches)
        (worker,) = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(RuntimeError, match="Worker process was terminated .* exit code -9"):
            for _ in batches:
                pass


def broken(example, rng):
    if multiprocessing.parent_process() is None:
        return example
    segment = SharedMemory(create=True, size=1)
    segment.close()
    segment.unlink()
    raise KeyError("the reason", segment.name, resource.getrlimit(resource.RLIMIT_NOFILE))


@pytest.mark.slow
def test_what_breaks_in_a_worker_is_raised_with_its_traceback(source):
    batches = TrainBatches(source, broken, Epochs(N, 8, num_epochs=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    try:
        with on_one_device(1) as feed, pytest.raises(KeyError, match="the reason") as caught:
            next(feed.train(batches))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ", in broken" in "".join(traceback.format_exception(caught.value))
    _, name, limits = caught.value.args
    assert name.startswith(f"{shared_memory.owner()}-") and limits == (hard, hard)
