import jax
import numpy as np
import pytest

from convnext.data import batches as data_batches
from convnext.data import in_memory, sources
from convnext.data.batches import EvalBatches, process_rows
from convnext.errors import InputError
from tests.helpers import numbered
from tests.helpers.inputs import refused
from tests.helpers.numbered import Damaged, TwoShapes, draws, numbers, train_batches, unchanged

N = 22  # examples
GROUPS = np.arange(N) % 2


@pytest.fixture(scope="module")
def source():
    return numbered.source(N)


@pytest.fixture
def damaged():
    return numbered.source(N, Damaged)


@pytest.fixture(scope="module")
def two_shapes():
    return numbered.source(N, TwoShapes)


def test_the_same_seed_gives_the_same_images_and_each_epoch_others(source):
    first, again = (list(train_batches(source)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    other = list(train_batches(source, seed=4))
    assert len(first) == 6 and numbers(first) != numbers(other)
    by_example = {}
    for example, draw in zip(numbers(first), draws(first), strict=True):
        by_example.setdefault(example, []).append(draw)
    twice = [values for values in by_example.values() if len(values) > 1]
    assert sum(len(set(values)) > 1 for values in twice) > len(twice) - 2


def test_what_is_drawn_is_a_function_of_seed_epoch_and_index(source):
    stream = list(train_batches(source, num_steps=9))
    for place, (index, draw) in enumerate(zip(numbers(stream), draws(stream), strict=True)):
        assert draw == np.random.default_rng((3, place // N, index)).integers(0, 256)


def test_augmentation_depends_on_the_example_and_not_on_its_place(source):
    eight, four = (list(train_batches(source, num_epochs=1, batch_size=size)) for size in (8, 4))
    pairs = dict(zip(numbers(eight), draws(eight), strict=True))
    for example, draw in zip(numbers(four), draws(four), strict=True):
        assert pairs.get(example, draw) == draw


@pytest.mark.parametrize("count", [2, 4])
def test_processes_read_contiguous_rows_of_the_same_global_batch(two_shapes, monkeypatch, count):
    def both(rows):
        yield train_batches(two_shapes, groups=GROUPS, rows=rows)
        yield EvalBatches(two_shapes, unchanged, batch_size=8, groups=GROUPS, rows=rows)

    parts = []
    for process in range(count):
        monkeypatch.setattr(jax, "process_count", lambda: count)
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        rows = process_rows(8)
        assert rows == slice(process * 8 // count, (process + 1) * 8 // count)
        parts.append(both(rows))
    for whole, *of_processes in zip(both(slice(None)), *parts, strict=True):
        assert len(whole) in (3 * 2, 2 * 2)
        for number in range(len(whole)):
            each = (batches[number] for batches in of_processes)
            joined = jax.tree.map(lambda *a: np.concatenate(a), *each)
            jax.tree.map(np.testing.assert_array_equal, joined, whole[number])


@pytest.mark.parametrize("batch_size", [1, 8, 11, 64])
def test_evaluation_has_every_example_once_in_order_and_blank_padding(source, batch_size):
    batches = EvalBatches(source, unchanged, batch_size=batch_size)
    rows = jax.tree.map(lambda *a: np.concatenate(a), *batches)
    count = len(rows["mask"])
    assert count % batch_size == 0
    np.testing.assert_array_equal(rows["mask"], np.arange(count) < N)
    np.testing.assert_array_equal(rows["index"], [*range(N), *[-1] * (count - N)])
    np.testing.assert_array_equal(rows["image"][:N, 0, 0, 0], np.arange(N))
    np.testing.assert_array_equal(rows["label"][:N], source.labels)
    assert not rows["image"][N:].any() and not rows["label"][N:].any()
    assert {name: rows[name].dtype for name in ("mask", "index", "bad")} == {
        "mask": np.float32, "index": np.int32, "bad": np.int32
    }  # fmt: skip


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_an_evaluation_of_groups_goes_through_one_after_the_other(two_shapes, batch_size):
    groups = np.where(GROUPS == 0, 5, -3)  # any numbers, here of the even examples the higher one
    batches = EvalBatches(two_shapes, unchanged, batch_size=batch_size, groups=groups)
    of_group = -(-11 // batch_size)
    assert len(batches) == 2 * of_group
    seen = list(batches)
    for members, part in [(range(1, N, 2), seen[:of_group]), (range(0, N, 2), seen[of_group:])]:
        rows = jax.tree.map(lambda *a: np.concatenate(a), *part)
        padding = of_group * batch_size - 11
        assert rows["index"].tolist() == [*members, *[-1] * padding]
        assert rows["mask"].tolist() == [1] * 11 + [0] * padding
        assert rows["image"].shape[1:] == (4 * (1 + members[0] % 2), 4, 3)
        assert rows["image"][:11, -1, 0, 0].tolist() == list(members)
        assert not rows["image"][11:].any()


def test_a_batch_of_several_shapes_is_refused_by_name(two_shapes):
    message = "shapes of image in one batch is .*; accepted: one shape; groups part examples of sev"
    refused(message, EvalBatches(two_shapes, unchanged, batch_size=4).__getitem__, 0)


def test_an_evaluation_without_examples_has_no_batch():
    nothing = numbered.source(0)
    for groups in (None, np.zeros(0, int)):
        assert len(EvalBatches(nothing, unchanged, batch_size=8, groups=groups)) == 0


def test_batches_of_an_evaluation_are_refused_that_would_lose_examples(source):
    said = f"the length of groups is 11; accepted: {N}$"
    refused(said, EvalBatches, source, unchanged, batch_size=8, groups=GROUPS[:11])
    refused("batch_size is 0; accepted: 1 and more", EvalBatches, source, unchanged, batch_size=0)


def test_padding_reads_one_image_however_many_rows_it_fills():
    counted = numbered.source(N, numbered.Counted)
    EvalBatches(counted, unchanged, batch_size=64)[0]
    assert counted.read == [*range(N), 0]


def test_the_bytes_of_a_row_are_those_of_the_largest_group(two_shapes, damaged):
    high = 8 * 4 * 3 + 4  # with the label
    for groups in (GROUPS, 1 - GROUPS):
        assert train_batches(two_shapes, groups=groups).row_nbytes() == high
        batches = EvalBatches(two_shapes, unchanged, batch_size=8, groups=groups)
        assert batches.row_nbytes() == high
    # Of one that can be read, and others may be more than are skipped.
    assert train_batches(damaged).row_nbytes() == 4 * 4 * 3 + 4
    assert EvalBatches(damaged, unchanged, batch_size=8).row_nbytes() == 4 * 4 * 3 + 4


def test_a_label_of_no_class_is_that_of_an_image_that_cannot_be_read():
    images = np.zeros((4, 4, 4, 3), np.uint8)
    source = in_memory.Arrays(images, np.array([0, 1, 3, 2], np.int32), ["a", "b", "c"])
    source = sources.Labelled(source, "evaluation image")
    said = "the label of evaluation image 2 is 3; accepted: 0 to 2, of the 3 classes"
    refused(said, EvalBatches(source, unchanged, batch_size=4).__getitem__, 0)
    batches = EvalBatches(source, unchanged, batch_size=4, max_bad_images=1)
    np.testing.assert_array_equal(batches[0]["mask"], [1, 1, 0, 1])
    source.what = "training image"
    batches = train_batches(source, batch_size=4)
    refused("the label of training image 2 is 3", batches.__getitem__, 0)
    batches = train_batches(source, batch_size=4, max_bad_images=1)
    assert sorted(batches[0]["label"].tolist()) == [0, 1, 2, 2]


@pytest.mark.parametrize("groups", [None, GROUPS])
def test_images_in_memory_that_nothing_transforms_are_taken_at_once(groups):
    indices = np.arange(N)[::-1]
    parts = sources.Labelled(sources.Part(numbered.source(N), indices), "training image")
    batches, one_by_one = (
        train_batches(parts, groups=groups, transform=transform)
        for transform in (None, unchanged_in_training)
    )
    assert batches.is_at_hand and not one_by_one.is_at_hand
    for step in (0, 4):
        jax.tree.map(np.testing.assert_array_equal, batches[step], one_by_one[step])
        dtypes = jax.tree.map(lambda rows: rows.dtype, (batches[step], one_by_one[step]))
        assert dtypes[0] == dtypes[1]
    assert sources.rows(numbered.source(N, numbered.Damaged), indices) is None


def unchanged_in_training(example, rng):
    return example


@pytest.mark.parametrize("transform", [None, unchanged_in_training])
def test_a_label_of_no_class_is_told_of_images_that_are_taken_at_once(transform):
    source = numbered.source(4)
    source.labels = np.int32([0, 1, 3, 2])
    source = sources.Labelled(source, "training image")
    batches = train_batches(source, batch_size=4, transform=transform)
    refused("the label of training image 2 is 3", batches.__getitem__, 0)
    batches.max_bad_images = 1
    assert sorted(batches[0]["bad"].tolist()) == [-1, -1, -1, 2]


def test_the_next_image_stands_in_for_one_that_cannot_be_read(source, damaged):
    whole, patched = (
        train_batches(s, num_epochs=1, batch_size=N, max_bad_images=4)[0] for s in (source, damaged)
    )
    asked, came = numbers([whole]), numbers([patched])
    stand_in = {0: 1, 5: 7, 6: 7, N - 1: 1}
    assert came == [stand_in.get(index, index) for index in asked]
    assert patched["label"].tolist() == [index % 3 for index in came]
    assert draws([patched]) == draws([whole])  # of the place, not of the image in it
    assert patched["bad"].tolist() == [i if i in stand_in else -1 for i in asked]
    assert set(whole["bad"]) == {-1}


def test_the_next_image_stands_in_for_one_whose_pixels_cannot_be_read(source):
    """As of a file that is decoded when its crop is known."""

    def unreadable(example, rng):
        if example["label"] == 2:
            raise InputError("cannot read the image", "a whole one")
        return example

    batches = train_batches(source, batch_size=N, max_bad_images=1, transform=unreadable)
    batch = batches[0]
    asked = batches.epochs[0][1].tolist()
    assert batch["bad"].tolist() == [i if i % 3 == 2 else -1 for i in asked]
    assert numbers([batch]) == [(i + 1) % N if i % 3 == 2 else i for i in asked]


def test_with_groups_the_next_image_is_one_of_the_same_group():
    source = numbered.source(N, TwoShapes)
    source.damaged = (0, 5, 6, N - 1)
    batches = train_batches(source, num_epochs=1, batch_size=11, groups=GROUPS, max_bad_images=4)
    stand_in = {0: 2, 5: 7, 6: 8, N - 1: 1}
    for step in range(2):
        asked = batches.epochs[step][1].tolist()
        assert numbers([batches[step]]) == [stand_in.get(index, index) for index in asked]
        assert batches[step]["bad"].tolist() == [i if i in stand_in else -1 for i in asked]
    assert sorted(batch["image"].shape[1] for batch in batches) == [4, 8]


def test_an_image_that_cannot_be_read_does_not_count_in_an_evaluation(damaged):
    batches = EvalBatches(damaged, unchanged, batch_size=N + 2, max_bad_images=4)
    batch = batches[0]
    expected = [0.0 if i in (*damaged.damaged, N, N + 1) else 1.0 for i in range(N + 2)]
    assert batch["mask"].tolist() == expected
    assert batch["index"].tolist() == [*range(N), -1, -1]
    assert not batch["image"][list(damaged.damaged)].any()
    assert batch["bad"].tolist() == [i if i in damaged.damaged else -1 for i in range(N + 2)]
    with pytest.raises(InputError, match="cannot read the image 0.jpg"):
        EvalBatches(damaged, unchanged, batch_size=N)[0]


def test_a_disk_that_is_gone_is_not_searched_for_images(damaged):
    damaged.damaged = range(N)
    with pytest.raises(InputError, match="cannot read the image 9.jpg"):
        data_batches._readable(damaged.__getitem__, range(N), 4, 5)
