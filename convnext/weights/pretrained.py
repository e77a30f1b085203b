"""Reads weights of facebookresearch/ConvNeXt (with the isotropic models), ConvNeXt-V2 (fine-tuned
and FCMAE), timm, transformers, torchvision, and of this project's runs.

formats.py and tensorflow.py have the keys, model_config.py the config.json, and save.py writes
weights for others.
"""

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from convnext import sharding
from convnext.data import imagenet
from convnext.errors import InputError, require
from convnext.files import text
from convnext.images.processor import ImageProcessor
from convnext.models import fcmae
from convnext.models.convnext import VARIANTS, ConvNeXt, abstract_params, smallest_image
from convnext.models.fcmae import FCMAE
from convnext.runs import checkpoint, chosen
from convnext.training import losses, metrics
from convnext.weights import formats, locate, model_config, onnx_graph, published, tensorflow

SLICED = (21841, 1000)  # a head of ImageNet-22k can be cut to the classes of ImageNet-1k


@dataclass(frozen=True)
class Pretrained:
    """A model with its parameters, labels and image processor."""

    model: ConvNeXt
    params: Any
    labels: tuple[str, ...]  # of the classes; empty without a head
    processor: ImageProcessor
    problem_type: str | None  # see losses.PROBLEM_TYPES; None: the source does not state it
    origin: str  # the source, and the project whose format it has
    processor_origin: str  # the file that the processor was read from, or that there is none
    licence: str | None = None  # as the source states it


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
    """Returns the model and its float32 parameters.

    source: a file of weights (.safetensors, or .pth, .pt, .bin by torch.save), a folder with one
    and its config.json, the workdir of a run, the id of a Hugging Face repository, or a name such
    as "convnext_tiny" or an official address that stands for one (published.csv). The project that
    wrote it is recognised by the keys, the variant by the shapes and the config.json.
    "RUN@best" is the workdir RUN with weights="best", "RUN@1000" with weights="1000".

    dtype: what the model computes in. None: what the run computed in, else float32.
    num_classes: None keeps the head. 0 removes it. 1000 cuts a head of 21,841 classes to these
    rows. Any other number makes a new head, drawn from `key` (None: jax.random.key(0)) and scaled
    by head_init_scale.
    weights: "ema" or "raw", of a run or a training checkpoint. None takes the (first) EMA if there
    is one. Of a run also `"ema_<decay>"`, a further EMA; "best", what was reported of the
    checkpoint with the best score; "best_raw", its raw weights; or a step in digits.
    revision: branch, tag or commit of the Hugging Face repository.
    step: of a run's checkpoint. None: the newest.

    Raises InputError if the source cannot be reached or read, or is no ConvNeXt, or if its weights
    and the model's parameters do not correspond one to one. The message names them.
    """
    _, model, params = _loaded(
        source,
        dtype=dtype,
        num_classes=num_classes,
        weights=weights,
        head_init_scale=head_init_scale,
        key=key,
        revision=revision,
        step=step,
    )
    return model, params


def load(source: str | os.PathLike, **options: Any) -> Pretrained:
    """Reads what `from_pretrained` reads, and labels, image processor and problem type. options are
    the keywords of `from_pretrained`."""
    contents, model, params = _loaded(source, **options)
    processor, processor_origin = contents.processor()
    return Pretrained(
        model,
        params,
        _labels(contents, model.num_classes),
        processor,
        contents.problem_type,
        contents.origin,
        processor_origin,
        contents.licence,
    )


def load_runnable(source: str | os.PathLike, **options: Any) -> Pretrained:
    """Reads what `load` reads, or an exported ONNX graph, which has no options, and of which there
    is no more than `apply` and `num_classes`: for what names images, and evaluates."""
    path = onnx_graph.find(source)
    return load(source, **options) if path is None else _graph(path, options)


def _graph(path, options):
    for name, given in options.items():
        is_none = given is None or (name == "dtype" and jnp.dtype(given) == jnp.float32)
        require(is_none, f"{name} of the exported {path}", given, "None: it is as it was written")
    graph, folder = onnx_graph.Graph(path), path.parent
    folder = folder if (folder / "config.json").is_file() else folder.parent
    declared = model_config.read(text.read_json(folder / "config.json"))
    labels = declared.labels or tuple(f"LABEL_{i}" for i in range(graph.num_classes))
    return Pretrained(
        graph,
        {},
        labels,
        ImageProcessor.from_pretrained(folder),
        declared.problem_type,
        f"{path} (onnxruntime)",
        str(folder),
    )


