"""Names and layouts that other projects give to the parameters of a ConvNeXt.

A state is a flat dict of numpy arrays. Ours has keys such as "stage_0_block_2/pwconv1/kernel" and
Flax's layouts. A state of another project has that project's keys and PyTorch's layouts. Both
directions read one table, so each key has exactly one counterpart. "#" in a table stands for a
block's number.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from convnext.errors import InputError
from convnext.models.convnext import ConvNeXt

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Naming:
    """Names of one project. A layer is given by its prefix; `weight` and `bias` follow."""

    stem: tuple[str, str | None]  # convolution, norm
    downsample: Callable[[int], tuple[str, str]]  # of a stage: norm, convolution
    block: Callable[[int], str]  # prefix of a stage's blocks
    parts: tuple[str, str, str, str, str]  # depthwise, norm, linear, linear, layer scale
    grn: tuple[str, str] | None  # keys of gamma and beta
    norm: str  # after pooling
    head: str | None
    norm_pre: str | None = None  # before pooling instead
    pre_logits: str | None = None
    stages: int = 4  # the largest number of stages in the table
    prefixes: tuple[str, ...] = ()  # optional, before every key but those of the head
    gamma_ndim: int = 1  # torchvision: [C, 1, 1]
    grn_ndim: int = 1  # official, transformers: [1, 1, 1, C]

    @cached_property
    def keys(self) -> dict[str, str]:
        """{our key: theirs} of all parameters that a model of this format may have."""
        stem_conv, stem_norm = self.stem
        weights = {"stem_conv": stem_conv, "pre_logits": self.pre_logits, "head": self.head}
        norms = {"stem_norm": stem_norm, "norm": self.norm, "norm_pre": self.norm_pre}
        table = {}
        for i in range(self.stages):
            if i > 0:
                norm, conv = self.downsample(i)
                norms[f"downsample_{i}_norm"], weights[f"downsample_{i}_conv"] = norm, conv
            ours, theirs = f"stage_{i}_block_#", self.block(i)
            dwconv, norm, pwconv1, pwconv2, gamma = (f"{theirs}.{part}" for part in self.parts)
            norms[f"{ours}/norm"] = norm
            weights[f"{ours}/dwconv"] = dwconv
            weights[f"{ours}/pwconv1"], weights[f"{ours}/pwconv2"] = pwconv1, pwconv2
            table[f"{ours}/gamma"] = gamma
            if self.grn:
                table[f"{ours}/grn/gamma"], table[f"{ours}/grn/beta"] = (
                    f"{theirs}.{key}" for key in self.grn
                )
        for layers, leaf in ((weights, "kernel"), (norms, "scale")):
            for ours, theirs in layers.items():
                if theirs is not None:
                    table[f"{ours}/{leaf}"] = f"{theirs}.weight"
                    table[f"{ours}/bias"] = f"{theirs}.bias"
        return table

    @cached_property
    def _patterns(self):
        prefix = "|".join(re.escape(prefix) for prefix in self.prefixes)
        return {
            ours: re.compile(f"(?:{prefix})?" + re.escape(theirs).replace(r"\#", "([0-9]{1,4})"))
            for ours, theirs in self.keys.items()
        }

    def our_key(self, key: str) -> str | None:
        """Returns our name of their key, or None if this format has no such key."""
        for ours, pattern in self._patterns.items():
            if match := pattern.fullmatch(key):
                return ours.replace("#", match[1]) if match.groups() else ours
        return None

    def their_key(self, key: str, prefix: str = "") -> str | None:
        """Returns their name of our key, or None if this format has no such parameter."""
        number = re.search(r"_block_(\d+)/", key)
        template = self.keys.get(re.sub(r"_block_\d+/", "_block_#/", key))
        if template is None:
            return None
        if not key.startswith("head/"):
            template = prefix + template
        return template.replace("#", number[1]) if number else template


NAMINGS = {
    # facebookresearch/ConvNeXt and ConvNeXt-V2.
    "official": Naming(
        stem=("downsample_layers.0.0", "downsample_layers.0.1"),
        downsample=lambda i: (f"downsample_layers.{i}.0", f"downsample_layers.{i}.1"),
        block=lambda i: f"stages.{i}.#",
        parts=("dwconv", "norm", "pwconv1", "pwconv2", "gamma"),
        grn=("grn.gamma", "grn.beta"),
        norm="norm",
        head="head",
        grn_ndim=4,
    ),
    "isotropic": Naming(
        stem=("stem", None),
        downsample=lambda i: ("", ""),
        block=lambda i: "blocks.#",
        parts=("dwconv", "norm", "pwconv1", "pwconv2", "gamma"),
        grn=None,
        norm="norm",
        head="head",
        stages=1,
    ),
    "timm": Naming(
        stem=("stem.0", "stem.1"),
        downsample=lambda i: (f"stages.{i}.downsample.0", f"stages.{i}.downsample.1"),
        block=lambda i: f"stages.{i}.blocks.#",
        parts=("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"),
        grn=("mlp.grn.weight", "mlp.grn.bias"),
        norm="head.norm",
        norm_pre="norm_pre",
        pre_logits="head.pre_logits.fc",
        head="head.fc",
    ),
    # ConvNextModel and ConvNextForImageClassification, of V1 and V2.
    "transformers": Naming(
        stem=("embeddings.patch_embeddings", "embeddings.layernorm"),
        downsample=lambda i: (
            f"encoder.stages.{i}.downsampling_layer.0",
            f"encoder.stages.{i}.downsampling_layer.1",
        ),
        block=lambda i: f"encoder.stages.{i}.layers.#",
        parts=("dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter"),
        grn=("grn.weight", "grn.bias"),
        norm="layernorm",
        head="classifier",
        stages=10,
        prefixes=("convnext.", "convnextv2."),
        grn_ndim=4,
    ),
    "dinov3": Naming(  # DINOv3ConvNextModel of transformers
        stem=("stages.0.downsample_layers.0", "stages.0.downsample_layers.1"),
        downsample=lambda i: (f"stages.{i}.downsample_layers.0", f"stages.{i}.downsample_layers.1"),
        block=lambda i: f"stages.{i}.layers.#",
        parts=(
            "depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2", "gamma",
        ),
        grn=None,
        norm="layer_norm",
        head=None,
        stages=10,
        prefixes=("model.",),
    ),
    "torchvision": Naming(
        stem=("features.0.0", "features.0.1"),
        downsample=lambda i: (f"features.{2 * i}.0", f"features.{2 * i}.1"),
        block=lambda i: f"features.{2 * i + 1}.#",
        parts=("block.0", "block.2", "block.3", "block.5", "layer_scale"),
        grn=None,
        norm="classifier.0",
        head="classifier.2",
        gamma_ndim=3,
    ),
}  # fmt: skip


def to_ours(state: Mapping[str, np.ndarray]) -> tuple[str, State]:
    """Returns the name of the format, recognised by the keys, and the state in our keys and
    layouts.

    Raises InputError if no format has such keys, or if some key has no counterpart.
    """
    state = {key.removeprefix("module."): array for key, array in state.items()}
    if any(key.startswith("encoder.downsample_layers.") for key in state):
        name, state = "fcmae", fcmae_to_official(state)
        keys = {key: NAMINGS["official"].our_key(key) for key in state}
    else:
        candidates = {
            name: {key: naming.our_key(key) for key in state} for name, naming in NAMINGS.items()
        }
        name, keys = max(candidates.items(), key=lambda item: _known(item[1]))
    if 2 * _known(keys) <= len(keys):
        raise InputError(
            f"unknown architecture: {len(state)} tensors, such as "
            f"{', '.join(sorted(state)[:3]) or 'none'}",
            f"a ConvNeXt of {', '.join(NAMINGS)} or FCMAE",
        )
    counts = Counter(keys.values())
    problems = {
        "unexpected": [key for key, ours in keys.items() if ours is None],
        "twice": [key for key, ours in keys.items() if ours and counts[ours] > 1],
    }
    if any(problems.values()):
        raise InputError(
            f"weights that no ConvNeXt of {name} has: {listed(problems)}",
            "only tensors that it has, each once",
        )
    return name, {ours: _to_our_layout(ours, state[key]) for key, ours in keys.items()}


def _known(keys):
    return sum(ours is not None for ours in keys.values())


def listed(problems: Mapping[str, Sequence[str]]) -> str:
    """Formats {"missing": names, ...} as "missing a, b, c, d and 10 more; unexpected e"."""
    return "; ".join(
        f"{what} {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if names[4:] else "")
        for what, names in problems.items()
        if names
    )


def _to_our_layout(key, array):
    if key.endswith("/kernel"):
        if _is_linear(key):
            return array[:, :, 0, 0].T if array.shape[2:] == (1, 1) else array.T
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    return array.reshape(-1) if array.size == max(array.shape, default=0) else array


def _is_linear(key):
    return key.split("/")[-2] in ("pwconv1", "pwconv2", "pre_logits", "head")


def from_ours(
    state: Mapping[str, np.ndarray], name: str, *, prefix: str = "", conv_mlp: bool = False
) -> State:
    """Returns our state in the keys and layouts of a format, as views. Every key must have a
    counterpart (see `unsupported`)."""
    naming = NAMINGS[name]

    def layout(key, array):
        if key.endswith("/kernel"):
            if not _is_linear(key):
                return array.transpose(3, 2, 0, 1)
            is_conv = conv_mlp and "_block_" in key
            return array.T[:, :, None, None] if is_conv else array.T
        if "/grn/" in key:
            return array.reshape((1,) * (naming.grn_ndim - 1) + (-1,))
        if key.endswith("/gamma"):
            return array.reshape((-1,) + (1,) * (naming.gamma_ndim - 1))
        return array

    return {naming.their_key(key, prefix): layout(key, array) for key, array in state.items()}


def unsupported(model: ConvNeXt, name: str) -> str | None:
    """Returns why a format cannot hold the model, or None if it can.

    A final_norm_eps of 1e-12, which transformers publishes with, is no reason. The other formats
    have one eps for all norms, and the weights were trained with that one.
    """
    naming, isotropic = NAMINGS[name], name == "isotropic"
    has_gamma = model.layer_scale_init_value is not None
    final_eps = {model.norm_eps, 1e-12}
    reasons = {
        "a stem without a norm": not model.stem_norm and not isotropic,
        "a stem with a norm": model.stem_norm and isotropic,
        f"{len(model.depths)} stages": (
            name in ("official", "timm", "torchvision") and len(model.depths) != naming.stages
        ),
        "a norm before pooling": model.head_norm_first and not naming.norm_pre,
        "a hidden layer in the head": bool(model.head_hidden_size) and not naming.pre_logits,
        "GRN": model.use_grn and not naming.grn,
        "GRN and LayerScale in one block": model.use_grn and has_gamma and name != "timm",
        "blocks without LayerScale": name == "torchvision" and not has_gamma,
        f"norms with an eps of {model.norm_eps:g}": name != "timm" and model.norm_eps != 1e-6,
        f"a final norm with an eps of {model.final_norm_eps:g}": (
            name != "transformers" and model.final_norm_eps not in final_eps
        ),
        f"patches of {model.patch_size} pixels": (
            name in ("official", "timm", "torchvision") and model.patch_size != 4
        ),
        f"images of {model.in_chans} channels": name == "torchvision" and model.in_chans != 3,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def is_autoencoder(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether our state is the encoder of a V2 autoencoder, which has neither final norm
    nor head. facebookresearch/ConvNeXt-V2 and timm publish it under the names of the whole
    model."""
    ends = ("norm/", "norm_pre/", "pre_logits/", "head/")
    return any("/grn/" in key for key in state) and not any(key.startswith(ends) for key in state)


def fcmae_to_official(state: Mapping[str, np.ndarray]) -> State:
    """Returns dense weights of the encoder of a masked autoencoder, from what its script saves.

    Kernels of sparse convolutions are [k * k, in, out], those of depthwise ones [k * k, C], with
    the spatial axes swapped. MinkowskiEngine's wrappers add `ln` and `linear` to the keys. Decoder
    and mask token are skipped. There is no final norm and no head (remap_checkpoint_keys in
    utils.py of facebookresearch/ConvNeXt-V2).

    Raises InputError if a kernel is not square.
    """
    dense = {}
    for key, array in state.items():
        parts = key.split(".")
        if parts[0] in ("decoder", "mask_token", "proj", "pred"):
            continue
        parts = [part for part in parts if part not in ("encoder", "ln", "linear")]
        if parts[-1] == "kernel":
            parts[-1] = "weight"
            side = math.isqrt(len(array)) if array.ndim > 1 and array.size else 0
            if side == 0 or side**2 != len(array):
                raise InputError(f"{key} is {array.shape}", "[k * k, in, out] or [k * k, C]")
            array = array.reshape(side, side, -1, array.shape[-1]).transpose(3, 2, 1, 0)
        dense[".".join(parts)] = array
    return dense
