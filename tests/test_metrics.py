import math

import jax.numpy as jnp
import numpy as np
import pytest

from convnext import losses, metrics

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
    sums = metrics.accuracy(LOGITS, LABELS, MASK)
    log_sum = math.log(sum(math.exp(x) for x in LOGITS[0]))
    assert float(sums["loss"]) == pytest.approx(3 * log_sum - 9 - 3 - 2, rel=1e-6)
    assert (sums["top1"], sums["top5"], sums["count"]) == (1, 2, 3)


def test_a_padded_row_may_be_anything():
    logits = np.where(MASK[:, None] > 0, LOGITS, np.nan)
    padded, clean = (metrics.accuracy(x, LABELS, MASK) for x in (logits, LOGITS))
    assert padded == clean


def test_with_few_classes_top5_is_all():
    sums = metrics.accuracy(LOGITS[:, :3], np.array([0, 1, 2, 0]), MASK)
    assert (sums["top1"], sums["top5"]) == (1, 3)


def test_several_labels_count_where_the_highest_logit_is_one_of_them():
    labels = np.zeros((4, 7), np.float32)
    labels[0, [0, 1]] = labels[1, [1, 3]] = labels[2, 2] = 1
    sums = metrics.accuracy(LOGITS, labels, MASK, problem_type=losses.MULTI_LABEL)
    assert (sums["top1"], sums["top5"], sums["count"]) == (1, 2, 3)


def test_a_regression_has_a_mean_absolute_error():
    logits, labels = np.float32([[1], [5], [2], [9]]), np.array([2, 3, 2, 0])
    sums = metrics.accuracy(logits, labels, MASK, problem_type=losses.REGRESSION)
    assert sums == {"loss": 5, "mae": 3, "count": 3}
    assert metrics.means(sums) == {"loss": 5 / 3, "mae": 1, "count": 3}


def test_the_confusion_matrix_has_labels_in_rows():
    matrix = metrics.confusion(jnp.asarray(LOGITS), LABELS, MASK)
    expected = np.zeros((7, 7))
    expected[[0, 3, 2], 0] = 1
    np.testing.assert_array_equal(matrix, expected)