def _loaded(
    source,
    *,
    dtype=jnp.float32,
    num_classes=None,
    weights=None,
    head_init_scale=1.0,
    key=None,
    revision=None,
    step=None,
):
    contents = _read(source, weights, revision, step)
    return contents, *_model(contents, dtype, num_classes, head_init_scale, key)


def _model(contents, dtype, num_classes, head_init_scale, key):
    if num_classes is not None:
        is_count = type(num_classes) is int and num_classes >= 0
        require(is_count, "num_classes", num_classes, "an integer from 0 up, or None")
    kept = contents.num_classes if num_classes is None else num_classes
    dtype = dtype or contents.fields.get("dtype", jnp.float32)
    model = ConvNeXt(**contents.fields).clone(
        num_classes=kept or None, head_init_scale=head_init_scale, dtype=dtype
    )
    state = _fit(contents, model, jax.random.key(0) if key is None else key)
    return model, unflatten_dict({k: jnp.asarray(v) for k, v in state.items()}, sep="/")


def _labels(contents, num_classes):
    """Returns the source's labels, else ImageNet's if the number fits, else "LABEL_0", ..."""
    if not num_classes:
        return ()
    is_sliced = (contents.num_classes, num_classes) == SLICED
    if num_classes == contents.num_classes and contents.labels:
        return contents.labels
    if num_classes == contents.num_classes or is_sliced:
        names = imagenet.names(num_classes)
        if names:
            return names
    return tuple(f"LABEL_{i}" for i in range(num_classes))


def initial_params(
    source: str | os.PathLike, model: ConvNeXt, key: jax.Array, weights: str | None = None
) -> Any:
    """Returns the parameters of `source` for a given model, as numpy arrays. If the numbers of
    classes differ, the head is the one that model.init draws from `key`.

    Raises InputError as `from_pretrained` does, and if the model has another architecture.
    """
    contents = _read(source, weights)
    theirs = ConvNeXt(**contents.fields)
    differences = model_config.differences(theirs, model)
    if differences:
        listed = "; ".join(f"{name} {a}, not {b}" for name, (a, b) in differences.items())
        accepted = " ".join(f"'--config.model.{name}={a}'" for name, (a, _) in differences.items())
        if variant := model_config.variant_of(theirs):
            accepted = (
                f"--config=configs/finetune.py, which has the model of the weights, or a config of "
                f"{variant}"
            )
        raise InputError(f"{source} is not of the config's architecture: {listed}", accepted)
    return unflatten_dict(_fit(contents, model, key), sep="/")


def into(source: str | os.PathLike, params: Any) -> Any:
    """Returns these parameters, of a model that has the stem and stages of a ConvNeXt among others,
    with those of `source` in the place of theirs. A masked autoencoder gives its decoder, too.

    Raises InputError as `from_pretrained` does, and where a parameter is missing or misshapen.
    """
    contents = _read(source, None)
    flat = flatten_dict(params, sep="/")
    has_decoder = any(map(fcmae.is_of_decoder, contents.state))
    wanted = [key for key in flat if has_decoder or not fcmae.is_of_decoder(key)]
    problems = {
        "missing": sorted({*wanted} - contents.state.keys()),
        "misshapen": [
            f"{key} {np.shape(contents.state[key])} instead of {flat[key].shape}"
            for key in wanted
            if key in contents.state and np.shape(contents.state[key]) != flat[key].shape
        ],
    }
    if any(problems.values()):
        raise InputError(
            f"{contents.origin} does not fit the config's model: {formats.listed(problems)}",
            "weights of the same depths and dims",
        )
    read = {key: np.asarray(contents.state[key], np.float32) for key in wanted}
    return unflatten_dict({**flat, **read}, sep="/")


@dataclass(frozen=True)
class _Contents:
    """Contents of a source, before a model is made of them."""

    origin: str
    state: formats.State
    fields: dict[str, Any]  # keywords of ConvNeXt
    labels: tuple[str, ...] | None
    # The processor and the file that it was read from. A function, since `from_pretrained` must
    # not fail on a processor that it does not return.
    processor: Callable[[], tuple[ImageProcessor, str]]
    problem_type: str | None
    licence: str | None = None
    is_fcmae: bool = False  # the encoder of an autoencoder, without final norm and head

    @property
    def num_classes(self) -> int:
        return np.size(self.state.get("head/bias", ()))


