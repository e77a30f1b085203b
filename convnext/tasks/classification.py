"""Image classification: the paper's recipe, with one label, several, or numbers to predict."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from convnext.data import contents, sources, survey
from convnext.data.folders import Files
from convnext.errors import InputError, require
from convnext.images import augment
from convnext.images.processor import MAX_SIZE
from convnext.models.convnext import ConvNeXt, activations, smallest_side
from convnext.runs import plan
from convnext.task import Batch, Evaluation, Source, Task, Variables
from convnext.tasks import inputs, recipe, scoring
from convnext.tasks import linear as linear_classifier
from convnext.training import erasing, losses, metrics, mixup, steps
from convnext.weights import pretrained, published
from convnext.weights.pretrained import Pretrained

LOOKED_INTO = 2000  # images at most into which a run looks by itself, for some ten seconds
COMMANDS = (
    "python -m tools.predict IMAGE --model={workdir}",
    "python -m tools.report --workdir={workdir}",
    "python eval.py --workdir={workdir}",
)
MATRIX = 1000  # classes at most of which the confusion matrix is counted


def make(config: ConfigDict, mesh: jax.sharding.Mesh, stand_in: bool = False) -> Task:
    """Makes the task of configs/convnext_tiny.py. An example is {"image": uint8 [H, W, 3],
    "label"}. Raises InputError for what is out of range."""
    train_source, val_source = inputs.load(config, config.model.num_classes, stand_in=stand_in)
    is_stand_in = isinstance(train_source, sources.Announced)
    is_files = isinstance(train_source, Files) and isinstance(val_source, Files)
    found = _survey(train_source, val_source, config.rule is not None) if is_files else []
    hashes = {
        "train_hash": sources.files_hash(train_source), "val_hash": sources.files_hash(val_source)
    }  # fmt: skip
    label = first_label(train_source)
    asked = _asked_for(config.problem_type, train_source)
    problem_type = losses.problem_type(asked, config.model.num_classes, label.dtype)
    start = cache(partial(recipe.starting_weights, config.init_from))
    config, chosen = recipe.decide(config, train_source, problem_type, mesh, start)
    num_classes = check_num_classes(train_source, label, config.model.num_classes, problem_type)
    class_weights, weighed = _class_weights(
        config.class_weights, train_source, num_classes, problem_type
    )
    if problem_type == losses.SINGLE_LABEL:
        train_source = sources.Labelled(train_source, "training image")
        val_source = sources.Labelled(val_source, "evaluation image")
    model = ConvNeXt(**config.model).clone(num_classes=num_classes)
    model.check()
    size, least = config.image_size, smallest_side(model)
    accepted = f"{least} to {MAX_SIZE} pixels, of a model of {len(model.depths)} stages"
    require(least <= size <= MAX_SIZE, "image_size", size, accepted)
    normalize = partial(steps.normalize, **config.normalize)
    erase = partial(erasing.erase, **config.erase)
    mix = partial(
        mixup.mix, num_classes=num_classes, problem_type=problem_type, mesh=mesh, **config.mix
    )
    mixup.capped_group_size(config.batch_size, config.mix.group_size)
    train_transform = partial(
        augment.train, image_size=size, mean=config.normalize.mean, **config.augment
    )
    eval_transform = partial(augment.evaluate, image_size=size, **config.preprocess)
    # Tried on a black image, so that what is out of range is refused before anything is written.
    black = {"image": np.zeros((size, size, model.in_chans), np.uint8), "label": label}
    jax.eval_shape(normalize, black["image"])
    eval_transform(black)
    example = train_transform(black, np.random.default_rng(0))
    as_they_are = train_source
    train_source, train_transform, augmented, said = inputs.on_its_place(
        config, train_source, train_transform
    )

    linear = cache(partial(_linear, config, start, as_they_are))
    if config.linear.is_baseline and config.linear.top1 is None and not stand_in:
        asked_of = _features(config, start, val_source)
        config.linear.top1 = linear().top1(asked_of["features"], asked_of["label"])
        config.decided = (*(config.decided or ()), "linear.top1")

    def initial(source, key):
        params = pretrained.initial_params(source, model, key)
        if config.linear.is_head:
            head = linear()
            params["head"] = {"kernel": head.kernel, "bias": head.bias}
        return {"params": params}

    has_matrix = problem_type == losses.SINGLE_LABEL and num_classes <= MATRIX

    reported = dict(class_names=train_source.class_names, baseline=config.linear.top1)

    def describe(params: Any) -> list[str]:
        weights = []
        if config.init_from:
            known = published.find(config.init_from)
            licence = config.licence or (known and known.licence)
            weights = [f"weights    {config.init_from}, {published.terms(licence)}"]
        architecture = [plan.model(model, params, size), plan.precision(model)]
        return [*architecture, *weights, *said, *found, *weighed, *chosen]

    return Task(
        config=config,
        model=model,
        init=lambda key: model.init(key, jnp.zeros((1, size, size, model.in_chans))),
        pretrained=initial,
        train_source=train_source,
        train_transform=train_transform,
        example=example,
        prepare=partial(prepare, augmented=augmented, normalize=normalize, erase=erase, mix=mix),
        loss=partial(loss, model=model, problem_type=problem_type, class_weights=class_weights),
        evaluation=Evaluation(
            source=val_source,
            transform=eval_transform,
            measure=partial(
                measure,
                model=model,
                normalize=normalize,
                problem_type=problem_type,
                has_matrix=has_matrix,
            ),
            scores=scores,
            report=partial(report, **reported) if has_matrix else None,
        ),
        best=metrics.best_score(problem_type),
        describe=describe,
        draws=lambda: [plan.mixing(config.batch_size, mesh.size, config.mix)],
        commands=COMMANDS,
        class_names=list(train_source.class_names),
        record={"problem_type": problem_type, **hashes},
        is_stand_in=is_stand_in,
        activations=partial(activations, model, size),
    )


def _class_weights(chosen, source, num_classes, problem_type):
    """The weights of the classes in the loss, and lines about them."""
    require(chosen in (None, "balanced"), "class_weights", chosen, "balanced or None")
    if chosen is None:
        return None, []
    is_single = problem_type == losses.SINGLE_LABEL
    require(is_single, "class_weights", chosen, f"None for a {problem_type}")
    if isinstance(source, sources.Announced):
        return None, ["weighing   classes by 1 / their number of images"]
    labels = sources.labels(source)
    known = "None, or images whose labels are known before they are read"
    require(labels is not None, "class_weights", chosen, known)
    weights = losses.balanced(labels, num_classes)
    least, most = weights[weights > 0].min(), weights.max()
    told = f"weighing   classes by 1 / their number of images, {least:.3g} to {most:.3g}"
    return weights, [told]


def _survey(train, val, is_ones_own):
    """Lines about the files of a run. Those of one's own images are looked into, if they are few or
    tools.data has done so."""
    said = survey.lines(train, val)
    if not is_ones_own or jax.process_index():
        return said
    learned, asked = train.paths(), val.paths()
    paths = [*learned, *asked]
    if len(paths) > LOOKED_INTO:
        looked = contents.recall(paths)
    else:
        print(f"reading    {len(paths):,} images", flush=True)
        looked = contents.look(paths)
    if looked is None:
        return [*said, f"near       not looked for: python -m tools.data {train.root} does"]
    return [*said, *contents.lines(looked, learned, asked)]


def _linear(config, start, source):
    """The linear classifier on the features of the weights that the run starts from."""
    learned = _features(config, start, source)
    classes = len(source.class_names)
    return linear_classifier.fit(learned["features"], learned["label"], classes)


def _features(config, start, source):
    """Those of the weights that the run starts from, and labels: scoring.features."""
    found = replace(start(), processor=pretrained.processor_of_run(config))
    options = dict(batch_size=config.batch_size, num_workers=config.num_workers)
    return scoring.features(found, source, of_head=True, **options)


def prepare(
    keys: jax.Array,
    batch: Batch,
    *,
    augmented: Callable[[Batch], jax.Array],
    normalize: Callable,
    erase: Callable,
    mix: Callable,
) -> Batch:
    """Augments the images of a batch, normalises them, erases boxes, and mixes them: {"image",
    "target"}."""
    mix_key, erase_key = keys
    images = erase(erase_key, normalize(augmented(batch)))
    images, targets = mix(mix_key, images, batch["label"])
    return {"image": images, "target": targets}


def loss(
    variables: Variables,
    batch: Batch,
    key: jax.Array,
    *,
    model: ConvNeXt,
    problem_type: str,
    class_weights: np.ndarray | None = None,
) -> tuple[jax.Array, tuple[dict, dict]]:
    """Computes the mean loss of a part of a batch; no other variables change, nothing else is
    logged."""
    logits = model.apply(variables, batch["image"], train=True, rngs={"dropout": key})
    options = dict(problem_type=problem_type, class_weights=class_weights)
    each = losses.loss(logits, batch["target"], **options)
    return each.mean(), ({}, {})


def measure(
    variables: Variables,
    batch: Batch,
    *,
    model: ConvNeXt,
    normalize: Callable,
    problem_type: str,
    has_matrix: bool = False,
) -> dict[str, jax.Array]:
    """Sums up metrics.sums, and the confusion matrix where there is one."""
    logits = model.apply(variables, normalize(batch["image"]), train=False)
    labels, mask = batch["label"], batch["mask"]
    sums = metrics.sums(logits, labels, mask, problem_type=problem_type)
    return sums | ({"confusion": metrics.confusion(logits, labels, mask)} if has_matrix else {})


def scores(total: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a total: means over the examples."""
    return {name: value for name, value in metrics.means(total).items() if name != "count"}


