import pickle
from itertools import product

import numpy as np
import pytest

from convnext.data.epochs import Epochs
from tests.helpers.inputs import refused

N = 22  # examples
# 10 of a group, 9 of another, and 3, which are fewer than a batch.
GROUPS = np.array([7, -1, 7, 7, -1, 7, 7, -1, 50, -1, 7, 7, -1, -1, 7, 50, 7, -1, -1, 7, -1, 50])
SIZES = {7: 10, -1: 9, 50: 3}


def order(seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(np.arange(N)).tolist()


def read(epochs):
    return [int(index) for step in range(len(epochs)) for index in epochs[step][1]]


def test_the_order_of_an_epoch_is_drawn_from_its_seed_and_its_number():
    epochs = Epochs(N, 8, num_epochs=3, seed=5)
    assert len(epochs) == epochs.num_steps == 3 * 2 and epochs.steps_per_epoch == 2
    for step in range(6):
        epoch, batch = divmod(step, 2)
        numbers, indices = epochs[step]
        assert numbers.tolist() == [epoch] * 8
        assert indices.tolist() == order(5, epoch)[8 * batch : 8 * (batch + 1)]


def test_an_epoch_is_whole_batches_of_distinct_examples_in_new_order():
    read_by_epoch = np.reshape(read(Epochs(N, 8, num_epochs=3)), (3, 16)).tolist()
    for each in read_by_epoch:
        assert len(set(each)) == 16  # the tail of 6 is dropped
    assert read_by_epoch[0] != read_by_epoch[1] != read_by_epoch[2]
    assert set(read_by_epoch[0]) != set(read_by_epoch[1])  # another tail


@pytest.mark.parametrize("batch_size", [1, 8, N, 50])
def test_a_run_of_steps_reads_one_epoch_after_the_other_and_drops_nothing(batch_size):
    epochs = Epochs(N, batch_size, num_epochs=1, num_steps=30, seed=5)
    assert len(epochs) == 30 and epochs.steps_per_epoch == max(N // batch_size, 1)
    stream = [index for epoch in range(70) for index in order(5, epoch)]
    assert read(epochs) == stream[: 30 * batch_size]
    numbers = np.concatenate([epochs[step][0] for step in range(30)])
    np.testing.assert_array_equal(numbers, np.arange(30 * batch_size) // N)


def test_with_groups_a_batch_has_one_and_each_example_comes_once_an_epoch_at_most():
    epochs = Epochs(N, 4, num_epochs=5, groups=GROUPS)
    assert epochs.steps_per_epoch == 2 + 2 and len(epochs) == 20
    tails = set()
    for epoch in range(5):
        batches = [epochs[step] for step in range(4 * epoch, 4 * (epoch + 1))]
        assert all((numbers == epoch).all() for numbers, _ in batches)
        groups = [set(GROUPS[indices].tolist()) for _, indices in batches]
        assert sorted(map(list, groups)) == [[-1], [-1], [7], [7]]
        indices = np.concatenate([indices for _, indices in batches]).tolist()
        assert len(set(indices)) == 16
        tails.add(frozenset(range(N)) - set(indices))
    assert len(tails) > 1


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 16])
def test_in_a_run_of_steps_each_group_is_read_again_and_again_and_in_proportion(batch_size):
    epochs = Epochs(N, batch_size, num_epochs=1, num_steps=60, seed=2, groups=GROUPS)
    streams = {group: [] for group in SIZES}
    for step in range(60):
        numbers, indices = epochs[step]
        (group,) = set(GROUPS[indices].tolist())
        begin = len(streams[group])
        places = np.arange(begin, begin + batch_size)
        np.testing.assert_array_equal(numbers, places // SIZES[group])
        streams[group].extend(indices.tolist())
        passes = [len(stream) / SIZES[group] for group, stream in streams.items()]
        assert max(passes) - min(passes) < 1 + batch_size / 3
    for group, stream in streams.items():
        size, members = SIZES[group], [i for i in range(N) if GROUPS[i] == group]
        parts = [stream[i : i + size] for i in range(0, len(stream), size)]
        assert len(parts) > 2 and all(sorted(part) == members for part in parts[:-1])
        assert len(set(parts[-1])) == len(parts[-1])
        assert len(set(map(tuple, parts[:-1]))) > 1  # shuffled anew


def test_the_groups_of_the_batches_are_shuffled_anew_in_each_epoch():
    epochs = Epochs(1000, 10, num_epochs=3, groups=np.arange(1000) % 2)
    groups = [int(epochs[step][1][0] % 2) for step in range(300)]
    each = [groups[100 * epoch : 100 * (epoch + 1)] for epoch in range(3)]
    assert all(sum(of_epoch) == 50 for of_epoch in each)
    assert all(of_epoch != sorted(of_epoch) for of_epoch in each)
    assert each[0] != each[1] != each[2] != each[0]


@pytest.mark.parametrize(("num_steps", "groups"), [*product([None, 40], [None, GROUPS])])
def test_a_batch_is_a_function_of_its_number_and_the_seed(num_steps, groups):
    options = dict(num_epochs=10, num_steps=num_steps, groups=groups)
    epochs = Epochs(N, 4, seed=1, **options)
    expected = [epochs[step] for step in range(len(epochs))]
    again = Epochs(N, 4, seed=1, **options)
    for step in np.random.default_rng(0).permutation(len(epochs)).tolist():
        np.testing.assert_array_equal(again[step], expected[step])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(again))[step], expected[step])
    assert read(Epochs(N, 4, seed=2, **options)) != read(epochs)


