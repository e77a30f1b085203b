"""The recipe of a run on one's own images: what a config leaves open, chosen from the number of
images and classes.

A field that is given stays, and what is chosen after it follows from it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, config_dict

from convnext.errors import InputError, require
from convnext.kernels import outline
from convnext.runs import config_fields, workdirs
from convnext.task import Source
from convnext.training import losses
from convnext.weights import pretrained
from convnext.weights.model_config import ARCHITECTURE
from convnext.weights.pretrained import Pretrained

MANY = 20_000  # images from which a linear classifier takes long, and a new head learns soon
FEW = 5_000  # images below which a run sees each of them many times
SAMPLED = 32  # images whose size is looked at

MODEL = (*ARCHITECTURE, "final_norm_eps")  # fields that are those of the weights
OF_THE_WEIGHTS = (
    *(f"model.{name}" for name in MODEL), "image_size",
    "normalize.mean", "normalize.std", "preprocess.crop_pct", "preprocess.crop_mode",
    "preprocess.crop_rounding", "preprocess.resample", "licence", "linear.is_head",
    "linear.is_baseline",
)  # fmt: skip
OF_THE_DATA = (
    "batch_size", "num_steps", "num_epochs", "schedule.peak_lr", "schedule.warmup_steps",
    "optimizer.layer_decay", "model.drop_path_rate", "model.dtype", "mix.mixup_alpha",
    "mix.cutmix_alpha", "erase.prob", "augment.crop_scale", "augment.randaugment.num_ops",
    "augment.randaugment.magnitude", "ema_decays", "eval_every_steps", "checkpoint_every_steps",
    "log.every_steps", "num_workers",
)  # fmt: skip


class Choices:
    """Fields of a config, by their full names, in the order in which they are chosen.

    given: the fields as they are; those that are None are to be chosen.
    """

    def __init__(self, given: Mapping[str, Any]):
        self.given = given
        self.values: dict[str, Any] = {}  # of all fields that were asked for
        self.reasons: dict[str, str] = {}  # of those that were chosen

    def __call__(self, name: str, value: Any, reason: str) -> Any:
        """Returns the value of a field: what is given, or else this one, for this reason."""
        is_given = self.given.get(name) is not None
        self.values[name] = self.given[name] if is_given else value
        if not is_given:
            self.reasons[name] = reason
        return self.values[name]


def leave_open(config: ConfigDict, names: Sequence[str]) -> None:
    """Makes fields of a config None, each with the type that it has."""
    for name in names:
        *sections, last = name.split(".")
        section = config
        for each in sections:
            section = section[each]
        value = section[last]
        if value is not None:
            with section.unlocked():
                del section[last]
                section[last] = config_dict.placeholder(type(value))


def of_a_fresh_model(model: Mapping[str, Any]) -> tuple[str, ...]:
    """Names the fields that from_scratch decides beside OF_THE_DATA. V2 and the isotropic models
    have their LayerScale, or none, by their architecture."""
    has_scale = model["stem_norm"] and not model["use_grn"]
    return ("image_size", *(["model.layer_scale_init_value"] if has_scale else []))


def starting_weights(source: str | None) -> Pretrained:
    """Reads the weights that a run starts from. Raises InputError, with what else may be given,
    where they cannot be read or reached."""
    accepted = "or --config=configs/folder.py, which trains from scratch"
    if not source:
        raise InputError("init_from is None", f"weights (docs/weights.md), {accepted}")
    try:
        return pretrained.load(source)
    except InputError as error:
        raise InputError(
            error.problem, f"--config.init_from={error.accepted}; {accepted}"
        ) from error


def decide(
    config: ConfigDict,
    source: Source,
    problem_type: str,
    mesh: jax.sharding.Mesh,
    start: Callable[[], Pretrained],
) -> tuple[ConfigDict, list[str]]:
    """Fills the fields that a config leaves open, by the rule that it names.

    Returns the config, as it is where it names no rule or was decided when the run began, and lines
    about what was chosen. start: reads the weights of config.init_from. Raises InputError for
    another rule, and where "finetune" has no weights to start from.
    """
    if config.rule is None:
        return config, []
    require(config.rule in RULES, "rule", config.rule, " or ".join(RULES))
    if config.decided is not None:
        return config, ["recipe     as decided when the run began, see config.json"]
    choose = Choices(workdirs.fields(config.to_dict()))
    RULES[config.rule](choose, source, problem_type, mesh.size, start)
    given = tuple(name for name in choose.values if name not in choose.reasons)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict({**choose.values})
        config.decided, config.given = tuple(choose.reasons), given
    classes = len(source.class_names)
    lines = [
        f"recipe     {config.rule}, for {len(source):,} images of {classes:,} classes; each of "
        "these may be given:"
    ]
    if config.rule == "scratch" and len(source) < FEW:
        lines.insert(0, "few images configs/finetune.py gets further with them, in less time")
    flags = [config_fields.flag(name, choose.values[name]) for name in choose.reasons]
    width = max(map(len, flags), default=0)
    reasons = choose.reasons.values()
    lines += [f"  {flag:{width}}  {why}" for flag, why in zip(flags, reasons, strict=True)]
    return config, lines


def fine_tuning(
    choose: Choices,
    source: Source,
    problem_type: str,
    devices: int,
    start: Callable[[], Pretrained],
) -> None:
    """Chooses the recipe of a run that starts from published weights.

    The weights know most already, so a few hundred updates will do. With few images nothing is
    mixed or erased, which only long runs pay back. Of rates from 2e-4 to 2e-3 at 16 images, with a
    layer decay of 0.9 and without, these were the best on the drawn symbols, toys and fabrics of
    dev.drawn_sets, of 30 and 100 images a class.
    """
    images = len(source)
    of_the_weights(choose, start())
    is_linear = problem_type == losses.SINGLE_LABEL and images < MANY
    reason = f"fewer than {MANY:,} images, with one label each" if is_linear else "not for these"
    choose("linear.is_head", is_linear, reason)
    choose("linear.is_baseline", is_linear, reason)
    batch = batch_size(choose, images, devices)
    steps = length(choose, images, batch, passes=20, least=300)
    choose(
        "schedule.peak_lr",
        7e-4 * math.sqrt(batch / 16),
        "7e-4 at 16 images, by the square root of the batch",
    )
    warmup(choose, steps)
    choose("optimizer.layer_decay", 1.0, "all layers move alike")
    regularisation(choose, images, operations=0)
    rest(choose, images, steps)


def from_scratch(
    choose: Choices,
    source: Source,
    problem_type: str,
    devices: int,
    start: Callable[[], Pretrained],
) -> None:
    """Chooses the recipe of a run from random weights.

    Few images: ImageNet's recipe keeps such a run at chance, mixing alone does, and so does
    RandAugment at its strength. At half of it, and with nothing mixed or erased, runs on the drawn
    symbols of dev.drawn_sets were the best (docs/own_data.md).
    """
    images = len(source)
    side = int(np.median([min(_shape(source, i)) for i in _spread(images)]))
    choose("image_size", min(max(round(side / 32) * 32, 32), 128), f"images of {side} pixels")
    model = {name: choose.given[f"model.{name}"] for name in ("stem_norm", "use_grn")}
    if "model.layer_scale_init_value" in of_a_fresh_model(model):
        choose("model.layer_scale_init_value", 0.1, "1e-6 takes thousands of updates to grow")
    batch = batch_size(choose, images, devices)
    steps = length(choose, images, batch, passes=100, least=1000)
    choose("schedule.peak_lr", 2e-3 * math.sqrt(batch / 64), "2e-3 at 64 images")
    warmup(choose, steps)
    choose("optimizer.layer_decay", 1.0, "nothing is learned yet")
    regularisation(choose, images, operations=2)
    rest(choose, images, steps)


RULES = {"finetune": fine_tuning, "scratch": from_scratch}


def of_the_weights(choose: Choices, found: Pretrained) -> None:
    """The architecture, the size and the normalisation are those of the weights."""
    model, processor, reason = found.model, found.processor, "as published"
    for name in MODEL:
        choose(f"model.{name}", getattr(model, name), reason)
    choose("image_size", processor.size, reason)
    choose("normalize.mean", tuple(processor.image_mean), reason)
    choose("normalize.std", tuple(processor.image_std), reason)
    for name in ("crop_pct", "crop_mode", "crop_rounding", "resample"):
        choose(f"preprocess.{name}", getattr(processor, name), reason)
    choose("licence", found.licence or "not stated", f"of {found.origin}")


def batch_size(choose: Choices, images: int, devices: int) -> int:
    """Small enough for some ten updates in a pass over the images."""
    batch = 2 ** round(math.log2(min(max(images / 10, 8), 64)))
    batch = -(-batch // devices) * devices  # each device has as many
    return choose("batch_size", batch, "a tenth of the images, 8 to 64")


def length(choose: Choices, images: int, batch: int, *, passes: int, least: int) -> int:
    """So many passes over the images, and at least so many updates."""
    steps, reason = max(-(-passes * images // batch), least), f"{passes} passes, {least} and more"
    if epochs := choose.given.get("num_epochs"):
        steps, reason = -(-epochs * images // batch), "as num_epochs says"
    steps = choose("num_steps", steps, reason)
    choose("num_epochs", max(-(-steps * batch // images), 1), "as num_steps says")
    return steps


def warmup(choose: Choices, steps: int) -> None:
    """A tenth of the run, unless it is given in epochs."""
    if not choose.given.get("schedule.warmup_epochs"):
        choose("schedule.warmup_steps", max(steps // 10, 1), "a tenth of the updates")


def regularisation(choose: Choices, images: int, *, operations: int) -> None:
    """Mixing, erasing and all of RandAugment are for images enough to learn what they leave.
    operations: RandAugment's with few images, at half its strength."""
    few = images < FEW
    reason = f"{'fewer' if few else 'more'} than {FEW:,} images"
    choose("model.drop_path_rate", 0.0 if few else 0.1, reason)
    choose("mix.mixup_alpha", 0.0 if few else 0.8, reason)
    choose("mix.cutmix_alpha", 0.0 if few else 1.0, reason)
    choose("erase.prob", 0.0 if few else 0.25, reason)
    choose("augment.randaugment.num_ops", operations if few else 2, reason)
    choose("augment.randaugment.magnitude", 5.0 if few else 9.0, reason)
    choose("augment.crop_scale", (0.5, 1.0) if few else (0.25, 1.0), reason)


def rest(choose: Choices, images: int, steps: int) -> None:
    """What depends on the length of the run and on the machine."""
    decay = round(1 - 1 / max(steps / 20, 10), 4)
    choose("ema_decays", (min(decay, 0.9999),), "a twentieth of the updates")
    tenth = max(steps // 10, 1)
    choose("eval_every_steps", tenth, "ten times")
    choose("checkpoint_every_steps", tenth, "ten times")
    choose("log.every_steps", max(steps // 50, 1), "fifty times")
    dtype = "float32" if outline.on_cpu() else "bfloat16"
    choose("model.dtype", dtype, f"what is fast on {outline.platform()}")
    workers = 0 if images < FEW else 4
    choose("num_workers", workers, "a thread is enough" if not workers else "processes to decode")


def _spread(images):
    return range(0, images, max(images // SAMPLED, 1))


def _shape(source, index):
    try:
        return np.shape(source[index]["image"])[:2]
    except InputError:  # reported when it is used
        return (128, 128)