def _to_ours(state):
    """The name of the format, and the state in our names."""
    if tensorflow.is_of(state):
        return "tensorflow", tensorflow.to_ours(state)
    return formats.to_ours(state)


def _read(source, weights, revision=None, step=None):
    source, named = run_and_name(source)
    accepted = f"None, as {source}@{named} names them"
    require(named is None or weights in (None, named), "weights", weights, accepted)
    weights = weights or named
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
        name, state = _to_ours(locate.read_tensors(file, weights))
        config = {}
        if file.name in locate.WEIGHT_FILES and (file.parent / "config.json").is_file():
            config = text.read_json(file.parent / "config.json")
        declared = model_config.read(config) if config else model_config.ModelConfig()
        architecture = _architecture(state)
        fields = {**architecture, **declared.fields}
        if name == "timm" and fields["patch_size"] != 4:  # timm dilates or drops stages then
            raise InputError(f"patch_size is {fields['patch_size']}", "4, from timm")
        # Checked here, since a model of the depths that a config.json asks for could take forever.
        accepted = f"{architecture['depths']}, as the weights have"
        is_same = fields["depths"] == architecture["depths"]
        require(is_same, "depths of config.json", fields["depths"], accepted)
    except InputError as error:
        where = "" if str(source) in str(error) else f"{source}: "
        raise InputError(f"{where}{error.problem}", error.accepted) from error
    if name in ("transformers", "tensorflow") and not config:
        fields["final_norm_eps"] = 1e-12
    contents = _Contents(
        origin=f"{source} ({name})",
        state=state,
        fields=fields,
        labels=declared.labels,
        processor=lambda: _processor(source, file, config),
        problem_type=declared.problem_type,
        licence=_licence(str(source), file),
        is_fcmae=formats.is_autoencoder(state),
    )
    if contents.labels and contents.num_classes not in (0, len(contents.labels)):
        raise InputError(
            f"{contents.origin} has names of {len(contents.labels)} classes and a head of "
            f"{contents.num_classes}",
            "a name for each class of the head",
        )
    return contents


def _licence(source, file):
    stated = locate.licence(file.parent) if file.name in locate.WEIGHT_FILES else None
    known = published.find(source)
    return stated or (known and known.licence)


def _architecture(state):
    """Returns keywords of ConvNeXt, from the shapes. `_fit` reports what a damaged file lacks."""

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
    # No shape tells the eps of the norms, and timm's xxlarge has its own.
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
    """Reads a checkpoint of a run of this project."""
    config = text.read_json(workdir / "config.json")
    task = config.get("task", "classification")
    is_known = task in ("classification", "fcmae")
    require(is_known, f"the task of {workdir}", task, "classification or fcmae")
    if task == "fcmae":
        return _read_autoencoder(workdir, config, weights, step)
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config["model"].items()}
        model_config.check(fields)
        decays, problem_type = config["ema_decays"], config.get("problem_type")
        class_names = tuple(json.loads((workdir / "classes.json").read_text(encoding="utf-8")))
        ok = all(isinstance(name, str) for name in class_names)
        require(ok, "classes.json", class_names, "names of classes")
        processor = processor_of_run(config)
        num_classes = len(class_names)
        if problem_type == losses.REGRESSION:
            class_names, num_classes = None, fields["num_classes"] or 1
        model = ConvNeXt(**fields).clone(num_classes=num_classes)
    except (AttributeError, OSError, KeyError, TypeError, ValueError) as error:
        needed = "checkpoints, config.json and classes.json"
        raise _no_whole_run(workdir, error, needed) from error
    best = metrics.best_score(problem_type)
    found = chosen.find(workdir, weights, ema_decays=decays, best=best, step=step)
    return _Contents(
        origin=f"the run {workdir} {found}",
        state=_restored(workdir, found, abstract_params(model)),
        fields=fields,
        labels=class_names,
        processor=lambda: (processor, str(workdir / "config.json")),
        problem_type=problem_type,
        licence=config.get("licence"),
    )


def _no_whole_run(workdir, error, needed):
    problem = f"{workdir} is no whole run: {type(error).__name__} {error}"
    return InputError(problem, f"the workdir of a run, with {needed}")


