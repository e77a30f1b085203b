import numpy as np
import pytest

from dev import wrong_labels


def test_what_was_exchanged_is_found_where_features_tell_the_classes_apart():
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=400)
    features = np.eye(4)[labels] + 0.1 * rng.normal(size=(400, 4))
    top1, found, precision, recall = wrong_labels.measured(features, labels, 0.05, seed=0)
    assert (top1, found, precision, recall) == (1.0, 20, 1.0, 1.0)


def test_nothing_is_found_in_features_that_say_nothing():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(400, 4)), rng.integers(4, size=400)
    top1, found, precision, recall = wrong_labels.measured(features, labels, 0.05, seed=0)
    assert top1 == pytest.approx(0.25, abs=0.1) and (found, precision, recall) == (0, 0, 0)
