"""Weights of other projects: facebookresearch/ConvNeXt and its isotropic models, ConvNeXt-V2
(fine-tuned and FCMAE), timm, transformers, torchvision, and of the runs of this one.

The keys are in formats.py, the files config.json in model_config.py, the way out in save.py.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from convnext import sharding
from convnext.data import imagenet
from convnext.errors import InputError, require
from convnext.images.processor import ImageProcessor
from convnext.models.convnext import VARIANTS, ConvNeXt, abstract_params, smallest_image
from convnext.runs import checkpoint
from convnext.training import losses
from convnext.weights import formats, locate, model_config

SLICED = (21841, 1000)  # a head of the first is cut to the classes of the second: ImageNet-22k, 1k


@dataclass(frozen=True)
class Pretrained:
    """A model with all that belongs to it."""

    model: ConvNeXt
    params: Any
    labels: tuple[str, ...]  # of the classes; empty where there is no head
    processor: ImageProcessor
    problem_type: str | None  # see losses.PROBLEM_TYPES; None: not said
    origin: str  # the source, and the project whose format it has
    processor_origin: str  # the file that says the processor, or that none does


def from_pretrained(
    source: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    num_classes: int | None = None,
    weights: str | None = None,
    head_init_scale: float = 1.0,
    key: jax.Array | None = None,
    revision: str | None = None,
    step: int | None = None,
) -> tuple[ConvNeXt, Any]:
    """The model and its float32 parameters.

    source: a file of weights (.safetensors, or .pth, .pt, .bin by torch.save), a folder with one
    and its config.json, the workdir of a run, or the id of a Hugging Face repository. The project
    that wrote it is recognised by the keys, the variant by their shapes and the config.json.

    dtype: what the model computes in; None: what a run did, else float32. num_classes: None keeps
    the head; 0 takes it away; 1000 of a head of 21,841 takes the rows of these classes; any other
    number makes a new head, drawn from `key` (of 0 where it is None) and scaled by head_init_scale.
    weights: "ema" or "raw" of a run or of a training checkpoint, or of a run `"ema_<decay>"`, a
    further average; None takes the (first) average where there is one. revision: branch, tag or
    commit of the Hugging Face repository. step: of a run's checkpoint; None: its newest.

    Raises InputError where the source cannot be reached or read, is no ConvNeXt, or its weights and
    the model's parameters do not correspond one to one; it then names them.
    """
    found = _read(source, weights, revision, step)
    return _model(found, dtype, num_classes, head_init_scale, key)


def load(
    source: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    num_classes: int | None = None,
    weights: str | None = None,
    head_init_scale: float = 1.0,
    key: jax.Array | None = None,
    revision: str | None = None,
    step: int | None = None,
) -> Pretrained:
    """`from_pretrained`, with labels, image processor and problem type."""
    found = _read(source, weights, revision, step)
    model, params = _model(found, dtype, num_classes, head_init_scale, key)
    names = _labels(found, model.num_classes)
    processor, processor_origin = found.processor()
    return Pretrained(
        model, params, names, processor, found.problem_type, found.origin, processor_origin
    )


def _model(found, dtype, num_classes, head_init_scale, key):
    if num_classes is not None:
        is_count = type(num_classes) is int and num_classes >= 0
        require(is_count, "num_classes", num_classes, "an integer from 0 up, or None")
    kept = found.num_classes if num_classes is None else num_classes
    model = ConvNeXt(**found.fields).clone(
        num_classes=kept or None, head_init_scale=head_init_scale,
        dtype=dtype or found.fields.get("dtype", jnp.float32),
    )  # fmt: skip
    state = _fit(found, model, jax.random.key(0) if key is None else key)
    return model, unflatten_dict({k: jnp.asarray(v) for k, v in state.items()}, sep="/")


def _labels(found, num_classes):
    """What the source says; or ImageNet's, where the number fits; of a new head "LABEL_0", ..."""
    if not num_classes:
        return ()
    is_sliced = (found.num_classes, num_classes) == SLICED
    if num_classes == found.num_classes and found.labels:
        return found.labels
    if num_classes == found.num_classes or is_sliced:
        names = imagenet.names(num_classes)
        if names:
            return names
    return tuple(f"LABEL_{i}" for i in range(num_classes))


def initial_params(
    source: str | os.PathLike, model: ConvNeXt, key: jax.Array, weights: str | None = None
) -> Any:
    """The parameters of `source` for a model that is given, as numpy arrays. A head of another
    number of classes is the one that model.init draws from `key`.

    Raises InputError as `from_pretrained`, and where the model has another architecture.
    """
    found = _read(source, weights)
    theirs = ConvNeXt(**found.fields)
    differences = model_config.differences(theirs, model)
    if differences:
        told = "; ".join(f"{name} {a}, not {b}" for name, (a, b) in differences.items())
        flags = " ".join(f"'--config.model.{name}={a}'" for name, (a, _) in differences.items())
        variant = model_config.variant_of(theirs)
        mend = f"a config of {variant}, such as --config=configs/folder.py:{variant}"
        raise InputError(
            f"{source} is not of the config's architecture: {told}", f"{mend if variant else flags}"
        )
    return unflatten_dict(_fit(found, model, key), sep="/")


