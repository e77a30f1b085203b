"""Tables of a report, as plain data: lists of rows."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from convnext.training import metrics
from tools.reporting.doubts import Doubts
from tools.reporting.predictions import Findings
from tools.reporting.runs import Run

LARGEST = 30  # classes, up to which a confusion matrix is written out
BLOCK = 15  # classes of a larger matrix that are written out
LISTED = 20  # confusions, and worst classes
ROWS = 150  # of the table of a curve
# Rows of the paper's Table 5 (https://arxiv.org/abs/2201.03545), in its order, and further fields
# of a recipe: field of the config, name.
RECIPE = {
    "Data": {
        "data.name": "data set",
        "train_size": "training images",
        "val_size": "validation images",
        "image_size": "image size, pixels",
    },
    "Model": {
        "model.depths": "depths",
        "model.dims": "dims",
        "model.patch_size": "patch size, pixels",
        "model.use_grn": "Global Response Normalization",
        "model.dtype": "computes in",
        "init_from": "weights to start from",
    },
    "Optimization": {
        "num_epochs": "training epochs",
        "batch_size": "batch size",
        "schedule.peak_lr": "peak learning rate",
        "schedule.end_lr": "last learning rate",
        "schedule.warmup_epochs": "warmup epochs",
        "optimizer.weight_decay": "weight decay",
        "optimizer.b1": "optimizer momentum, first",
        "optimizer.b2": "optimizer momentum, second",
        "optimizer.layer_decay": "layer-wise learning rate decay",
        "optimizer.clip_norm": "gradient clipping",
        "frozen": "frozen parameters",
        "seed": "seed",
    },
    "Regularization": {
        "augment.randaugment.num_ops": "RandAugment operations",
        "augment.randaugment.magnitude": "RandAugment magnitude",
        "mix.mixup_alpha": "mixup, alpha",
        "mix.cutmix_alpha": "CutMix, alpha",
        "mix.label_smoothing": "label smoothing",
        "erase.prob": "random erasing, probability",
        "model.drop_path_rate": "stochastic depth",
        "model.layer_scale_init_value": "LayerScale at first",
        "model.head_init_scale": "scale of the head at first",
        "ema_decays": "EMA decays",
    },
}


def text(value: Any) -> str:
    """Formats a value of a config, or a score, for people."""
    if value is None or value is False:
        return "none" if value is None else "no"
    if value is True:
        return "yes"
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value)) or "none"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def recipe(run: Run) -> dict[str, list[tuple[str, str]]]:
    """Returns {"Data": [("data set", "digits"), ...], ...} of the fields that the run has."""
    values = run.fields
    return {
        title: [(name, text(values[field])) for field, name in group.items() if field in values]
        for title, group in RECIPE.items()
    }


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Returns the fields in which the configs differ, with the value in each run."""
    fields = [run.fields for run in runs]
    names = dict.fromkeys(name for values in fields for name in values)
    rows = [(name, [values.get(name) for values in fields]) for name in names]
    return [(name, [text(v) for v in values]) for name, values in rows if _differ(values)]


def _differ(values):
    return any(value != values[0] for value in values)


def scores(totals: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> list[dict]:
    """Returns {"weights": "raw", "loss": 0.1, "top1": 0.9, ..., "ece": 0.02} for each weights."""
    rows = []
    for prefix, sums in totals.items():
        means = metrics.means(sums)
        means.pop("count")
        if "of_confidence" in sums:
            means["ece"] = metrics.calibration_error(sums["of_confidence"])
        rows.append({"weights": names[prefix], **means})
    return rows


def logged(curves: Sequence[Sequence[tuple[int, float]]], most: int = ROWS) -> list[list[str]]:
    """Returns a row for each step, [step, value of each curve]. Of more than `most` steps it takes
    `most` that are evenly spread, the last included."""
    steps = sorted({step for points in curves for step, _ in points})
    if len(steps) > most:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, most).round().astype(int)]
    values = [dict(points) for points in curves]
    return [[f"{step:,}", *(_value(curve.get(step)) for curve in values)] for step in steps]


def _value(value):
    if value is None:
        return ""
    return "not finite" if math.isnan(value) else f"{value:.5g}"


