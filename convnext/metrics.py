"""Sums over masked batches, and the scores that follow from them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from convnext import losses


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
    _, best = jax.lax.top_k(logits, min(5, num_classes))
    hits = jnp.take_along_axis(targets, best, axis=-1) > 0.5
    return sums | {
        "top1": (hits[:, 0] * mask).sum(),
        "top5": (hits.any(axis=1) * mask).sum(),
    }


def confusion(logits: jax.Array, labels: jax.Array, mask: jax.Array) -> jax.Array:
    """How many examples of each label [K] have each prediction [K]."""
    num_classes = logits.shape[-1]
    label = jax.nn.one_hot(labels, num_classes) * mask[:, None]
    prediction = jax.nn.one_hot(logits.argmax(axis=-1), num_classes)
    return jnp.einsum("nl,np->lp", label, prediction)


def means(totals: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Totals of `accuracy` -> means over all examples (loss, top1, top5), and count."""
    count = float(totals["count"])
    sums = {name: float(total) for name, total in totals.items() if name != "count"}
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
