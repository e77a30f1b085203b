import numpy as np
import pytest

from convnext.tasks import linear
from tests.helpers.inputs import refused


def clouds(count, classes, width=20, spread=1.0, seed=0):
    """Features around a centre for each class, on scales of their own, and labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, width))
    labels = rng.integers(classes, size=count)
    features = centres[labels] + spread * rng.normal(size=(count, width))
    scales = np.exp(np.linspace(-5, 5, width))
    return (features * scales + 3 * scales).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_it_is_a_logistic_regression_on_features_of_unit_variance(classes):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = clouds(200, classes, spread=2.0)
    head = linear.fit(features, labels, classes)
    assert head.kernel.shape == (20, classes) and head.kernel.dtype == np.float32
    classifier = LogisticRegression(C=head.inverse_penalty, max_iter=1000)
    other = make_pipeline(StandardScaler(), classifier).fit(features, labels)
    asked, _ = clouds(50, classes, seed=1)
    logits = asked.astype(np.float64) @ head.kernel + head.bias
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, other.predict_proba(asked), atol=0.02)


def test_the_penalty_is_the_one_that_held_out_images_like_best():
    """Weak where classes lie apart, strong where the labels say nothing of the features."""
    features, labels = clouds(300, 5, spread=0.1)
    assert linear.fit(features, labels, 5).inverse_penalty >= 1
    shuffled = np.random.default_rng(0).permutation(labels)
    assert linear.fit(features, shuffled, 5).inverse_penalty <= 1e-3


def test_top1_counts_what_is_right():
    features, labels = clouds(200, 5, spread=0.5)
    head = linear.fit(features, labels, 5)
    asked, right = clouds(100, 5, spread=0.5, seed=1)
    assert head.top1(asked, right) > 0.95
    assert head.top1(asked, (right + 1) % 5) < 0.05


def test_a_class_without_images_is_never_named_and_one_with_one_image_may_be():
    features, labels = clouds(60, 5, spread=0.3)
    keep = (labels != 2) & ((labels != 4) | (np.arange(60) == np.flatnonzero(labels == 4)[0]))
    head = linear.fit(features[keep], labels[keep], 5)
    logits = clouds(500, 5, seed=1)[0] @ head.kernel + head.bias
    assert (logits.argmin(axis=1) == 2).mean() > 0.9 and not (logits.argmax(axis=1) == 2).any()
    assert head.top1(features[keep], labels[keep]) > 0.9


def test_a_feature_that_never_changes_does_no_harm():
    features, labels = clouds(100, 3)
    features[:, 4] = 7.0
    assert np.isfinite(linear.fit(features, labels, 3).kernel).all()


def test_one_class_alone_is_refused():
    features, _ = clouds(10, 3)
    refused("the number of classes with an image is 1", linear.fit, features, np.zeros(10, int), 3)


def test_what_was_held_out_is_judged_by_a_classifier_that_did_not_learn_it():
    features, labels = clouds(200, 4, width=300, spread=2.0)
    wrong = np.array([3, 50, 120])
    given = labels.copy()
    given[wrong] = (labels[wrong] + 1) % 4
    probabilities = linear.held_out(features, given, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    # What learned them is led astray by their labels; what did not is not.
    assert linear.fit(features, given, 4).top1(features[wrong], given[wrong]) == 1
    np.testing.assert_array_equal(probabilities.argmax(axis=1), labels)
    assert sorted(linear.doubtful(probabilities, given)) == wrong.tolist()


def test_a_class_whose_images_are_all_held_out_has_no_probability():
    features, labels = clouds(60, 3, spread=0.3)
    alone = np.flatnonzero(labels == 2)[0]
    keep = (labels != 2) | (np.arange(60) == alone)
    probabilities = linear.held_out(features[keep], labels[keep], 3)
    row = np.flatnonzero(np.flatnonzero(keep) == alone)[0]
    assert probabilities[row, 2] == 0 and probabilities[row].sum() == pytest.approx(1)


def test_the_likeliest_to_be_wrong_come_first():
    probabilities = np.array([[0.9, 0.1], [0.04, 0.96], [0.05, 0.95], [0.0, 1.0], [0.0, 0.0]])
    assert linear.doubtful(probabilities, np.array([0, 0, 0, 0, 1])).tolist() == [3, 1]
