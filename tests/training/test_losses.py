import jax.numpy as jnp
import numpy as np
import pytest

from convnext.errors import InputError
from convnext.training import losses


@pytest.mark.parametrize(
    "num_classes, dtype, expected",
    [
        (1, np.int32, "regression"),
        (1, np.float32, "regression"),
        (5, np.int32, "single_label_classification"),
        (5, np.int64, "single_label_classification"),
        (None, np.int32, "single_label_classification"),
        (5, np.uint8, "multi_label_classification"),
        (5, np.float32, "multi_label_classification"),
        (5, np.bool_, "multi_label_classification"),
    ],
)
def test_the_problem_type_follows_from_outputs_and_labels_as_in_transformers(
    num_classes, dtype, expected
):
    assert losses.problem_type(None, num_classes, np.dtype(dtype)) == expected
    for chosen in losses.PROBLEM_TYPES:
        assert losses.problem_type(chosen, num_classes, np.dtype(dtype)) == chosen


def test_an_unknown_problem_type_is_named():
    with pytest.raises(InputError, match="problem_type is 'ranking'; accepted: single_label_class"):
        losses.problem_type("ranking", 5, np.dtype(np.int32))


LOGITS = jnp.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


def test_one_label_costs_its_cross_entropy():
    targets = losses.targets(jnp.array([2, 1]), num_classes=3)
    np.testing.assert_array_equal(targets, [[0, 0, 1], [0, 1, 0]])
    exp = np.exp(np.float64(LOGITS))
    expected = -np.log([exp[0, 2] / exp[0].sum(), exp[1, 1] / exp[1].sum()])
    np.testing.assert_allclose(losses.loss(LOGITS, targets), expected, rtol=1e-6)


def test_several_labels_cost_a_binary_cross_entropy_each_averaged():
    labels = jnp.array([[1, 0, 1], [0, 0, 0]])
    kind = losses.MULTI_LABEL
    targets = losses.targets(labels, num_classes=3, problem_type=kind, label_smoothing=0.1)
    np.testing.assert_array_equal(targets, labels)
    share = 1 / (1 + np.exp(-np.float64(LOGITS)))
    expected = -np.log(np.where(labels == 1, share, 1 - share)).mean(axis=1)
    loss = losses.loss(LOGITS, targets, problem_type=kind)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_regression_costs_the_mean_square():
    kind = losses.REGRESSION
    targets = losses.targets(jnp.array([3, -1]), num_classes=1, problem_type=kind)
    np.testing.assert_array_equal(targets, [[3.0], [-1.0]])
    loss = losses.loss(jnp.array([[1.0], [-1.5]]), targets, problem_type=kind)
    np.testing.assert_array_equal(loss, [4.0, 0.25])
    two = losses.loss(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 2.0]]), problem_type=kind)
    np.testing.assert_array_equal(two, [2.0])


def test_smoothing_is_spread_over_all_classes():
    targets = losses.targets(jnp.array([1]), num_classes=4, label_smoothing=0.2)
    np.testing.assert_allclose(targets, [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6)


def test_classes_may_weigh_alike():
    weights = losses.balanced(np.array([0, 0, 0, 1, 3, 3]), 4)
    np.testing.assert_allclose(weights, [6 / 9, 6 / 3, 0, 6 / 6])  # of three classes
    assert weights[[0, 0, 0, 1, 3, 3]].mean() == pytest.approx(1)


def test_weights_of_classes_are_factors_on_their_terms():
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], np.float32)
    targets = np.array([[0.9, 0.1, 0.0], [0.0, 0.0, 1.0]], np.float32)
    weights = np.array([2.0, 0.5, 4.0], np.float32)
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -(weights * targets * log_shares).sum(axis=1)
    found = losses.loss(jnp.asarray(logits), jnp.asarray(targets), class_weights=weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