@dataclass(frozen=True)
class _Found:
    """What a source holds, before it is made into a model."""

    origin: str
    state: formats.State
    fields: dict[str, Any]  # keywords of ConvNeXt
    labels: tuple[str, ...] | None
    # And the file that says it; made when it is asked for: not all want one.
    processor: Callable[[], tuple[ImageProcessor, str]]
    problem_type: str | None
    is_fcmae: bool = False  # the encoder of an autoencoder, without norm and head

    @property
    def num_classes(self) -> int:
        return np.size(self.state.get("head/bias", ()))


def _read(source, weights, revision=None, step=None):
    path = locate.locate(source, revision)
    if (path / "checkpoints").is_dir():
        return _read_workdir(path, weights, step)
    require(weights in (None, "ema", "raw"), "weights", weights, "'ema', 'raw' or None")
    require(step is None, "step", step, f"None, as {source} is no workdir of a run")
    file = path
    if path.is_dir():
        present = [path / name for name in locate.WEIGHT_FILES if (path / name).is_file()]
        if not present:
            raise InputError(
                f"no weights in the folder {path}",
                f"one with {', '.join(locate.WEIGHT_FILES)}, or the workdir of a run",
            )
        file = present[0]
    try:
        name, state = formats.to_ours(locate.read_tensors(file, weights))
        config = {}
        if file.name in locate.WEIGHT_FILES and (file.parent / "config.json").is_file():
            config = locate.read_json(file.parent / "config.json")
        said = model_config.read(config) if config else model_config.ModelConfig()
        found = _architecture(state)
        fields = {**found, **said.fields}
        if name == "timm" and fields["patch_size"] != 4:  # timm dilates or drops stages then
            raise InputError(f"patch_size is {fields['patch_size']}", "from timm 4")
        # Before a model is made of them, for which there is no limit to the time.
        accepted = f"{found['depths']}, as the weights have"
        is_same = fields["depths"] == found["depths"]
        require(is_same, "depths of config.json", fields["depths"], accepted)
    except InputError as error:
        where = "" if str(source) in str(error) else f"{source}: "
        raise InputError(f"{where}{error.problem}", error.accepted) from error
    if name == "transformers" and not config:
        fields["final_norm_eps"] = 1e-12
    found = _Found(
        origin=f"{source} ({name})",
        state=state,
        fields=fields,
        labels=said.labels,
        processor=lambda: _processor(source, file, config),
        problem_type=said.problem_type,
        is_fcmae=formats.is_autoencoder(state),
    )
    if found.labels and found.num_classes not in (0, len(found.labels)):
        raise InputError(
            f"{found.origin} has names of {len(found.labels)} classes and a head of "
            f"{found.num_classes}",
            "as many",
        )
    return found


def _architecture(state):
    """Keywords of ConvNeXt, from the shapes. What a damaged file lacks is left to `_fit`."""

    def shape(key, axis, default):
        array = state.get(key)
        return array.shape[axis] if array is not None and array.ndim > abs(axis) else default

    blocks = re.findall(r"^stage_(\d+)_block_(\d+)/", "\n".join(state), re.MULTILINE)
    numbers = {(int(stage), int(block)) for stage, block in blocks}
    counts = Counter(stage for stage, _ in numbers)
    depths = tuple(counts[i] for i in range(max(counts, default=-1) + 1))
    expected = {(i, j) for i, depth in enumerate(depths) for j in range(max(depth, 1))}
    for stage, block in sorted(expected - numbers):
        raise InputError(f"block {block} of stage {stage} is missing", "all blocks from 0")
    dims = tuple(shape(f"stage_{i}_block_0/dwconv/kernel", -1, 0) for i in range(len(depths)))
    # No shape says it; timm's xxlarge has another one.
    alike = [v for v in VARIANTS.values() if (v["depths"], v["dims"]) == (depths, dims)]
    norm_eps = next((v["norm_eps"] for v in alike if "norm_eps" in v), 1e-6)
    has_gamma = any(re.search(r"_block_\d+/gamma$", key) for key in state)
    return dict(
        depths=depths,
        dims=dims,
        in_chans=shape("stem_conv/kernel", 2, 3),
        patch_size=shape("stem_conv/kernel", 0, 4),
        stem_norm="stem_norm/scale" in state or len(depths) != 1,
        use_grn=any("/grn/" in key for key in state),
        layer_scale_init_value=1e-6 if has_gamma else None,
        norm_eps=norm_eps,
        final_norm_eps=norm_eps,
        head_norm_first="norm_pre/scale" in state,
        head_hidden_size=shape("pre_logits/kernel", 1, None),
    )