def report(
    total: Mapping[str, Any], *, class_names: Sequence[str], baseline: float | None = None
) -> str:
    """The confusion matrix of a total, in words, and what the top-1 is to be compared with."""
    table = metrics.confusion_table(total["confusion"], class_names)
    text = f"labels (rows) and predictions (columns)\n{table}"
    if baseline is not None:
        text += (
            f"\ntop1 {scores(total)['top1']:.4f}, and {baseline:.4f} of a linear classifier on the "
            "features that the run began with"
        )
    return text


def _asked_for(problem_type, source):
    """The problem type of the config, or that of a source that has one of its own. Raises
    InputError where both differ, or the config would predict the number of a class."""
    own = getattr(source, "problem_type", None)
    is_files = isinstance(source, Files)
    if own is not None:
        require(problem_type in (None, own), "problem_type", problem_type, f"{own}, by the labels")
    elif problem_type == losses.REGRESSION and is_files and source.labels.ndim == 1:
        accepted = f"{losses.SINGLE_LABEL}, or a table with a column `value`"
        require(False, "problem_type of class folders", problem_type, accepted)
    return problem_type or own


def first_label(source: Source) -> np.ndarray:
    """Returns the label of the first example that can be read. Raises InputError where none can."""
    for index in range(len(source) - 1):
        with suppress(InputError):
            return source[index]["label"]
    return source[len(source) - 1]["label"]


