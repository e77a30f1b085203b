"""Weights on a source of images; the step, sums and batches are those of training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from convnext.data.sources import Joined, Source
from convnext.evaluation import probing
from convnext.task import add
from convnext.tasks import classification, scoring
from convnext.training import metrics
from convnext.weights.pretrained import Pretrained


@dataclass(frozen=True)
class Result:
    """The scores of a classifier on the parts of a test set, by name; one part is named ""."""

    parts: Mapping[str, Mapping[str, Any]]

    @property
    def mean(self) -> dict[str, Any]:
        """The scores of the only part; of several the means over them, and the count of all."""
        first, *others = parts = list(self.parts.values())
        if not others:
            return dict(first)
        names = [name for name in first if name not in ("count", "class_accuracy")]
        means = {name: float(np.mean([part[name] for part in parts])) for name in names}
        return {**means, "count": sum(part["count"] for part in parts)}


def evaluate(
    found: Pretrained,
    parts: Mapping[str, Source],
    *,
    crops: int = 1,
    flip: bool = False,
    classes: tuple[int, ...] | None = None,
    **options: Any,
) -> Result:
    """Evaluates a classifier on all parts of a test set, in one pass; see
    classification.evaluation for the scores and views, scoring.totals for the options."""
    images = Joined(list(parts.values()))
    evaluation = classification.evaluation(found, images, crops=crops, flip=flip, classes=classes)

    def measure(variables, batch):
        return {"index": batch["index"], "sums": evaluation.measure(variables, batch)}

    def combine(total, result):
        """A batch has images of one part."""
        total = [None] * len(parts) if total is None else total
        part = images.part(int(result["index"][0]))
        total[part] = evaluation.combine(total[part], result["sums"])
        return total

    of_parts = replace(
        evaluation,
        measure=measure,
        combine=combine,
        groups=images.parts(),
    )
    total = scoring.totals(of_parts, {"": {"params": found.params}}, **options)[""]
    scores = map(evaluation.scores, total)
    return Result(dict(zip(parts, scores, strict=True)))


def probe(
    found: Pretrained, train_source: Source, source: Source, *, name: str, **options: Any
) -> Result:
    """Evaluates features in place of the head, by those of the images to learn from; name: see
    probing.probabilities, options: scoring.totals."""
    learned, asked = (scoring.features(found, part, **options) for part in (train_source, source))
    probabilities = probing.probabilities(name, learned, asked["features"], len(source.class_names))
    logits = np.log(np.maximum(probabilities, 1e-12)).astype(np.float32)
    sums = metrics.details(logits, asked["label"], np.ones(len(logits), np.float32))
    return Result(
        {"": metrics.detailed_scores(add(None, jax.device_get(sums)), source.class_names)}
    )
