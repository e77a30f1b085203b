"""Weights on a source of images; the step, sums and batches are those of training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from rich import progress
from rich.console import Console

from convnext import sharding
from convnext.data import pipeline
from convnext.data.batches import EvalBatches, process_rows
from convnext.data.sources import Joined, Source
from convnext.evaluation import probing
from convnext.kernels.outline import compiler_options
from convnext.task import Evaluation, Variables, add
from convnext.tasks import classification
from convnext.training import metrics, steps
from convnext.weights.pretrained import Pretrained


def totals(
    evaluation: Evaluation,
    weights: Mapping[str, Variables],
    *,
    batch_size: int,
    num_workers: int = 0,
    max_bad_images: int = 0,
    report: Callable[[str], None] = print,
    show: str | None = None,
) -> dict[str, Any]:
    """Evaluates each of the weights, in one pass; returns the totals that evaluation.scores takes.

    The weights are copied to every device. report: is given what is wrong with an image that is
    skipped. show: the name of a progress bar, on a terminal.
    """
    mesh = sharding.make_mesh()
    sharding.check_batch_size(batch_size, mesh)
    by_batch, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    eval_step = jax.jit(
        partial(steps.eval_step, measure=evaluation.measure),
        in_shardings=(replicated, by_batch),
        out_shardings=replicated,
        compiler_options=compiler_options(),
    )
    weights = {
        name: jax.device_put(jax.device_get(variables), replicated)
        for name, variables in weights.items()
    }
    batches = EvalBatches(
        evaluation.source,
        evaluation.transform,
        evaluation.groups,
        batch_size=batch_size,
        rows=process_rows(batch_size),
        max_bad_images=max_bad_images,
    )
    console = Console(stderr=True)
    with pipeline.Feed(by_batch, num_workers, report) as feed:
        bar = progress.track(
            feed.evaluate(batches),
            show or "",
            len(batches),
            transient=True,
            console=console,
            disable=show is None or not console.is_terminal,
        )
        return steps.evaluate(eval_step, evaluation, weights, bar)


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
    classification.evaluation for the scores and views, `totals` for the options."""
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
    total = totals(of_parts, {"": {"params": found.params}}, **options)[""]
    scores = map(evaluation.scores, total)
    return Result(dict(zip(parts, scores, strict=True)))


def probe(
    found: Pretrained, train_source: Source, source: Source, *, name: str, **options: Any
) -> Result:
    """Evaluates features in place of the head, by those of the images to learn from; name: see
    probing.probabilities, options: `totals`."""
    learned, asked = (features(found, part, **options) for part in (train_source, source))
    probabilities = probing.probabilities(name, learned, asked["features"], len(source.class_names))
    logits = np.log(np.maximum(probabilities, 1e-12)).astype(np.float32)
    sums = metrics.details(logits, asked["label"], np.ones(len(logits), np.float32))
    return Result(
        {"": metrics.detailed_scores(add(None, jax.device_get(sums)), source.class_names)}
    )


def features(found: Pretrained, source: Source, **options: Any) -> dict[str, np.ndarray]:
    """Computes features [N, dims[-1]], pooled and normalised, and label [N] of every example, in
    order; options: `totals`."""
    headless = replace(found, model=found.model.clone(num_classes=None, head_hidden_size=None))

    def measure(features, batch):
        return {"features": features, "label": batch["label"]}

    evaluation = classification.rows(headless, source, measure)
    total = totals(evaluation, {"": {"params": found.params}}, **options)[""]
    return evaluation.scores(total)
