"""Masked autoencoders in the names of the official code, whose encoder is of sparse convolutions.

Reading an encoder alone, to fine-tune it, is `formats.to_ours`.
"""

import re
from collections.abc import Mapping

import numpy as np

from convnext.errors import require
from convnext.models.fcmae import is_of_decoder
from convnext.weights import formats
from convnext.weights.formats import State

_LINEAR = ("pwconv1", "pwconv2")


def to_ours(state: Mapping[str, np.ndarray]) -> State:
    """Returns what the official pre-training script saves in our keys and layouts, the decoder too.
    Raises InputError for keys that it does not have."""
    _, ours = formats.to_ours(state)
    for key, array in state.items():
        *parts, leaf = key.split(".")
        if (parts or [leaf])[0] not in ("proj", "pred", "decoder", "mask_token"):
            continue
        if parts[:1] == ["decoder"]:
            parts[:2] = [f"decoder_block_{parts[1]}"]
        is_norm = parts[-1:] == ["norm"]
        leaf = {"weight": "scale" if is_norm else "kernel"}.get(leaf, leaf)
        name = "/".join([*parts, leaf])
        if leaf == "kernel" and parts[-1] == "dwconv":
            array = array.transpose(2, 3, 1, 0)
        elif leaf == "kernel":
            array = array.reshape(array.shape[:2]).T
        else:
            array = array.reshape(-1)
        ours[name] = array
    return ours


def from_ours(state: Mapping[str, np.ndarray]) -> State:
    """Returns our state of an FCMAE as the official pre-training script would have saved it, which
    its fine-tuning script reads."""
    has_grn = any("/grn/" in key for key in state)
    require(has_grn, "the model", "a V1", "a V2, as the official code has no other autoencoder")
    found = {}
    for key, array in state.items():
        if is_of_decoder(key):
            found[_decoder_key(key)] = _decoder_layout(key, array)
        else:
            theirs = formats.NAMINGS["official"].their_key(key)
            found[_sparse_key(theirs)] = _sparse_layout(key, array)
    return found


def _decoder_key(key):
    *parts, leaf = key.split("/")
    if parts and parts[0].startswith("decoder_block_"):
        parts[:1] = ["decoder", parts[0].removeprefix("decoder_block_")]
    return ".".join([*parts, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)])


def _decoder_layout(key, array):
    *parts, leaf = key.split("/")
    if key == "mask_token":
        return array.reshape(1, -1, 1, 1)
    if parts[-1] == "grn":
        return array.reshape(1, 1, 1, -1)
    if leaf == "kernel" and parts[-1] == "dwconv":
        return array.transpose(3, 2, 0, 1)
    if leaf == "kernel":
        return array.T if parts[-1] in _LINEAR else array.T[:, :, None, None]
    return array


def _sparse_key(key):
    """The key of MinkowskiEngine's wrapper of an official layer."""
    *parts, leaf = key.split(".")
    if parts[0] == "downsample_layers" and parts[1] != "0":
        if parts[2] == "0":
            parts.append("ln")
        elif leaf == "weight":
            leaf = "kernel"
    elif parts[-1] == "norm":
        parts.append("ln")
    elif parts[-1] in _LINEAR:
        parts.append("linear")
    elif parts[-1] == "dwconv" and leaf == "weight":
        leaf = "kernel"
    return ".".join(["encoder", *parts, leaf])


def _sparse_layout(key, array):
    *parts, leaf = key.split("/")
    layer = parts[-1]
    is_sparse = layer == "dwconv" or re.fullmatch(r"downsample_\d+_conv", layer)
    if leaf == "kernel" and is_sparse:
        # [row, column, in, out] to [column * side + row, in, out]
        flat = array.transpose(1, 0, 2, 3).reshape(-1, *array.shape[2:])
        return flat[:, 0] if layer == "dwconv" else flat
    if leaf == "kernel":
        return array.T if layer in _LINEAR else array.transpose(3, 2, 0, 1)
    return array[None] if is_sparse or layer == "grn" else array
