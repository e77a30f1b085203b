"""A second task, which lives in the tests: a small segmenter that the real loop trains.

    python -m tests.helpers.maps_task train --workdir=WORKDIR [--config.seed=1 ...] [--kill_after=9]
    python -m tests.helpers.maps_task eval --workdir=WORKDIR [--weights=raw,ema] [--json=FILE]

It has what classification has not: labels that are maps, examples without labels, images of two
shapes, variables that are not parameters, a loss of two terms, an evaluation whose results do not
add up, and a run that is given in steps.
"""

import os
import signal
import sys
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import struct
from ml_collections import ConfigDict, config_dict

import eval as eval_command
import train as train_command
from configs import convnext_tiny
from convnext.data import sources
from convnext.evaluation import requests
from convnext.models import layers
from convnext.models.convnext import Backbone
from convnext.runs import cli, interruption, plan
from convnext.task import Batch, Evaluation, Task, Variables, append, joined
from convnext.training import optimizer, steps

IGNORED = 255  # label of pixels that count nowhere
CANVASES = ((16, 32), (32, 16))  # height and width of the images of a batch, by group
COLOURS = np.array([[40, 40, 40], [220, 60, 60], [60, 220, 60], [60, 60, 220]])  # by class
# Of the recipe in configs/convnext_tiny.py.
NOT_OURS = ("augment", "erase", "image_size", "mix", "preprocess", "problem_type")


def get_config() -> ConfigDict:
    config = convnext_tiny.get_config()
    with config.unlocked():
        for name in NOT_OURS:
            del config[name]
        config.task = "maps"
        config.data = ConfigDict(dict(train_size=40, val_size=21, broken=()))
        config.published = ConfigDict(
            dict(scores=dict(median=97.5), source="a table that is made up", train_size=5000)
        )
        config.num_workers = 0
        config.num_steps = 12
        config.batch_size = 16
        config.accumulation_steps = 2
        config.model = ConfigDict(
            dict(
                depths=(1, 1, 1, 1),
                dims=(4, 8, 8, 8),
                patch_size=2,
                drop_path_rate=0.2,
                layer_scale_init_value=1.0,
            )
        )
        config.head = ConfigDict(
            dict(dim=8, num_classes=config_dict.placeholder(int))  # None: as many as the data has
        )
        config.aux_weight = 0.4
        config.parts_in_turn = False
        config.schedule.update(
            kind="poly", peak_lr=0.03, end_lr=0.0, warmup_epochs=0, warmup_ratio=1e-6
        )  # warmup_steps: the task decides
        config.optimizer.update(layer_decay=0.9, layer_decay_type="stage_wise")
        config.ema_decays = (0.9, 0.5)  # jit sorts them by name
        config.eval_every_steps = 6
        config.checkpoint_every_steps = 4
        config.keep_checkpoints = 2
        config.log.every_steps = 1
    return config


class Scenes:
    """Images of coloured boxes, uint8 [H, W, 3], with their classes, uint8 [H, W], from seeds.

    One of three is tall, the others are wide. One of five has no labels. "gain" is what an image is
    multiplied with, NaN for those that are broken.
    """

    def __init__(self, seed: int, size: int, broken: tuple[int, ...] = ()):
        self.seed, self.size, self.broken = seed, size, broken

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        # Some of the wide ones are narrower than their canvas, the others are larger.
        height, width = (16, 16) if index % 6 == 0 else (20, 36)
        label = np.zeros((height, width), np.uint8)
        for number in rng.permutation(np.arange(1, len(COLOURS))):
            top, left = rng.integers(0, height - 4), rng.integers(0, width - 4)
            label[top : top + 8, left : left + 8] = number
        if self.groups[index]:
            label = label.T
        noise = rng.integers(-30, 31, (*label.shape, 3))
        return {
            "image": (COLOURS[label] + noise).astype(np.uint8),
            "label": np.full_like(label, IGNORED) if index % 5 == 4 else label,
            "gain": np.float32(np.nan if index in self.broken else 1),
        }

    @property
    def groups(self) -> np.ndarray:
        """The number of the canvas of each."""
        return (np.arange(self.size) % 3 == 1).astype(int)


class Announced(Scenes):
    """As many examples, none of which can be read: those of a dry run."""

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        raise AssertionError("a dry run read an example")