def _restored(workdir, found, params):
    """The parameters of a checkpoint, of these shapes."""
    variables = checkpoint.restore_variables(
        workdir,
        found.step,
        {"params": params},
        sharding.replicated(sharding.make_mesh()),  # of all processes
        ema_decay=found.ema_decay,
    )
    return flatten_dict(jax.device_get(variables["params"]), sep="/")


def _read_autoencoder(workdir, config, weights, step):
    """Reads a checkpoint of a run of masked pre-training."""
    try:
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in config["model"].items()}
        model_config.check(fields)
        model, decays = FCMAE(**fields), config["ema_decays"]
        model.check()
        processor = processor_of_run(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_whole_run(workdir, error, "checkpoints and config.json") from error
    found = chosen.find(workdir, weights, ema_decays=decays, best="-loss", step=step)
    state = _restored(workdir, found, fcmae.abstract_params(model))
    known = {field.name for field in dataclasses.fields(ConvNeXt)}
    return _Contents(
        origin=f"the run {workdir} {found}",
        state=state,
        fields={name: value for name, value in fields.items() if name in known},
        labels=None,
        processor=lambda: (processor, str(workdir / "config.json")),
        problem_type=None,
        is_fcmae=True,
    )


def run_and_name(source: str | os.PathLike) -> tuple[str | os.PathLike, str | None]:
    """Splits RUN@NAME into the workdir of a run and the name of its weights. A source that is
    there, or is no run with a name, stays as it is, without a name."""
    run, _, name = str(source).rpartition("@")
    is_there = not run or os.path.exists(source)
    is_run = not is_there and (Path(run).expanduser() / "checkpoints").is_dir()
    return (run, name) if is_run else (source, None)


def default_weights(source: str | os.PathLike) -> str | None:
    """The weights that a tool takes where none are named: "best" of a run that was evaluated, None
    of anything else."""
    workdir = Path(source).expanduser()
    is_scored = (workdir / "checkpoints").is_dir() and any(checkpoint.scores(workdir).values())
    return "best" if is_scored else None


def processor_of_run(config: Mapping[str, Any]) -> ImageProcessor:
    """Returns the preparation of images that a run has by its config."""
    return ImageProcessor(
        size=config["image_size"],
        image_mean=config["normalize"]["mean"],
        image_std=config["normalize"]["std"],
        **config["preprocess"],
    )


def _fit(contents, model, key):
    """Returns the model's flat parameters, each from its counterpart in the source. A new head, and
    the final norm that an autoencoder lacks, are drawn from the key."""
    state, wanted = _encoder(contents.state), model.num_classes or 0
    new_head = contents.num_classes != wanted
    if (contents.num_classes, wanted) == SLICED:
        rows, new_head = imagenet.rows_of_1k_in_22k(), False
        state["head/kernel"] = state["head/kernel"][:, rows]
        state["head/bias"] = state["head/bias"][rows]
    if new_head:
        state = {key: value for key, value in state.items() if not key.startswith("head/")}
    try:
        abstract = flatten_dict(abstract_params(model), sep="/")
    except Exception as error:  # of Flax or jax: a size of 0, or one above 2**63
        raise InputError(
            f"{contents.origin} makes no model: {error}", "sizes of which one can be made"
        ) from error
    drawn = [
        key
        for key in abstract.keys() - state.keys()
        if (new_head and key.startswith("head/")) or (contents.is_fcmae and key.startswith("norm/"))
    ]
    problems = {
        "missing": sorted(abstract.keys() - state.keys() - {*drawn}),
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
            f"{contents.origin} does not fit a model of depths {tuple(model.depths)}, dims "
            f"{tuple(model.dims)}: {formats.listed(problems)}",
            "all of its parameters, and no others",
        )
    state.update(_fresh(model, key, drawn))
    return {key: np.asarray(value, np.float32) for key, value in state.items()}


def _encoder(state):
    """What is not of the decoder of an autoencoder."""
    return {key: value for key, value in state.items() if not fcmae.is_of_decoder(key)}


def _fresh(model, key, names):
    """Returns these initial parameters, without computing the others."""

    def init(key):
        params = flatten_dict(model.init(key, smallest_image(model))["params"], sep="/")
        return {name: params[name] for name in names}

    return jax.device_get(jax.jit(init)(key)) if names else {}