def confidence_rows(weights: Sequence[Mapping[str, np.ndarray]]) -> list[list[str]]:
    """Returns a row for each part of [0, 1] that has images: its ends, and for each weights the
    number of images, their mean confidence and their accuracy. weights: sums of_confidence."""
    edges = np.linspace(0, 1, metrics.CONFIDENCE_BINS + 1)
    rows = []
    for part, ends in enumerate(pairwise(edges)):
        counts = [int(sums["count"][part]) for sums in weights]
        if not any(counts):
            continue
        row = [f"{ends[0]:.3f} to {ends[1]:.3f}"]
        for sums, count in zip(weights, counts, strict=True):
            totals = sums["confidence"][part], sums["hits"][part]
            shares = [f"{total / count:.4f}" if count else "" for total in totals]
            row += [f"{count:,}", *shares]
        rows.append(row)
    return rows


# A confusion matrix has num_classes**2 places, so only those that are not 0 are ever stored.


def confusions(labels: np.ndarray, predictions: np.ndarray) -> list[tuple[int, int, int]]:
    """Returns (label, prediction, count) of all mistakes, the most frequent first. labels and
    predictions: int [N]."""
    wrong = labels != predictions
    pairs = np.stack([labels[wrong], predictions[wrong]], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(*pairs[i].tolist(), int(counts[i])) for i in order]


def confused_classes(num_classes: int, mistakes: Sequence[tuple[int, int, int]]) -> list[int]:
    """Returns all classes, or of more than LARGEST up to BLOCK of the most frequent mistakes."""
    if num_classes <= LARGEST:
        return list(range(num_classes))
    kept: set[int] = set()
    for label, prediction, _ in mistakes:
        if len(kept | {label, prediction}) <= BLOCK:
            kept |= {label, prediction}
    return sorted(kept)


def matrix(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[int]) -> list[dict]:
    """Returns a row for each class: {"label", "cells": [(count, share of the label's images,
    whether it is right)], "others": count of other predictions}."""
    rows = []
    for label in classes:
        predicted = predictions[labels == label]
        counts = [int((predicted == prediction).sum()) for prediction in classes]
        cells = [
            (count, count / max(len(predicted), 1), prediction == label)
            for prediction, count in zip(classes, counts, strict=True)
        ]
        rows.append({"label": label, "cells": cells, "others": len(predicted) - sum(counts)})
    return rows


def of_classes(
    labels: np.ndarray,
    predictions: np.ndarray,
    num_classes: int,
    mistakes: Sequence[tuple[int, int, int]],
) -> list[dict]:
    """Returns {"label", "count", "precision", "recall", "f1", "taken_for", "times"} of each class
    with images, the lowest recall, which is its accuracy, first. taken_for is the most frequent
    mistake, or None; precision is None where nothing was taken for the class."""
    counts, taken = (np.bincount(each, minlength=num_classes) for each in (labels, predictions))
    hits = np.bincount(labels[labels == predictions], minlength=num_classes)
    most_frequent = {label: (prediction, n) for label, prediction, n in reversed(mistakes)}
    recall = hits / np.maximum(counts, 1)
    rows = []
    for label in np.argsort(recall, kind="stable").tolist():
        if not counts[label]:
            continue
        taken_for, times = most_frequent.get(label, (None, 0))
        rows.append(
            {
                "label": label,
                "count": int(counts[label]),
                "precision": float(hits[label] / taken[label]) if taken[label] else None,
                "recall": float(recall[label]),
                "f1": float(2 * hits[label] / (counts[label] + taken[label])),
                "taken_for": taken_for,
                "times": times,
            }
        )
    return rows


def macro(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the means over the classes of `of_classes`; a precision that is None counts as 0."""
    names = ("precision", "recall", "f1")
    return {name: float(np.mean([row[name] or 0.0 for row in rows])) for name in names}


def predicted(findings: Findings) -> list[tuple]:
    """Returns (image, label, prediction, confidence) of each validation image, after a header."""
    names = findings.class_names
    columns = findings.images, findings.labels, findings.predictions, findings.confidences
    return [
        ("image", "label", "prediction", "confidence"),
        *(
            (image, names[label], names[prediction], f"{confidence:.4f}")
            for image, label, prediction, confidence in zip(*columns, strict=True)
        ),
    ]


def doubted(doubts: Doubts, names: Sequence[str]) -> list[tuple]:
    """Returns the images whose label is likely wrong, after a header."""
    header = ("image", "part", "label", "likeliest", "of_label", "of_likeliest")
    return [
        header,
        *(
            (
                each.path,
                each.part,
                names[each.label],
                names[each.likeliest],
                *(f"{value:.4f}" for value in each.probabilities),
            )
            for each in doubts.images
        ),
    ]
