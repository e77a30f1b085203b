"""Sums over masked batches, and the scores that follow from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convnext.training import losses

CONFIDENCE_BINS = 15  # as many as Guo et al. have


def accuracy(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    problem_type: str = losses.SINGLE_LABEL,
) -> dict[str, jax.Array]:
    """Sums over the examples with mask 1. logits [N, K], labels int [N] or [N, K], mask [N].

    loss is that of the problem type, without smoothing. top1 counts the highest logits that are
    labels, top5 the examples of which a label is among the five highest; a regression has mae
    instead, the mean absolute error.
    """
    num_classes = logits.shape[-1]
    targets = losses.targets(labels, num_classes=num_classes, problem_type=problem_type)
    loss = losses.loss(logits, targets, problem_type=problem_type)
    sums = {"loss": jnp.where(mask > 0, loss, 0).sum(), "count": mask.sum()}
    if problem_type == losses.REGRESSION:
        errors = jnp.abs(logits - targets).mean(axis=-1)
        return sums | {"mae": jnp.where(mask > 0, errors, 0).sum()}
    return sums | _hits(logits, targets, mask)


def _hits(logits, targets, mask):
    _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = jnp.take_along_axis(targets, best, axis=-1) > 0.5
    return {"top1": (hits[:, 0] * mask).sum(), "top5": (hits.any(axis=1) * mask).sum()}


def details(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    *,
    problem_type: str = losses.SINGLE_LABEL,
    classes: Sequence[int] | None = None,
) -> dict[str, Any]:
    """`accuracy`, and of a single label also what `calibration_error` and `class_accuracy` take.

    of_confidence: sums over the examples whose confidence, the highest probability, falls into each
    of CONFIDENCE_BINS equal parts of [0, 1], of count, confidence and hits. of_class: count and
    hits of each label [K].

    classes: the columns of the logits that count; labels are then indices in them. Labels of a
    single label may be [N, 1 + L]: the one that the loss and of_class are of, and all that are
    right, filled up with -1 (data.test_sets.Reassessed).
    """
    if classes is not None:
        logits = logits[:, jnp.array(classes)]
    if problem_type != losses.SINGLE_LABEL:
        return accuracy(logits, labels, mask, problem_type=problem_type)
    num_classes = logits.shape[-1]
    label = labels if labels.ndim == 1 else labels[:, 0]
    sums = accuracy(logits, label, mask)
    if labels.ndim == 2:
        right = jax.nn.one_hot(labels[:, 1:], num_classes).sum(axis=1)
        sums |= _hits(logits, right, mask)
    else:
        right = jax.nn.one_hot(label, num_classes)

    each = outputs(logits, label, mask)
    is_right = jnp.take_along_axis(right, each["prediction"][:, None], axis=1)[:, 0] * mask
    # The part of 0.2 is (0.1333, 0.2], as where the measure comes from.
    part = jnp.ceil(each["confidence"] * CONFIDENCE_BINS).astype(jnp.int32) - 1
    of_confidence = jax.nn.one_hot(part, CONFIDENCE_BINS) * mask[:, None]
    of_class = jax.nn.one_hot(label, num_classes)
    return sums | {
        "of_confidence": {
            "count": of_confidence.sum(axis=0),
            "confidence": _sums(each["confidence"] * mask, of_confidence),
            "hits": _sums(is_right, of_confidence),
        },
        "of_class": {"count": _sums(mask, of_class), "hits": _sums(is_right, of_class)},
    }


def _sums(values, groups):
    """Of [N] over each column of [N, G], without the products of a lower precision."""
    return jnp.where(groups > 0, values[:, None], 0).sum(axis=0)


def calibration_error(of_confidence: Mapping[str, np.ndarray]) -> float:
    """The expected calibration error, of 0 to 1: how far confidence and accuracy are apart in a
    part, on the average over the examples (Guo et al., https://arxiv.org/abs/1706.04599)."""
    gaps = np.abs(of_confidence["confidence"] - of_confidence["hits"])
    return float(gaps.sum() / of_confidence["count"].sum())


def class_accuracy(of_class: Mapping[str, np.ndarray]) -> np.ndarray:
    """[K], NaN for a class without an example."""
    count = of_class["count"]
    return np.where(count > 0, of_class["hits"] / np.maximum(count, 1), np.nan)


def outputs(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Of each example, [N]: prediction, confidence in it (its probability), label and mask."""
    probabilities = jax.nn.softmax(jnp.where(mask[:, None] > 0, logits, 0))
    return {
        "prediction": probabilities.argmax(axis=-1),
        "confidence": probabilities.max(axis=-1),
        "label": labels,
        "mask": mask,
    }


def confusion(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """How many examples of each label [K] have each prediction [K]."""
    num_classes = logits.shape[-1]
    label = jax.nn.one_hot(labels, num_classes) * mask[:, None]
    prediction = jax.nn.one_hot(logits.argmax(axis=-1), num_classes)
    return jnp.einsum("nl,np->lp", label, prediction)


def means(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Totals of `accuracy` or `details` -> means over all examples (loss, top1, top5), and
    count."""
    count = float(totals["count"])
    groups = ("count", "of_confidence", "of_class")
    sums = {name: float(total) for name, total in totals.items() if name not in groups}
    # Sorted, as jax returns a dict.
    return {name: sums[name] / count for name in sorted(sums)} | {"count": int(count)}


def scores(totals: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """{"val": totals, ...} -> {"val/loss": 0.7, "val/top1": 0.8, "val/top5": 0.9, ...}"""
    return {
        f"{prefix}/{name}": value
        for prefix, of_prefix in totals.items()
        for name, value in means(of_prefix).items()
        if name != "count"
    }
