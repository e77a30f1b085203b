"""Sums over masked batches, and the scores that follow from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convnext.errors import printable
from convnext.training import losses

CONFIDENCE_BINS = 15  # as many as Guo et al. have
RAW, EMA = "val", "val_ema"  # prefixes of the scores of the raw weights, and of the first EMA


def sums(
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
    total = {"loss": jnp.where(mask > 0, loss, 0).sum(), "count": mask.sum()}
    if problem_type == losses.REGRESSION:
        errors = jnp.abs(logits - targets).mean(axis=-1)
        return total | {"mae": jnp.where(mask > 0, errors, 0).sum()}
    return total | _hits(logits, targets, mask)


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
    """`sums`, and of a single label also what `calibration_error` and `class_accuracy` take.

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
        return sums(logits, labels, mask, problem_type=problem_type)
    num_classes = logits.shape[-1]
    label = labels if labels.ndim == 1 else labels[:, 0]
    total = sums(logits, label, mask)
    if labels.ndim == 2:
        right = jax.nn.one_hot(labels[:, 1:], num_classes).sum(axis=1)
        total |= _hits(logits, right, mask)
    else:
        right = jax.nn.one_hot(label, num_classes)

    each = outputs(logits, label, mask)
    is_right = jnp.take_along_axis(right, each["prediction"][:, None], axis=1)[:, 0] * mask
    # The part of 0.2 is (0.1333, 0.2], as where the measure comes from.
    part = jnp.ceil(each["confidence"] * CONFIDENCE_BINS).astype(jnp.int32) - 1
    of_confidence = jax.nn.one_hot(part, CONFIDENCE_BINS) * mask[:, None]
    of_class = jax.nn.one_hot(label, num_classes)
    return total | {
        "of_confidence": {
            "count": of_confidence.sum(axis=0),
            "confidence": _sum_of_each(each["confidence"] * mask, of_confidence),
            "hits": _sum_of_each(is_right, of_confidence),
        },
        "of_class": {
            "count": _sum_of_each(mask, of_class),
            "hits": _sum_of_each(is_right, of_class),
        },
    }


def _sum_of_each(values, groups):
    """Sums values [N] over each column of groups [N, G], without products of a lower precision."""
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
    """Returns for each example, [N]: prediction, confidence (its probability), label and mask."""
    probabilities = jax.nn.softmax(jnp.where(mask[:, None] > 0, logits, 0))
    return {
        "prediction": probabilities.argmax(axis=-1),
        "confidence": probabilities.max(axis=-1),
        "label": labels,
        "mask": mask,
    }


def confusion(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """Counts the examples of each label [K] that have each prediction [K]."""
    num_classes = logits.shape[-1]
    label = jax.nn.one_hot(labels, num_classes) * mask[:, None]
    prediction = jax.nn.one_hot(logits.argmax(axis=-1), num_classes)
    # Sums of ones are exact in float32, and matrix products of integers slow.
    return jnp.einsum("nl,np->lp", label, prediction).astype(jnp.int32)


def means(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Totals of `sums` or `details` -> means over all examples (loss, top1, top5), and
    count."""
    count = float(totals["count"])
    others = ("count", "confusion", "of_confidence", "of_class")
    # Sorted, as jax returns a dict.
    means = {name: float(totals[name]) / count for name in sorted(totals) if name not in others}
    return {**means, "count": int(count)}


def prefixes(ema_decays: Sequence[float]) -> list[str]:
    """The prefixes of what is logged of the raw weights, of the EMA of the first decay, and of each
    further one: RAW, EMA, `val_ema_<decay>`."""
    return [RAW, *([EMA] if ema_decays else []), *(f"{EMA}_{decay}" for decay in ema_decays[1:])]


def best_score(problem_type: str | None) -> str:
    """The score that chooses the best checkpoint, "-" where the lowest is the best."""
    return "-loss" if problem_type == losses.REGRESSION else "top1"


def reported_prefix(ema_decays: Sequence[float]) -> str:
    """The prefix of the weights that a run is judged by: the first EMA, if there is one."""
    return EMA if ema_decays else RAW


def detailed_scores(
    totals: Mapping[str, Any], class_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Totals of `details` -> `means`, ece, and class_accuracy by the names of the classes: None for
    one without an example."""
    scores: dict[str, Any] = means(totals)
    if "of_class" in totals:
        scores["ece"] = calibration_error(totals["of_confidence"])
        accuracies = class_accuracy(totals["of_class"]).tolist()
        scores["class_accuracy"] = {
            name: None if np.isnan(value) else value
            for name, value in zip(class_names, accuracies, strict=True)
        }
    return scores


def confusion_table(matrix: np.ndarray, class_names: Sequence[str], largest: int = 20) -> str:
    """Rows are labels, columns predictions. Past `largest` classes: the most frequent mistakes."""
    matrix, class_names = matrix.astype(int), [printable(name) for name in class_names]
    if len(class_names) > largest:
        mistakes = matrix * (1 - np.eye(len(matrix), dtype=int))
        order = np.argsort(-mistakes, axis=None, kind="stable")[:largest]
        pairs = zip(*np.unravel_index(order, matrix.shape), strict=True)
        return "\n".join(
            f"{mistakes[i, j]:6d} of {class_names[i]} taken for {class_names[j]}"
            for i, j in pairs
            if mistakes[i, j]
        )
    width = max(3, *(len(name) for name in class_names), len(str(matrix.max())))
    cells = [["", *class_names]]
    cells += [
        [name, *(str(count) if count else "." for count in row)]
        for name, row in zip(class_names, matrix, strict=True)
    ]
    return "\n".join(" ".join(cell.rjust(width) for cell in row) for row in cells)
