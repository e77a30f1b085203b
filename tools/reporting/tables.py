"""The tables of a report, as plain data: lists of rows."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from convnext.training import metrics
from tools.reporting.runs import Run

LARGEST = 30  # classes that a confusion matrix is written out for
BLOCK = 15  # classes of the block that stands for a larger one
LISTED = 20  # confusions, and classes
ROWS = 150  # of the values of a curve
# Rows of the paper's Table 5 (https://arxiv.org/abs/2201.03545), in its order, and what else one
# asks of a recipe: field of the config, name.
RECIPE = {
    "Data": {
        "data.name": "data set",
        "train_size": "images to train on",
        "val_size": "images to validate on",
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
    """A value of a config or a score, for people."""
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
    """{"Data": [("data set", "digits"), ...], ...}, of the fields that the run has."""
    return {
        title: [(name, text(run.fields[field])) for field, name in group.items()
                if field in run.fields]
        for title, group in RECIPE.items()
    }  # fmt: skip


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(field, its value in each run) of the fields of the configs that differ."""
    fields = [run.fields for run in runs]
    names = dict.fromkeys(name for of_run in fields for name in of_run)
    rows = [(name, [of_run.get(name) for of_run in fields]) for name in names]
    return [(name, [text(v) for v in values]) for name, values in rows if _differ(values)]


def _differ(values):
    return any(value != values[0] for value in values)


def scores(totals: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> list[dict]:
    """{"weights": "raw", "loss": 0.1, "top1": 0.9, ..., "ece": 0.02} of each."""
    rows = []
    for prefix, of_weights in totals.items():
        means = metrics.means(of_weights)
        means.pop("count")
        if "of_confidence" in of_weights:
            means["ece"] = metrics.calibration_error(of_weights["of_confidence"])
        rows.append({"weights": names[prefix], **means})
    return rows


def logged(curves: Sequence[Sequence[tuple[int, float]]], most: int = ROWS) -> list[list[str]]:
    """A row for each step, [step, value of each curve]; of more than `most` steps evenly spread
    ones, and the last."""
    steps = sorted({step for points in curves for step, _ in points})
    if len(steps) > most:
        steps = [steps[i] for i in np.linspace(0, len(steps) - 1, most).round().astype(int)]
    values = [dict(points) for points in curves]
    return [[f"{step:,}", *(_value(of_curve.get(step)) for of_curve in values)] for step in steps]


def _value(value):
    if value is None:
        return ""
    return "not finite" if math.isnan(value) else f"{value:.5g}"


def of_confidence(weights: Sequence[Mapping[str, np.ndarray]]) -> list[list[str]]:
    """A row for each part of [0, 1] that has images: its ends; of each of the weights the number of
    images, their mean confidence and their accuracy. weights: sums of_confidence."""
    edges = np.linspace(0, 1, metrics.CONFIDENCE_BINS + 1)
    rows = []
    for part, ends in enumerate(pairwise(edges)):
        counts = [int(sums["count"][part]) for sums in weights]
        if not any(counts):
            continue
        row = [f"{ends[0]:.3f} to {ends[1]:.3f}"]
        for sums, count in zip(weights, counts, strict=True):
            shares = [f"{sums[name][part] / count:.4f}" if count else ""
                      for name in ("confidence", "hits")]  # fmt: skip
            row += [f"{count:,}", *shares]
        rows.append(row)
    return rows


# Of a confusion matrix only what is not 0 is ever made: it has num_classes**2 places.


def confusions(labels: np.ndarray, predictions: np.ndarray) -> list[tuple[int, int, int]]:
    """(label, prediction, count) of all mistakes, the most frequent first. Both int [N]."""
    wrong = labels != predictions
    pairs = np.stack([labels[wrong], predictions[wrong]], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(*pairs[i].tolist(), int(counts[i])) for i in order]


def confused_classes(num_classes: int, mistakes: Sequence[tuple[int, int, int]]) -> list[int]:
    """All classes, or of many those BLOCK that occur in the most frequent mistakes."""
    if num_classes <= LARGEST:
        return list(range(num_classes))
    kept: set[int] = set()
    for label, prediction, _ in mistakes:
        if len(kept | {label, prediction}) <= BLOCK:
            kept |= {label, prediction}
    return sorted(kept)


def matrix(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[int]) -> list[dict]:
    """A row for each of the classes: {"label", "cells": [(count, share of the label's, whether it
    is right)], "others": count of other predictions}."""
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


def worst_classes(
    of_class: Mapping[str, np.ndarray], mistakes: Sequence[tuple[int, int, int]]
) -> list[dict]:
    """{"label", "count", "accuracy", "taken_for", "times"} of the LISTED classes with the lowest
    accuracy; taken_for is the most frequent mistake, None where there is none."""
    accuracy = metrics.class_accuracy(of_class)
    most_frequent = {label: (prediction, n) for label, prediction, n in reversed(mistakes)}
    order = [k for k in np.argsort(accuracy, kind="stable").tolist() if of_class["count"][k]]
    rows = []
    for label in order[:LISTED]:
        taken_for, times = most_frequent.get(label, (None, 0))
        rows.append({"label": label, "count": int(of_class["count"][label]), "times": times,
                     "accuracy": float(accuracy[label]), "taken_for": taken_for})  # fmt: skip
    return rows
