import math

import jax.numpy as jnp
import numpy as np
import pytest

from convnext.training import losses, metrics

LOGITS = np.array(
    [
        [9, 1, 2, 3, 4, 5, 6],  # label 0: first
        [9, 1, 2, 3, 4, 5, 6],  # label 3: fifth
        [9, 1, 2, 3, 4, 5, 6],  # label 2: sixth
        [0, 0, 0, 0, 0, 0, 9],  # padding
    ],
    np.float32,
)
LABELS = np.array([0, 3, 2, 6])
MASK = np.array([1, 1, 1, 0], np.float32)


def test_sums_are_over_the_unmasked_examples():
    sums = metrics.sums(LOGITS, LABELS, MASK)
    log_sum = math.log(sum(math.exp(x) for x in LOGITS[0]))
    assert float(sums["loss"]) == pytest.approx(3 * log_sum - 9 - 3 - 2, rel=1e-6)
    assert (sums["top1"], sums["top5"], sums["count"]) == (1, 2, 3)


def test_a_padded_row_may_be_anything():
    logits = np.where(MASK[:, None] > 0, LOGITS, np.nan)
    padded, clean = (metrics.sums(x, LABELS, MASK) for x in (logits, LOGITS))
    assert padded == clean


def test_with_few_classes_top5_is_all():
    sums = metrics.sums(LOGITS[:, :3], np.array([0, 1, 2, 0]), MASK)
    assert (sums["top1"], sums["top5"]) == (1, 3)


def test_several_labels_count_where_the_highest_logit_is_one_of_them():
    labels = np.zeros((4, 7), np.float32)
    labels[0, [0, 1]] = labels[1, [1, 3]] = labels[2, 2] = 1
    sums = metrics.sums(LOGITS, labels, MASK, problem_type=losses.MULTI_LABEL)
    assert (sums["top1"], sums["top5"], sums["count"]) == (1, 2, 3)


def test_a_regression_has_a_mean_absolute_error():
    logits, labels = np.float32([[1], [5], [2], [9]]), np.array([2, 3, 2, 0])
    sums = metrics.sums(logits, labels, MASK, problem_type=losses.REGRESSION)
    assert sums == {"loss": 5, "mae": 3, "count": 3}
    assert metrics.means(sums) == {"loss": 5 / 3, "mae": 1, "count": 3}


def test_the_confusion_matrix_has_labels_in_rows():
    matrix = metrics.confusion(jnp.asarray(LOGITS), LABELS, MASK)
    expected = np.zeros((7, 7))
    expected[[0, 3, 2], 0] = 1
    np.testing.assert_array_equal(matrix, expected)


def test_details_have_calibration_and_classes():
    probabilities = np.float32(
        [[0.9, 0.1], [0.8, 0.2], [0.35, 0.65], [0.35, 0.65], [0.5, 0.5], [1, 0]]
    )
    labels, mask = np.array([0, 1, 1, 1, 0, 0]), np.float32([1, 1, 1, 1, 1, 0])
    sums = metrics.details(np.log(probabilities + 1e-12), labels, mask)
    bins = sums["of_confidence"]
    # Parts of 1/15: 0.5 in (7/15, 8/15], 0.65 in (9/15, 10/15], 0.8 in (11/15, 12/15], 0.9 in
    # (13/15, 14/15]; a bound belongs to the part below.
    np.testing.assert_array_equal(bins["count"], [0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(np.flatnonzero(bins["hits"]), [7, 9, 13])
    # |0.5 - 1| + |1.3 - 2| + |0.8 - 0| + |0.9 - 1|, over five.
    assert metrics.calibration_error(bins) == pytest.approx((0.5 + 0.7 + 0.8 + 0.1) / 5, rel=1e-5)
    np.testing.assert_array_equal(sums["of_class"]["count"], [2, 3])
    np.testing.assert_allclose(metrics.class_accuracy(sums["of_class"]), [1, 2 / 3])
    assert sums["top1"] == 4 and sums["count"] == 5


def test_the_accuracy_of_a_class_without_examples_is_not_a_number():
    accuracy = metrics.class_accuracy({"count": np.array([0, 2]), "hits": np.array([0, 1])})
    assert math.isnan(accuracy[0]) and accuracy[1] == 0.5


def test_outputs_are_of_each_example():
    each = metrics.outputs(LOGITS, LABELS, MASK)
    np.testing.assert_array_equal(each["prediction"][:3], 0)
    softmax = math.exp(9) / sum(math.exp(x) for x in LOGITS[0])
    np.testing.assert_allclose(each["confidence"][:3], softmax, rtol=1e-6)


def test_the_first_average_is_reported_and_each_further_one_has_its_decay_in_its_name():
    assert metrics.prefixes(()) == ["val"] and metrics.reported_prefix(()) == "val"
    assert metrics.prefixes((0.99, 0.9)) == ["val", "val_ema", "val_ema_0.9"]
    assert metrics.reported_prefix((0.99, 0.9)) == "val_ema"


def test_small_tables_are_whole():
    matrix = np.array([[5.0, 0.0], [12.0, 30.0]])
    assert metrics.confusion_table(matrix, ["a", "long"]) == (
        "        a long\n   a    5    .\nlong   12   30"
    )


def test_large_tables_are_the_most_frequent_mistakes():
    matrix = np.diag(np.full(30, 50.0))
    matrix[3, 7], matrix[9, 2] = 4, 6
    names = [f"c{i}" for i in range(30)]
    assert metrics.confusion_table(matrix, names) == (
        "     6 of c9 taken for c2\n     4 of c3 taken for c7"
    )


def test_names_of_classes_are_no_commands_of_a_terminal():
    names = ["\x1b[2J", *"bcdefghijklmnopqrstu"]
    for count in (2, 21):
        table = metrics.confusion_table(np.ones((count, count)), names[:count])
        assert "\x1b" not in table and r"\x1b[2J" in table
