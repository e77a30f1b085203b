"""Writes small models for TensorFlow and Keras, with what they compute here: `make tensorflow`.

    python -m dev.tensorflow_folders DIR

dev/tensorflow_peer.py reads them, in an environment that cannot have this project's packages.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from convnext import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    ImageProcessor,
    save_pretrained,
)

KINDS = {
    "v1": (ConvNextConfig, ConvNextForImageClassification),
    "v2": (ConvNextV2Config, ConvNextV2ForImageClassification),
}
SIZES = dict(depths=[1, 1, 2, 1], hidden_sizes=[8, 16, 24, 32], num_labels=5, image_size=64)
SIDES = (70, 83)  # which 32 does not divide


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.tensorflow_folders", allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="DIR")
    write(parser.parse_args(argv).out)


def write(out: Path) -> None:
    """Writes DIR/v1 and DIR/v2 with reference.npz in each, and DIR/keras of the first's weights."""
    rng = np.random.default_rng(0)
    for name, (config, kind) in KINDS.items():
        model = kind(config(**SIZES))
        model.params = jax.tree.map(
            lambda p: p + rng.normal(scale=0.2, size=p.shape).astype(np.float32), model.params
        )
        images = rng.normal(size=(2, 3, *SIDES)).astype(np.float32)
        output = model(images, output_hidden_states=True)
        features = model.module.apply(
            {"params": model.params}, images.transpose(0, 2, 3, 1), method="features"
        )
        processor = ImageProcessor(size=64)
        options = dict(labels=list(model.config.id2label.values()), processor=processor)
        formats = {name: "tensorflow", "keras": "keras"} if name == "v1" else {name: "tensorflow"}
        for folder, written in formats.items():
            save_pretrained(out / folder, model.module, model.params, format=written, **options)
        maps = {f"map_{number}": each for number, each in enumerate(output.hidden_states)}
        np.savez(
            out / name / "reference.npz", images=images, logits=output.logits,
            pooled=features["pooler_output"], **maps,
        )  # fmt: skip


if __name__ == "__main__":
    main()