def check_num_classes(
    source: Source, label: np.ndarray, num_classes: int | None, problem_type: str
) -> int:
    """Returns the number of classes of the data; of a regression, of the numbers in a label.

    Raises InputError where the config has another one; None takes what the data has.
    """
    if problem_type == losses.REGRESSION:
        outputs = np.size(label)
        if num_classes not in (None, outputs):
            raise InputError(
                f"model.num_classes is {num_classes} in a regression",
                f"{outputs}, as many as a label has numbers",
            )
        return outputs
    found = len(source.class_names)
    ok = num_classes in (None, found)
    require(ok, "model.num_classes", num_classes, f"{found}, as the data has")
    return found


def evaluation(
    found: Pretrained,
    source: Source,
    *,
    crops: int = 1,
    flip: bool = False,
    classes: Sequence[int] | None = None,
) -> Evaluation:
    """Makes the evaluation of weights from anywhere on any labelled source, with their own image
    processor.

    Its scores are loss, top1, top5 (of a regression: loss, mae) and count; of a single label also
    ece, and class_accuracy, {class: None where it has no example}. With crops 5, or with `flip`,
    the mirror images as well, the probabilities are the mean of those of the views. classes: see
    metrics.details. Raises InputError where the processor is not one that is evaluated with.
    """
    problem_type = found.problem_type or losses.SINGLE_LABEL
    source = scoring.checked(source, problem_type)
    logits = scoring.logits_of(found, crops=crops, flip=flip)

    def measure(variables: Variables, batch: Batch):
        return metrics.details(
            logits(variables, batch["image"]),
            batch["label"],
            batch["mask"],
            problem_type=problem_type,
            classes=classes,
        )

    return Evaluation(
        source=source,
        transform=scoring.transform_of(found.processor, crops=crops),
        measure=measure,
        scores=partial(metrics.detailed_scores, class_names=source.class_names),
    )