def crop(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """A random window of the image and of its label map, of the size of the canvas."""
    corner = [int(rng.integers(0, room + 1)) for room in _room(example)]
    return _window(example, *corner)


def whole(example: dict[str, Any]) -> dict[str, Any]:
    """The window at the top left, without chance."""
    return _window(example, 0, 0)


def _canvas(example):
    height, width = example["image"].shape[:2]
    return CANVASES[height > width]


def _room(example):
    """By how many pixels each side is longer than the canvas."""
    sides = zip(example["image"].shape, _canvas(example), strict=False)
    return [max(side - of_canvas, 0) for side, of_canvas in sides]


def _window(example, top, left):
    """Filled up to the canvas, with pixels that count nowhere; "valid" [H, W] are the others."""
    height, width = _canvas(example)
    image = example["image"][top : top + height, left : left + width]
    label = example["label"][top : top + height, left : left + width]
    room = [(0, height - image.shape[0]), (0, width - image.shape[1])]
    return {
        "image": np.pad(image, [*room, (0, 0)]),
        "label": np.pad(label, room, constant_values=IGNORED),
        "valid": np.pad(np.ones(label.shape, bool), room),
        "gain": example["gain"],
    }


@struct.dataclass
class Padded(layers.Places):
    """Images at the top left of a canvas (convnext.models.layers.Places)."""

    valid: jax.Array  # bool [N, h, w, 1]

    def spread(self, x: jax.Array) -> jax.Array:
        return jnp.where(self.valid, x, 0)

    def at(self, stride: int) -> "Padded":
        return Padded(self.valid[:, ::stride, ::stride])


class Segmenter(nn.Module):
    """Images [N, H, W, 3] to the logits [N, H, W, K] of two heads; the first one has a norm over
    the batch."""

    backbone: Backbone
    num_classes: int
    dim: int

    @nn.compact
    def __call__(
        self, images: jax.Array, valid: jax.Array, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        places = Padded(valid[..., None])
        maps = self.backbone(images, train, places)
        finest = maps["stage1"].shape[1:3]
        x = sum(
            # Without a bias, which the norm would take away again.
            enlarged(nn.Dense(self.dim, use_bias=False, name=f"lateral_{name}")(maps[name]), finest)
            for name in maps
        )
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="head_norm")
        x = nn.relu(norm(x, mask=places.at(self.backbone.patch_size).valid))
        logits = nn.Dense(self.num_classes, name="head")(x)
        auxiliary = nn.Dense(self.num_classes, name="auxiliary_head")(maps["stage3"])
        return tuple(enlarged(each, images.shape[1:3]) for each in (logits, auxiliary))


def enlarged(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Each pixel so often that a map has this height and width."""
    for axis, side in enumerate(size, 1):
        x = x.repeat(side // x.shape[axis], axis=axis)
    return x


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Of each pixel; 0 where it is ignored."""
    counts = label != IGNORED
    classes = jnp.where(counts, label, 0)
    return counts * optax.softmax_cross_entropy_with_integer_labels(logits, classes)


def drawn(index: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """The pixels on which examples are scored, half of them, by the examples' numbers."""
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(7)))(index)
    return jax.vmap(lambda key: jax.random.bernoulli(key, shape=shape))(keys)


def decay_mask(params: Any) -> Any:
    """The auxiliary head, which is used in training only, is not decayed."""
    mask = optimizer.decay_mask(params)
    return {**mask, "auxiliary_head": jax.tree.map(lambda _: False, mask["auxiliary_head"])}


def scores(total: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The accuracy over all pixels, and the median of that of each image with labels, which no sum
    over batches gives; the loss; the number of images."""
    rows = joined(total)
    labelled = rows["pixels"] > 0
    each = rows["hits"][labelled] / rows["pixels"][labelled]
    return {
        "median": float(np.median(each)),
        "accuracy": float(rows["hits"].sum() / rows["pixels"].sum()),
        "loss": float(rows["loss"].sum(dtype=np.float64) / rows["pixels"].sum()),
        "images": len(labelled),
    }


def report(total: list[dict[str, np.ndarray]]) -> str:
    """The image with the most mistakes."""
    rows = joined(total)
    worst = np.argmax(rows["pixels"] - rows["hits"])
    return f"most mistakes in image {rows['index'][worst]}"


def make(config: ConfigDict, mesh: jax.sharding.Mesh, stand_in: bool = False) -> Task:
    """Makes the task of get_config(). An example is {"image", "label", "gain"}."""
    if stand_in:
        train_source = val_source = Announced(0, config.published.train_size)
    else:
        train_source = Scenes(1, config.data.train_size, config.data.broken)
        val_source = Scenes(2, config.data.val_size)
        sources.require_same(train=train_source, val=val_source)
    decided = config.copy_and_resolve_references()
    if config.head.num_classes is None:
        decided.head.num_classes = len(COLOURS)
    if config.schedule.warmup_steps is None:
        decided.schedule.warmup_steps = config.num_steps // 4
    model = Segmenter(Backbone(**config.model), **decided.head)
    normalize = partial(steps.normalize, **config.normalize)

    def init(key: jax.Array) -> Variables:
        height, width = CANVASES[0]
        images = jnp.zeros((1, height, width, 3))
        return model.init(key, images, jnp.ones((1, height, width), bool))

    def pretrained(source: str, key: jax.Array) -> Variables:
        return jax.jit(init)(jax.random.fold_in(key, int(source)))

    def prepare(keys: jax.Array, batch: Batch) -> Batch:
        noise_key, light_key = keys
        images = normalize(batch["image"]) * batch["gain"][:, None, None, None]
        noise = 0.1 * jax.random.normal(noise_key, images.shape)
        light = 0.1 * jax.random.normal(light_key, (len(images), 1, 1, 1))
        return {**batch, "image": images + noise + light}

    def loss(variables: Variables, batch: Batch, key: jax.Array):
        (logits, auxiliary), changed = model.apply(
            variables,
            batch["image"],
            batch["valid"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        main = cross_entropy(logits, batch["label"]).mean()
        aux = cross_entropy(auxiliary, batch["label"]).mean()
        return main + config.aux_weight * aux, (changed, {"loss_main": main, "loss_aux": aux})

    def measure(variables: Variables, batch: Batch):
        logits, _ = model.apply(variables, normalize(batch["image"]), batch["valid"])
        label = batch["label"]
        label = jnp.where(drawn(batch["index"], label.shape[1:]), label, IGNORED)
        return {
            "hits": (logits.argmax(-1) == label).sum((1, 2)),
            "pixels": (label != IGNORED).sum((1, 2)),
            "loss": cross_entropy(logits, label).sum((1, 2)),
            "mask": batch["mask"],
            "index": batch["index"],
        }

    def describe(params: Any) -> list[str]:
        return [f"model      {plan.parameter_count(params):,} parameters, a segmenter"]

    return Task(
        config=decided,
        model=model,
        init=init,
        pretrained=pretrained,
        train_source=train_source,
        train_transform=crop,
        example=whole(Scenes(0, 1)[0]),
        prepare=prepare,
        loss=loss,
        evaluation=Evaluation(
            source=val_source,
            transform=whole,
            measure=measure,
            combine=append,
            scores=scores,
            report=report,
            groups=val_source.groups,
        ),
        best="median",
        describe=describe,
        draws=lambda: ["light      changes by a tenth"],
        train_groups=train_source.groups,
        record={"colours": COLOURS.tolist()},
        is_stand_in=stand_in,
        parts_in_turn=config.parts_in_turn,
        rules={"decay_mask": decay_mask},
    )


class Killer(interruption.Watch):
    """Kills the run after a step, as a scheduler does that asks no one."""

    def __init__(self, after: int | None):
        super().__init__()
        self.after = after

    def stops_after(self, step: int, *args: Any, **keywords: Any) -> bool:
        if step == self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().stops_after(step, *args, **keywords)


def main() -> None:
    name, *given = sys.argv[1:]
    config = [f"--config={__file__}"] if name == "train" else []
    sys.argv = [f"{__file__} {name}", *config, *given]
    kill_after = flags.DEFINE_integer("kill_after", None, "Step.")

    def train(config, workdir):
        with Killer(kill_after.value) as watch:
            dry_run = train_command.DRY_RUN.value
            train_command.train(config, workdir, watch, dry_run=dry_run, make=make)

    def evaluate(config, workdir):
        request = requests.Request(
            weights=tuple(eval_command.WEIGHTS.value), num_workers=eval_command.NUM_WORKERS.value
        )
        eval_command.answer(request, config, workdir, json=eval_command.JSON.value, make=make)

    if name == "train":
        cli.run(train)
    else:
        cli.run(evaluate, needs_config=False)


if __name__ == "__main__":
    main()
