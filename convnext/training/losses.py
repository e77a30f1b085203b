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


def loss(logits: jax.Array, targets: jax.Array, *, problem_type: str = SINGLE_LABEL) -> jax.Array:
    """[N]: cross-entropy of one label; of several, binary, mean over classes; or mean square."""
    require(problem_type in PROBLEM_TYPES, "problem_type", problem_type, ", ".join(PROBLEM_TYPES))
    if problem_type == MULTI_LABEL:
        return optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=-1)
    if problem_type == REGRESSION:
        return jnp.square(logits - targets).mean(axis=-1)
    return optax.softmax_cross_entropy(logits, targets)
