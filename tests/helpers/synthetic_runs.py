"""What a run of any number of classes would say, with structured mistakes: made up."""

import jax
import jax.numpy as jnp
import numpy as np

from convnext.data import imagenet
from convnext.training import metrics
from tools.reporting.predictions import Findings, Mistake
from tools.reporting.runs import Run


def run(workdir, num_classes, num_epochs=300):
    """What its folder would say: two averages, and gradients that are not finite once."""
    config = {
        "model": {"depths": [3, 3, 9, 3], "dims": [96, 192, 384, 768], "num_classes": num_classes},
        "data": {"name": "imagenet2012", "root": "/data"}, "image_size": 224, "seed": 0,
        "schedule": {"peak_lr": 4e-3, "warmup_epochs": 20}, "num_epochs": num_epochs,
        "batch_size": 4096, "train_size": 1_281_167, "val_size": 50 * num_classes,
        "ema_decays": [0.9999, 0.999], "problem_type": "single_label_classification",
    }  # fmt: skip
    rng = np.random.default_rng(num_classes)
    steps = 312 * num_epochs
    lines = []
    for step in range(52, steps + 1, 52):
        done = step / steps
        lines.append({
            "step": step,
            "train/loss": 2.5 + 4 * np.exp(-8 * done) + rng.normal(0, 0.1),
            "train/lr": 4e-3 * min(15 * done, (1 + np.cos(np.pi * done)) / 2),
            "train/grad_norm": None if step == 5200 else float(rng.gamma(4, 0.5)),
            "train/images_per_second": float(rng.normal(9000, 150)),
            "data/wait_fraction": float(rng.uniform(0, 0.02)),
        })  # fmt: skip
        if step % 1560 == 0:
            for i, prefix in enumerate(("val", "val_ema", "val_ema_0.999")):
                lag = 1 - np.exp(-9 * max(done - 0.02 * i, 0.0))
                lines[-1] |= {f"{prefix}/top1": (0.81 + 0.005 * i) * lag,
                              f"{prefix}/loss": 7 - 6.1 * lag}  # fmt: skip
    return Run(workdir, config, lines, environment=None, bad_images=3)


def findings(num_classes, seed=0):
    """50 images of each class; a fifth of them taken for a neighbour, a few for anything. With 1000
    classes the names are ImageNet's."""
    rng = np.random.default_rng(seed)
    names = imagenet.names(num_classes) or tuple(f"class {i}" for i in range(num_classes))
    label = np.repeat(np.arange(num_classes), 50)
    near = rng.random(len(label)) < rng.beta(1, 5, num_classes)[label]
    far = rng.random(len(label)) < 0.03
    offset = rng.integers(1, 4, len(label)) * near
    prediction = np.clip(label + offset, 0, num_classes - 1)
    prediction = np.where(far, rng.integers(0, num_classes, len(label)), prediction)
    right = prediction == label
    totals = {}
    for i, prefix in enumerate(("val", "val_ema", "val_ema_0.999")):
        confidence = np.clip(rng.beta(6, 1.5 + i / 2, len(label)) * np.where(right, 1, 0.75), 0, 1)
        totals[prefix] = _totals(label, prediction, confidence, num_classes)
    wrong = np.flatnonzero(~right)[:24]
    mistakes = [
        Mistake(
            int(at),
            f"image {at:,}",
            int(label[at]),
            int(prediction[at]),
            0.99 - 0.01 * i,
            _image(at),
            _image(i),
        )
        for i, at in enumerate(wrong)
    ]
    images = tuple(f"image {at:,}" for at in range(len(label)))
    return Findings(
        93600, 28_589_128, names, totals, label, prediction, confidence, images, tuple(mistakes)
    )


def _totals(label, prediction, confidence, num_classes):
    """metrics.details of logits that have this prediction with about this confidence."""
    size = 2 * num_classes  # of one batch
    step = jax.jit(metrics.details)
    rest = np.clip(confidence, 1.01 / num_classes, 0.9999)
    logit = np.log(rest / (1 - rest) * (num_classes - 1))
    sums = []
    for first in range(0, len(label), size):
        part = slice(first, first + size)
        logits = jax.nn.one_hot(prediction[part], num_classes) * logit[part, None]
        mask = jnp.ones(len(logits))
        sums.append(jax.device_get(step(logits, label[part].astype(np.int32), mask)))
    return jax.tree.map(lambda *parts: np.sum(parts, axis=0, dtype=np.float64), *sums)


def _image(seed):
    """Coarse noise, uint8 [192, 192, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return small.repeat(32, axis=0).repeat(32, axis=1)
