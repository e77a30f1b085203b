"""A linear classifier on features: a logistic regression, whose penalty is chosen by
cross-validation."""

import warnings
from dataclasses import dataclass

import numpy as np
import threadpoolctl

from convnext.errors import require

INVERSE_PENALTIES = tuple(10.0**power for power in range(-5, 3))  # sklearn's C, weakest last
FOLDS = 5
CROSS_VALIDATED = 2000  # images up to which there are as many folds; of more one part is held out
WITHOUT_FOLDS = 0.01  # where no image can be held out
LESS_LIKELY = 20  # is a label that is likely wrong
MAX_ITERATIONS = 300  # of L-BFGS
TOLERANCE = 1e-3  # of its gradients


@dataclass(frozen=True)
class Linear:
    """A head: logits are features @ kernel + bias."""

    kernel: np.ndarray  # float32 [C, K]
    bias: np.ndarray  # float32 [K]
    inverse_penalty: float  # sklearn's C, of features of unit variance

    def top1(self, features: np.ndarray, labels: np.ndarray) -> float:
        """The share of features [N, C] whose largest logit is at the label [N]."""
        logits = features @ self.kernel + self.bias
        return float((logits.argmax(axis=1) == labels).mean())


def fit(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Linear:
    """Fits features [N, C] to labels, int [N] from 0 to below num_classes.

    Features are scaled to unit variance, and the scale is folded into the kernel. The penalty is
    the one of INVERSE_PENALTIES with the lowest loss on images that were held out, each class
    spread over FOLDS parts. A class without an image gets the lowest logit of all.

    Raises InputError where there are fewer than two classes with an image.
    """
    present = np.unique(labels)
    require(len(present) > 1, "the number of classes with an image", len(present), "2 and more")
    x, mean, scale = _standardized(features)
    # The products are small: with two threads they took five times as long.
    with threadpoolctl.threadpool_limits(1):
        best = _best_penalty(x, labels)
        *_, classifier = _path(x, labels, INVERSE_PENALTIES[: best + 1])
    coefficients, intercepts = classifier.coef_, classifier.intercept_
    if len(present) == 2:  # sklearn keeps the second class's alone
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel = np.zeros((features.shape[1], num_classes))
    bias = np.full(num_classes, intercepts.min() - np.abs(coefficients).sum(axis=1).max())
    kernel[:, present] = (coefficients / scale).T
    bias[present] = intercepts - coefficients @ (mean / scale)
    return Linear(kernel.astype(np.float32), bias.astype(np.float32), INVERSE_PENALTIES[best])


def held_out(features: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The probabilities [N, K] that images have by a classifier that did not learn them: FOLDS of
    them are fitted, each to the images of the other parts, with the penalty that `fit` finds."""
    x, _, _ = _standardized(features)
    folds, probabilities = _folds(labels), np.zeros((len(labels), num_classes))
    with threadpoolctl.threadpool_limits(1):
        penalties = INVERSE_PENALTIES[: _best_penalty(x, labels) + 1]
        for fold in range(FOLDS):
            learned, asked = folds != fold, folds == fold
            if asked.any() and len(np.unique(labels[learned])) > 1:
                *_, classifier = _path(x[learned], labels[learned], penalties)
                places = np.ix_(asked, classifier.classes_)
                probabilities[places] = classifier.predict_proba(x[asked])
    return probabilities


def doubtful(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images for which another class is more than LESS_LIKELY times as likely as their label,
    the likeliest to be wrong first. probabilities: of `held_out`."""
    of_label = probabilities[np.arange(len(labels)), labels]
    largest = probabilities.max(axis=1)
    order = np.argsort(of_label / np.maximum(largest, np.finfo(float).tiny), kind="stable")
    return order[of_label[order] * LESS_LIKELY < largest[order]]


def _standardized(features):
    """Features of unit variance, with their mean and scale."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    return ((features - mean) / scale).astype(np.float64), mean, scale


def _best_penalty(x, labels):
    """The place of the inverse penalty with the lowest loss on held out images. Weaker ones, which
    take the longest, are tried only as long as they help."""
    folds, paths = _folds(labels), []
    for fold in range(FOLDS if len(labels) <= CROSS_VALIDATED else 1):
        learned, asked = folds != fold, folds == fold
        # A class of one image is in one fold only, and is then not learned.
        asked &= np.isin(labels, labels[learned])
        if asked.any() and len(np.unique(labels[learned])) > 1:
            paths.append((_path(x[learned], labels[learned]), x[asked], labels[asked]))
    losses: list[float] = []
    for _ in INVERSE_PENALTIES if paths else ():
        losses.append(sum(_loss(next(path), *held) for path, *held in paths))
        if len(losses) - 1 > np.argmin(losses) + 1:
            break
    return int(np.argmin(losses)) if paths else INVERSE_PENALTIES.index(WITHOUT_FOLDS)


def _loss(classifier, x, labels):
    probabilities = classifier.predict_proba(x)
    column = np.searchsorted(classifier.classes_, labels)
    right = probabilities[np.arange(len(column)), column]
    return -np.log(np.maximum(right, 1e-12)).sum()


def _folds(labels):
    """The fold of each image: those of a class are spread over all, in a drawn order."""
    folds = np.empty(len(labels), int)
    rng, first = np.random.default_rng(0), 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        folds[members] = (first + np.arange(len(members))) % FOLDS
        first += len(members)
    return folds


def _path(x, labels, inverse_penalties=INVERSE_PENALTIES):
    """Yields the fitted classifiers, each begun with the one before it."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(max_iter=MAX_ITERATIONS, tol=TOLERANCE, warm_start=True)
    for inverse_penalty in inverse_penalties:
        classifier.C = inverse_penalty
        with warnings.catch_warnings():
            # Where classes are separable, the weakest penalties have no minimum near by: what was
            # reached by then is compared like any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(x, labels)
        yield classifier
