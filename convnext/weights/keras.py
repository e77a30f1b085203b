"""Writes weights for ConvNeXt of keras.applications: a file that `weights="model.weights.h5"` or
load_weights takes.

Keras finds a layer by its class and by which of that class it is, in the order of the model:
layers/dense_3 is the fourth. Its layouts are ours.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from convnext.errors import needed
from convnext.weights.formats import State

# Their classes, by our layers, and the order of a layer's parameters.
CLASSES = {"dwconv": "conv2d", "norm": "layer_normalization", "pwconv1": "dense",
           "pwconv2": "dense", "head": "dense"}  # fmt: skip
LEAVES = ("kernel", "scale", "bias", "gamma")


def from_ours(state: Mapping[str, np.ndarray]) -> State:
    """Returns our state in these names: "stage_0_block_1/pwconv1/kernel" is
    "layers/dense_2/vars/0"."""
    found, counts = {}, Counter()
    for kind, layers in _layers(state):
        name = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
        for inside, layer in layers.items():
            leaves = [leaf for leaf in LEAVES if f"{layer}/{leaf}" in state]
            for number, leaf in enumerate(leaves):
                found[f"layers/{name}/{inside}vars/{number}"] = state[f"{layer}/{leaf}"]
    return found


def _layers(state) -> Iterator[tuple[str, dict[str, str]]]:
    """The class of each of their layers, in the order of the model, with our layers by where they
    are inside of it."""
    stages = sorted({int(key.split("_")[1]) for key in state if key.startswith("stage_")})
    for stage in stages:
        ours = f"downsample_{stage}" if stage else "stem"
        inside = {"conv2d": f"{ours}_conv", "layer_normalization": f"{ours}_norm"}
        yield "sequential", {f"layers/{name}/": layer for name, layer in inside.items()}
        blocks = {key.split("/")[0] for key in state if key.startswith(f"stage_{stage}_block_")}
        for block in sorted(blocks, key=lambda name: int(name.rpartition("_")[2])):
            for part in ("dwconv", "norm", "pwconv1", "pwconv2"):
                yield CLASSES[part], {"": f"{block}/{part}"}
            yield "layer_scale", {"": block}
    for layer in ("norm", "head"):
        if f"{layer}/bias" in state:
            yield CLASSES[layer], {"": layer}


def write(path: Path, state: State) -> None:
    """Writes a state of these names. Raises InputError where h5py is not installed."""
    h5py = needed("h5py", "the format keras")
    with h5py.File(path, "w") as file:
        for name, array in state.items():
            file.create_dataset(name, data=array)
