import mmap
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import resource
import signal
import subprocess
import sys
import traceback
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import jax
import numpy as np
import pytest

from convnext import sharding
from convnext.data import folders, in_memory, pipeline, shared_memory
from convnext.errors import InputError
from convnext.images import augment
from convnext.training import losses
from tests.helpers.inputs import refused

N = 22  # examples


@pytest.fixture(scope="module")
def source():
    """Example i is an image of value i."""
    images = np.zeros((N, 4, 4, 3), np.uint8) + np.arange(N, dtype=np.uint8)[:, None, None, None]
    return in_memory.Arrays(images, np.arange(N, dtype=np.int32) % 3, ["a", "b", "c"])


def jitter(image, rng):
    """Keeps the number of the example in one pixel and a draw in another."""
    image = image.copy()
    image[0, 1] = rng.integers(0, 256)
    return image


def train_batches(source, seed=3, num_epochs=3, batch_size=8, **keywords):
    return pipeline.TrainBatches(
        source, jitter, seed=seed, num_epochs=num_epochs, batch_size=batch_size, **keywords
    )


def examples(batches):
    return [int(i) for batch in batches for i in batch["image"][:, 0, 0, 0]]


def draws(batches):
    return [int(i) for batch in batches for i in batch["image"][:, 0, 1, 0]]