def _processor(source, file, config):
    beside = file.parent / "preprocessor_config.json"
    try:
        if file.name in locate.WEIGHT_FILES and beside.is_file():
            return ImageProcessor.from_pretrained(beside), str(beside)
        if "architecture" in config:
            return ImageProcessor.from_config(config), str(file.parent / "config.json")
        size = config.get("image_size", 224)
        size = size[0] if isinstance(size, list) else size
        return ImageProcessor(size=size), f"the paper, as {source} has no {beside.name}"
    except InputError as error:
        problem = f"{source}: its image processor: {error.problem}"
        raise InputError(problem, error.accepted) from error


def _read_workdir(workdir, weights, step):
    """A checkpoint of a run of this project."""
    config = locate.read_json(workdir / "config.json")
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config["model"].items()}
        model_config.check(fields)
        decays, problem_type = config["ema_decays"], config.get("problem_type")
        class_names = tuple(json.loads((workdir / "classes.json").read_text(encoding="utf-8")))
        ok = all(isinstance(name, str) for name in class_names)
        require(ok, "classes.json", class_names, "names of classes")
        processor = ImageProcessor(
            size=config["image_size"], **config["preprocess"],
            image_mean=config["normalize"]["mean"], image_std=config["normalize"]["std"],
        )  # fmt: skip
        num_classes = len(class_names)
        if problem_type == losses.REGRESSION:
            class_names, num_classes = None, fields["num_classes"] or 1
        model = ConvNeXt(**fields).clone(num_classes=num_classes)
    except (AttributeError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{workdir} is no whole run: {type(error).__name__} {error}",
            "the workdir of a run, with checkpoints, config.json and classes.json",
        ) from error
    averages = {"ema": decays[0]} if decays else {}
    averages |= {f"ema_{decay}": decay for decay in decays}
    accepted = ", ".join(["'raw'", *map(repr, averages)])
    named = weights in (None, "raw", *averages)
    require(named, f"weights of the run {workdir}", weights, accepted)
    step = checkpoint.sound_step(workdir, step)
    params = checkpoint.restore_params(
        workdir,
        step,
        abstract_params(model),
        sharding.replicated(sharding.make_mesh()),  # of all processes
        ema_decay=averages.get(weights or "ema"),
    )
    return _Found(
        origin=f"the run {workdir} at step {step}",
        state=flatten_dict(jax.device_get(params), sep="/"),
        fields=fields,
        labels=class_names,
        processor=lambda: (processor, str(workdir / "config.json")),
        problem_type=problem_type,
    )


def _fit(found, model, key):
    """The flat parameters of the model, each from the one of the source; a new head, and the norm
    that an autoencoder does not have, drawn from the key."""
    state, wanted = dict(found.state), model.num_classes or 0
    new_head = found.num_classes != wanted
    if (found.num_classes, wanted) == SLICED:
        rows, new_head = imagenet.rows_of_1k_in_22k(), False
        state["head/kernel"] = state["head/kernel"][:, rows]
        state["head/bias"] = state["head/bias"][rows]
    if new_head:
        state = {key: value for key, value in state.items() if not key.startswith("head/")}
    try:
        abstract = flatten_dict(abstract_params(model), sep="/")
    except Exception as error:  # of Flax or jax, which know no sizes of 0 and none above 2**63
        raise InputError(f"{found.origin} makes no model: {error}", "one") from error
    made = [
        key
        for key in abstract.keys() - state.keys()
        if (new_head and key.startswith("head/")) or (found.is_fcmae and key.startswith("norm/"))
    ]
    problems = {
        "missing": sorted(abstract.keys() - state.keys() - {*made}),
        "unexpected": sorted(state.keys() - abstract.keys()),
        "misshapen": [
            f"{key} {np.shape(state[key])} instead of {abstract[key].shape}"
            for key in sorted(abstract.keys() & state.keys())
            if np.shape(state[key]) != abstract[key].shape
        ],
        "not of floats": [
            f"{key} ({array.dtype})"
            for key, array in state.items()
            if not jnp.issubdtype(array.dtype, jnp.floating)
        ],
    }
    if any(problems.values()):
        raise InputError(
            f"{found.origin} does not fit a model of depths {tuple(model.depths)}, dims "
            f"{tuple(model.dims)}: {formats.listed(problems)}",
            "all of its parameters, and no others",
        )
    state.update(_fresh(model, key, made))
    return {key: np.asarray(value, np.float32) for key, value in state.items()}


def _fresh(model, key, names):
    """Some of the initial parameters, without making the others."""

    def init(key):
        params = flatten_dict(model.init(key, smallest_image(model))["params"], sep="/")
        return {name: params[name] for name in names}

    return jax.device_get(jax.jit(init)(key)) if names else {}