def test_there_is_no_batch_after_the_last():
    epochs = Epochs(N, 8, num_epochs=3)
    for step in (6, -1):
        with pytest.raises(IndexError):
            epochs[step]


def test_something_is_due_every_so_many_epochs_or_steps_and_at_the_end():
    def due(epochs, *interval):
        is_due = epochs.every("eval", *interval)
        return [step for step in range(1, len(epochs) + 1) if is_due(step)]

    epochs = Epochs(N, 8, num_epochs=5)  # of two steps
    assert due(epochs, 1) == [2, 4, 6, 8, 10]
    assert due(epochs, 2) == [4, 8, 10]
    assert due(epochs, 9) == [10]
    assert due(epochs, 1, 3) == [3, 6, 9, 10]
    assert due(Epochs(N, 8, num_epochs=1, num_steps=7), 1) == [2, 4, 6, 7]
    refused("eval_every_epochs is 0; accepted: 1 and more", epochs.every, "eval", 0)
    refused("save_every_steps is 0; accepted: 1 and more, or None", epochs.every, "save", 1, 0)


@pytest.mark.parametrize("batch_size", [0, N + 1])
def test_a_batch_larger_than_the_data_is_refused(batch_size):
    said = f"batch_size is {batch_size}; accepted: 1 to {N}, the number of training images$"
    refused(said, Epochs, N, batch_size, num_epochs=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(num_examples=0), "the number of training images is 0; accepted: 1 and more"),
        (dict(num_epochs=0), "num_epochs is 0; accepted: 1 and more"),
        (dict(num_steps=0), "num_steps is 0; accepted: 1 and more, or None"),
        (dict(seed=-1), "seed is -1; accepted: 0 to 4294967295"),
        (dict(batch_size=0, num_steps=3), "batch_size is 0; accepted: 1 and more$"),
        (
            dict(batch_size=11, groups=GROUPS),
            "batch_size is 11; accepted: 1 to 10, the number of training images in the largest gr",
        ),
        (dict(groups=GROUPS[1:]), f"the length of groups is {N - 1}; accepted: {N}$"),
    ],
)
def test_a_run_without_a_batch_is_refused(changes, message):
    asked = dict(num_examples=N, batch_size=8, num_epochs=2) | changes
    refused(message, Epochs, **asked)
