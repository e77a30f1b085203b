"""The loss of each problem type: the three of transformers, with its names and its rule.

A target is a row of K numbers: shares of the classes, 0 or 1 for each label, or the values of a
regression. Smoothing, mixup and CutMix only change targets.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from convnext.errors import require

SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"
PROBLEM_TYPES = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)


def problem_type(chosen: str | None, num_classes: int | None, label_dtype: np.dtype) -> str:
    """Returns the chosen type; or else a regression for one output, one label for int32 and int64,
    several labels for other types (ConvNextForImageClassification).

    Raises InputError for an unknown choice.
    """
    if chosen is not None:
        require(chosen in PROBLEM_TYPES, "problem_type", chosen, ", ".join(PROBLEM_TYPES))
        return chosen
    if num_classes == 1:
        return REGRESSION
    return SINGLE_LABEL if label_dtype in (np.int32, np.int64) else MULTI_LABEL


def targets(
    labels: jax.Array,
    *,
    num_classes: int,
    problem_type: str = SINGLE_LABEL,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Integer labels [N], or one row of numbers each, [N, K] -> float32 [N, K].

    Integers become rows with 1 at the label, and label_smoothing spreads that share of it over all
    K classes; in a regression they are the values. Rows stay as they are.
    """
    if problem_type == REGRESSION:
        return labels.reshape(len(labels), num_classes).astype(jnp.float32)
    if labels.ndim == 2:
        return labels.astype(jnp.float32)
    one_hot = jax.nn.one_hot(labels, num_classes)
    return one_hot * (1 - label_smoothing) + label_smoothing / num_classes


def balanced(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Weights of the classes, float32 [K], by which each has the same share of the loss: 1 / its
    number of labels [N], and 1 in the mean over the labels; 0 of a class without any."""
    counts = np.bincount(labels, minlength=num_classes)
    shares = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, shares, 0).astype(np.float32)


def loss(
    logits: jax.Array,
    targets: jax.Array,
    *,
    problem_type: str = SINGLE_LABEL,
    class_weights: np.ndarray | None = None,
) -> jax.Array:
    """[N]: cross-entropy of one label; of several, binary, mean over classes; or mean square.

    class_weights [K]: factors on the terms of the first, as in PyTorch's of class probabilities.
    """
    require(problem_type in PROBLEM_TYPES, "problem_type", problem_type, ", ".join(PROBLEM_TYPES))
    if problem_type == MULTI_LABEL:
        return optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)
    if problem_type == REGRESSION:
        return jnp.square(logits - targets).mean(axis=-1)
    weighted = targets if class_weights is None else targets * class_weights
    return optax.softmax_cross_entropy(logits, weighted)
