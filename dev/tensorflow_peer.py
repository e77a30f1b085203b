"""Loads what dev/tensorflow_folders.py wrote, in TensorFlow and Keras: `make tensorflow`.

    .venv-tensorflow/bin/python dev/tensorflow_peer.py DIR

Prints the largest difference of logits, pooled features and maps from those of this project, and
ends with status 1 where one is above 1e-5 of the largest value. It imports nothing of this project.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # by transformers; keras itself is Keras 3

import keras
import keras.src.applications.convnext  # whose function of any depths is not exported
import numpy as np
import tensorflow as tf
import transformers

TOLERANCE = 1e-5


def differences(folder):
    """{what: difference over the largest value} of a folder for transformers."""
    version = "V2" if folder.name == "v2" else ""
    reference = np.load(folder / "reference.npz")
    images = tf.constant(reference["images"])
    found = {}
    whole = getattr(transformers, f"TFConvNext{version}ForImageClassification")
    output = whole.from_pretrained(folder)(images, output_hidden_states=True)
    found["logits"] = relative(output.logits, reference["logits"])
    for number, each in enumerate(output.hidden_states):
        found[f"map {number}"] = relative(each, reference[f"map_{number}"])
    base = getattr(transformers, f"TFConvNext{version}Model").from_pretrained(folder)(images)
    found["pooled"] = relative(base.pooler_output, reference["pooled"])
    return found


def of_keras(folder, reference):
    """That of the logits of keras.applications' ConvNeXt."""
    model = keras.src.applications.convnext.ConvNeXt(
        depths=[1, 1, 2, 1], projection_dims=[8, 16, 24, 32], include_preprocessing=False,
        weights=str(folder / "model.weights.h5"), input_shape=(*reference["images"].shape[2:], 3),
        classes=5, classifier_activation=None,
    )  # fmt: skip
    logits = model(reference["images"].transpose(0, 2, 3, 1))
    return {"logits": relative(logits, reference["logits"])}


def relative(found, expected):
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def main(out):
    print(f"transformers {transformers.__version__}, tensorflow {tf.__version__}, "
          f"keras {keras.__version__}")  # fmt: skip
    results = {name: differences(out / name) for name in ("v1", "v2")}
    results["keras"] = of_keras(out / "keras", np.load(out / "v1" / "reference.npz"))
    for name, found in results.items():
        print(name, ", ".join(f"{what} {value:.1e}" for what, value in found.items()))
    worst = max(value for found in results.values() for value in found.values())
    sys.exit(f"error: {worst:.1e} is above {TOLERANCE:.0e}" if worst > TOLERANCE else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