def test_an_epoch_is_whole_batches_of_distinct_examples_in_new_order(source):
    batches = train_batches(source)
    assert len(batches) == 3 * 2
    epochs = [examples(batches[i] for i in (2 * e, 2 * e + 1)) for e in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 16  # the tail of 6 is dropped
    assert epochs[0] != epochs[1] != epochs[2]
    assert set(epochs[0]) != set(epochs[1])  # another tail


def test_the_same_seed_gives_the_same_images_and_each_epoch_others(source):
    first, again = ([train_batches(source)[i] for i in range(6)] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = [train_batches(source, seed=4)[i] for i in range(6)]
    assert examples(first) != examples(other)
    by_example = {}
    for example, draw in zip(examples(first), draws(first), strict=True):
        by_example.setdefault(example, []).append(draw)
    twice = [values for values in by_example.values() if len(values) > 1]
    assert sum(len(set(values)) > 1 for values in twice) > len(twice) - 2


def test_augmentation_depends_on_the_example_and_not_on_its_place(source):
    by_eight = train_batches(source, num_epochs=1)
    by_four = train_batches(source, num_epochs=1, batch_size=4)
    eight, four = ([batches[i] for i in range(len(batches))] for batches in (by_eight, by_four))
    pairs = dict(zip(examples(eight), draws(eight), strict=True))
    for example, draw in zip(examples(four), draws(four), strict=True):
        assert pairs.get(example, draw) == draw


@pytest.mark.parametrize("count", [2, 4])
def test_processes_read_contiguous_rows_of_the_same_global_batch(source, monkeypatch, count):
    whole = train_batches(source)
    parts = []
    for process in range(count):
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        rows = pipeline.process_rows(8)
        assert rows == slice(process * 8 // count, (process + 1) * 8 // count)
        parts.append(train_batches(source, rows=rows))
    for step in range(6):
        joined = jax.tree.map(lambda *a: np.concatenate(a), *(part[step] for part in parts))
        jax.tree.map(np.testing.assert_array_equal, joined, whole[step])


@pytest.mark.parametrize("batch_size", [1, 8, 11, 64])
def test_evaluation_has_every_example_once_in_order_and_blank_padding(source, batch_size):
    batches = pipeline.EvalBatches(source, lambda image: image, batch_size=batch_size)
    rows = jax.tree.map(lambda *a: np.concatenate(a), *(batches[i] for i in range(len(batches))))
    assert len(rows["mask"]) % batch_size == 0
    np.testing.assert_array_equal(rows["mask"], np.arange(len(rows["mask"])) < N)
    np.testing.assert_array_equal(rows["image"][:N, 0, 0, 0], np.arange(N))
    assert not rows["image"][N:].any()


@pytest.fixture
def parts_of_three(monkeypatch):
    """Batches of eight are made in parts of three, three and two rows."""
    monkeypatch.setattr(pipeline, "PART_SIZE", 3)


@pytest.mark.usefixtures("parts_of_three")
@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 3])
def test_batches_and_their_order_do_not_depend_on_the_workers(source, num_workers, start):
    batches = train_batches(source)
    by_batch = sharding.of_batch(sharding.make_mesh())
    seen = list(pipeline.to_devices(batches, by_batch, start=start, num_workers=num_workers))
    assert len(seen) == 6 - start
    for step, batch in enumerate(seen, start):
        assert batch["image"].sharding == by_batch
        assert set(batch) == {"image", "label"}
        for name, value in batch.items():
            np.testing.assert_array_equal(value, batches[step][name])


def labelled(label):
    labels = np.array([0, 1, label, 2], np.int32)
    return in_memory.Arrays(np.zeros((4, 4, 4, 3), np.uint8), labels, ["a", "b", "c"])


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_of_no_class_is_refused_by_its_image(label):
    source = labelled(label)
    said = f"is {label}; accepted: 0 to 2, of the 3 classes"
    batches = pipeline.TrainBatches(source, jitter, seed=0, num_epochs=1, batch_size=4)
    refused(f"the label of training image 2 {said}", batches.__getitem__, 0)
    batches = pipeline.EvalBatches(source, np.array, batch_size=4)
    refused(f"the label of evaluation image 2 {said}", batches.__getitem__, 0)
    batches = pipeline.EvalBatches(source, np.array, batch_size=4, max_bad_images=1)
    np.testing.assert_array_equal(batches[0]["mask"], [1, 1, 0, 1])


def test_a_label_that_is_missing_is_refused():
    source = labelled(2)
    source.labels = [0, None, 1, 2]
    batches = pipeline.EvalBatches(source, np.array, batch_size=4)
    refused("the label of evaluation image 1 is None; accepted: 0 to 2", batches.__getitem__, 0)


@pytest.mark.parametrize("problem_type", [losses.REGRESSION, losses.MULTI_LABEL])
def test_labels_that_are_no_classes_may_be_any_numbers(problem_type):
    source = labelled(-7)
    if problem_type == losses.MULTI_LABEL:
        source.labels = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    batches = pipeline.EvalBatches(source, np.array, batch_size=4, problem_type=problem_type)
    np.testing.assert_array_equal(batches[0]["label"], source.labels)
    batches = pipeline.TrainBatches(
        source, jitter, seed=0, num_epochs=1, batch_size=4, problem_type=problem_type
    )
    assert sorted(batches[0]["label"].tolist()) == sorted(source.labels.tolist())


@pytest.mark.usefixtures("parts_of_three")
def test_parts_of_an_evaluation_are_joined_with_their_masks_in_memory_of_their_own(damaged):
    batches = pipeline.EvalBatches(damaged, np.array, batch_size=16, max_bad_images=4,
                                   rows=slice(8, 16))  # fmt: skip
    parts = pipeline._Parts(batches)
    assert len(parts) == 2 * 3
    assert [len(parts[i]["bad"]) for i in range(6)] == [3, 3, 2] * 2
    joined = list(pipeline._joined((parts[i] for i in range(6)), 8))
    assert len(joined) == 2
    for number, batch in enumerate(joined):
        jax.tree.map(np.testing.assert_array_equal, batch, batches[number])
        assert all(rows.base is None for rows in batch.values())
    assert [batch["mask"].sum() for batch in joined] == [8, 0]


def test_padding_reads_one_image_however_many_rows_it_fills(source):
    read = []

    class Counted(in_memory.Arrays):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    counted = Counted(source.images, source.labels, source.class_names)
    pipeline.EvalBatches(counted, np.array, batch_size=64)[0]
    assert read == [*range(N), 0]


@pytest.mark.parametrize(("start", "expected"), [(0, 18), (4, 6), (5, 3)])
@pytest.mark.usefixtures("parts_of_three")
def test_there_are_no_more_workers_than_parts_to_make(source, monkeypatch, start, expected):
    asked = []
    monkeypatch.setattr(pipeline, "_by_workers", lambda *args: asked.append(args) or closed())
    by_batch = sharding.of_batch(sharding.make_mesh())
    list(pipeline.to_devices(train_batches(source), by_batch, start=start, num_workers=64))
    assert [args[1:] for args in asked] == [(3 * start, expected)]


def closed():
    """An iterator without a part."""
    yield from ()


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
    batches = {
        2: train_batches(source),  # while it evaluates with as many
        1: pipeline.EvalBatches(source, np.array, batch_size=8),
    }
    monkeypatch.setattr(shared_memory, "FOLDER", Path("/dev/null"))  # has nothing left over
    for times, made in batches.items():
        needed = times * 2 * 7 * 8 * (4 * 4 * 3)
        monkeypatch.setattr(os, "statvfs", lambda _, free=needed: Disk(free))
        pipeline._make_room(pipeline._Parts(made), 2)
        monkeypatch.setattr(os, "statvfs", lambda _, free=needed - 1: Disk(free))
        by_batch = sharding.of_batch(sharding.make_mesh())
        refused("2 workers take up to 0 MB of shared memory, and /dev/null has 0 MB; accepted: .*"
                "--shm-size=.*num_workers=0", next,
                pipeline.to_devices(made, by_batch, num_workers=2))  # fmt: skip
        assert multiprocessing.active_children() == []


def test_what_a_killed_run_has_left_is_removed_and_said(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    monkeypatch.setattr(shared_memory, "remove_left_over", lambda folders: (38, 120_000_000))
    pipeline._make_room(pipeline._Parts(train_batches(source)), 1)
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
            (tmp_path / name / f"{i}.png").write_bytes(b"broken")
    source, _ = folders.load(str(tmp_path), val_fraction=0.25)
    batches = pipeline.TrainBatches(source, jitter, seed=0, num_epochs=1, batch_size=2)
    by_batch = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with pytest.raises(InputError, match=rf"cannot read the image {tmp_path}/[ab]/\d.png: "):
        list(pipeline.to_devices(batches, by_batch, num_workers=num_workers))


class Damaged(in_memory.Arrays):
    """Some of these images cannot be read."""

    damaged = (0, 5, 6, N - 1)

    def __getitem__(self, index):
        if index in self.damaged:
            raise InputError(f"cannot read the image {index}.jpg: cut off", "whole ones")
        return super().__getitem__(index)


@pytest.fixture
def damaged(source):
    return Damaged(source.images, source.labels, source.class_names)


def test_the_next_image_stands_in_for_one_that_cannot_be_read(source, damaged):
    whole, patched = (
        train_batches(s, num_epochs=1, batch_size=N, max_bad_images=4)[0] for s in (source, damaged)
    )
    asked, came = examples([whole]), examples([patched])
    stand_in = {0: 1, 5: 7, 6: 7, N - 1: 1}
    assert came == [stand_in.get(index, index) for index in asked]
    assert patched["label"].tolist() == [index % 3 for index in came]
    assert draws([patched]) == draws([whole])  # of the place, not of the image in it
    assert patched["bad"].tolist() == [i if i in stand_in else -1 for i in asked]
    assert set(whole["bad"]) == {-1}


def test_an_image_that_cannot_be_read_does_not_count_in_an_evaluation(damaged):
    batches = pipeline.EvalBatches(damaged, np.array, batch_size=N + 2, max_bad_images=4)
    batch = batches[0]
    expected = [0.0 if i in (*damaged.damaged, N, N + 1) else 1.0 for i in range(N + 2)]
    assert batch["mask"].tolist() == expected
    assert not batch["image"][list(damaged.damaged)].any()
    assert batch["bad"].tolist() == [i if i in damaged.damaged else -1 for i in range(N + 2)]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_each_image_that_is_left_out_is_reported_once(damaged, num_workers):
    reported = []
    by_batch = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batches = train_batches(damaged, batch_size=2, num_epochs=2, max_bad_images=4)
    made = list(
        pipeline.to_devices(batches, by_batch, num_workers=num_workers, report=reported.append)
    )
    assert len(made) == N and set(made[0]) == {"image", "label"}
    assert sorted(reported) == sorted(
        f"cannot read the image {i}.jpg: cut off; accepted: whole ones" for i in damaged.damaged
    )


def test_more_images_than_may_be_left_out_end_the_run(damaged):
    reported = []
    by_batch = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batches = train_batches(damaged, batch_size=2, num_epochs=2, max_bad_images=3)
    with pytest.raises(InputError, match="4 images .*; accepted: max_bad_images, which is 3"):
        list(pipeline.to_devices(batches, by_batch, report=reported.append))
    assert len(reported) == 4
    with pytest.raises(InputError, match="cannot read the image"):
        list(pipeline.to_devices(train_batches(damaged), by_batch))


def test_images_left_out_are_counted_over_training_evaluations_and_restarts(damaged):
    by_batch = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    messages = [f"cannot read the image {i}.jpg: cut off; accepted: whole ones" for i in range(N)]
    left_out, reported = {messages[5], "cannot read the image of another source"}, []
    options = dict(report=reported.append, left_out=left_out)
    damaged.damaged = (5,)
    train = train_batches(damaged, batch_size=2, num_epochs=2, max_bad_images=3)
    list(pipeline.to_devices(train, by_batch, **options))
    assert len(left_out) == 2
    damaged.damaged = (5, 6)
    val = pipeline.EvalBatches(damaged, np.array, batch_size=8, max_bad_images=3)
    for _ in range(2):
        list(pipeline.to_devices(val, by_batch, **options))
    assert left_out > {messages[5], messages[6]} and len(left_out) == 3
    damaged.damaged = (5, 6, 7)
    with pytest.raises(InputError, match="4 images cannot be read, the last of them 7; accepted"):
        list(pipeline.to_devices(val, by_batch, **options))
    assert set(reported) == set(messages[5:8])


def test_a_disk_that_is_gone_is_not_searched_for_images(damaged):
    damaged.damaged = range(N)
    with pytest.raises(InputError, match="cannot read the image 9.jpg"):
        pipeline._readable(damaged, 4, 5)


@pytest.mark.parametrize("batch_size", [0, N + 1])
def test_a_batch_larger_than_the_data_is_refused(source, batch_size):
    with pytest.raises(InputError, match=f"batch_size is {batch_size}; accepted: 1 to {N}"):
        pipeline.steps_per_epoch(source, batch_size)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_the_memory_of_the_host_stays_flat():
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    labels = np.zeros(len(images), np.int32)
    transform = partial(augment.random_flip, prob=0.5)
    batches = pipeline.TrainBatches(
        in_memory.Arrays(images, labels, ["a"]), transform, seed=0, num_epochs=1251, batch_size=8
    )
    resident = {}
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for number, _ in enumerate(pipeline.to_devices(batches, placed), 1):
        if number in (1_000, 10_000):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident[number] = pages * mmap.PAGESIZE
    assert resident[10_000] - resident[1_000] < 50e6


KILLED = """
import os, signal, sys
import jax, numpy as np
from convnext.data import arrays, pipeline
from tests.data.test_pipeline import train_batches
if __name__ == "__main__":
    images = np.zeros((64, 4, 4, 3), np.uint8)
    source = arrays.Arrays(images, np.zeros(64, np.int32), ["a"])
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batches = pipeline.to_devices(train_batches(source, num_epochs=100), placed, num_workers=1)
    next(batches)
    os.kill(os.getpid(), signal.SIGKILL)
"""


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
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with pytest.raises(RuntimeError, match="Worker process was terminated .* exit code -9"):
        next(pipeline.to_devices(train_batches(source), placed, num_workers=1))


def test_a_worker_that_is_killed_is_an_error_and_no_hang(source):
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batches = pipeline.to_devices(train_batches(source, num_epochs=9999), placed, num_workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(RuntimeError, match="Worker process was terminated .* exit code -9"):
        for _ in batches:
            pass


def broken(image, rng):
    if multiprocessing.parent_process() is None:
        return image
    segment = SharedMemory(create=True, size=1)
    segment.close()
    segment.unlink()
    raise KeyError("the reason", segment.name, resource.getrlimit(resource.RLIMIT_NOFILE))


def test_what_breaks_in_a_worker_is_raised_with_its_traceback(source):
    batches = pipeline.TrainBatches(source, broken, seed=0, num_epochs=1, batch_size=8)
    placed = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    try:
        with pytest.raises(KeyError, match="the reason") as caught:
            next(pipeline.to_devices(batches, placed, num_workers=1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ", in broken" in "".join(traceback.format_exception(caught.value))
    _, name, limits = caught.value.args
    assert name.startswith(f"{shared_memory.owner()}-") and limits == (hard, hard)
