"""Names that TFConvNextModel and TFConvNextForImageClassification of transformers 4.x give to the
parameters of V1 and V2. The layouts are ours: TensorFlow's are Flax's."""

import re
from collections.abc import Mapping

import numpy as np

from convnext.errors import InputError
from convnext.weights.formats import NAMINGS, State, listed

PYTORCHS = NAMINGS["transformers"]  # of which TensorFlow's names are made
BASES = ("convnext", "convnextv2")


def is_of(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a state has such names."""
    return bool(state) and all(key.endswith(":0") for key in state)


def from_ours(state: Mapping[str, np.ndarray]) -> State:
    """Returns our state in these names: "stage_0_block_1/pwconv1/kernel" is
    "convnext/encoder/stages.0/layers.1/pwconv1/kernel:0"."""
    base = BASES[any("/grn/" in key for key in state)]
    return {_their_key(key, base, state): _their_layout(key, array) for key, array in state.items()}


def to_ours(state: Mapping[str, np.ndarray]) -> State:
    """Returns a state of these names in ours. Raises InputError for keys that no ConvNeXt has."""
    keys = {key: PYTORCHS.our_key(_pytorchs_key(key)) for key in state}
    if unexpected := [key for key, ours in keys.items() if ours is None]:
        raise InputError(
            f"weights that no TFConvNext has: {listed({'unexpected': unexpected})}",
            "only tensors that it has",
        )
    return {ours: _our_layout(ours, state[key]) for key, ours in keys.items()}


def _their_key(key, base, state):
    layer, _, leaf = key.rpartition("/")
    path, _, last = PYTORCHS.their_key(key).rpartition(".")
    path = re.sub(r"\.(?!\d)", "/", path)
    if last in ("weight", "bias") and "/grn/" not in key:
        is_norm = f"{layer}/scale" in state
        last = {"kernel": "kernel", "scale": "gamma", "bias": "beta" if is_norm else "bias"}[leaf]
    return f"{path}/{last}:0" if layer == "head" else f"{base}/{path}/{last}:0"


def _pytorchs_key(key):
    *path, last = re.sub(":0$", "", key).split("/")
    if path[:1] and path[0] in BASES:
        path = path[1:]
    return ".".join(
        [*path, {"kernel": "weight", "gamma": "weight", "beta": "bias"}.get(last, last)]
    )


def _their_layout(key, array):
    return array.reshape(1, 1, 1, -1) if "/grn/" in key else array


def _our_layout(key, array):
    return array.reshape(-1) if "/grn/" in key else array
