"""Damaged weights and configs; what is accepted of them must be what other readers find there."""

import io
import json
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict

from convnext import ConvNeXt, ImageProcessor
from convnext.errors import InputError
from convnext.models.convnext import abstract_params
from convnext.weights import formats, model_config, pretrained
from dev.fuzzing import mutate

FILES = ("weights.pth", "model.safetensors", "config.json", "preprocessor_config.json")
PREFIX = "convnext."  # of transformers' keys


@cache
def originals() -> list[tuple[str, dict[str, np.ndarray], bytes, bytes]]:
    """A small model in two formats: its name, state, config.json and preprocessor_config.json."""
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(2, 2, 3, 4), num_classes=3)
    rng = np.random.default_rng(0)
    shapes = flatten_dict(abstract_params(model), sep="/")
    params = {key: rng.normal(size=x.shape).astype(np.float32) for key, x in shapes.items()}
    processor = ImageProcessor(size=32)
    configs = {
        "transformers": model_config.transformers_config(model, "abc", 32),
        "timm": model_config.timm_config(model, "abc", processor),
    }
    return [
        (
            name,
            formats.from_ours(params, name, prefix=PREFIX if name == "transformers" else ""),
            json.dumps(config).encode(),
            json.dumps(processor.to_config()).encode(),
        )
        for name, config in configs.items()
    ]


def make(rng: np.random.Generator) -> dict[str, bytes]:
    """The files of a folder, one of which is damaged: in its bytes, or in what they hold."""
    _, state, config, processor = mutate.one_of(originals(), rng)
    state = {key: np.ascontiguousarray(array) for key, array in state.items()}
    victim = mutate.one_of(FILES, rng)
    is_outside = rng.random() < 0.5  # or within the format, which is then whole
    if victim == "weights.pth":
        pickled, storages = _pickled(state)
        if not is_outside:
            pickled, storages = _damaged_within(pickled, storages, rng)
        data = _zipped(pickled, storages)
        return {victim: mutate.damaged(data, pickled, rng) if is_outside else data}
    files = {
        "model.safetensors": safetensors.numpy.save(state),
        "config.json": config,
        "preprocessor_config.json": processor,
    }
    data = files[victim]
    if is_outside:
        files[victim] = mutate.damaged(data, config, rng)
    elif victim == "model.safetensors":
        length = 8 + int.from_bytes(data[:8], "little")
        header = mutate.damaged_json(data[8:length], rng)
        files[victim] = mutate.headed(header) + data[length:]
    else:
        files[victim] = mutate.damaged_json(data, rng)
    return files


def _damaged_within(pickled, storages, rng):
    if rng.random() < 0.7:
        return mutate.damaged(pickled, pickled, rng), storages
    key = mutate.one_of(sorted(storages), rng)
    return pickled, storages | {key: mutate.damaged(storages[key], pickled, rng)}


# What torch.save writes, without torch.


class _Storage:
    def __init__(self, key, size):
        self.key, self.size = key, size


class _Global:
    """Pickled as a name, called with the arguments if there are any."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments


class _Pickler(pickle._Pickler):
    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return "storage", _Global("torch\nFloatStorage"), value.key, "cpu", value.size
        return None

    def save_global_name(self, value):
        self.write(pickle.GLOBAL + f"{value.name}\n".encode())
        if value.arguments:
            self.save(value.arguments)
            self.write(pickle.REDUCE)

    dispatch = {**pickle._Pickler.dispatch, _Global: save_global_name}


def _pickled(state):
    tensors, storages = OrderedDict(), {}
    for number, (name, array) in enumerate(state.items()):
        storages[str(number)] = array.tobytes()
        strides = tuple(step // array.itemsize for step in array.strides)
        tensors[name] = _Global(
            "torch._utils\n_rebuild_tensor_v2",
            _Storage(str(number), array.size),
            0,
            array.shape,
            strides,
            False,
            OrderedDict(),
        )
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump({"model": tensors, "epoch": 3})
    return stream.getvalue(), storages


def _zipped(pickled, storages):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return stream.getvalue()


# What is tried, and what it must be.


def readings(folder: Path) -> list[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Of each way to read a folder: what is to be tried, and what it must be if it is accepted."""
    source = folder / "weights.pth" if (folder / "weights.pth").exists() else folder
    pairs = [(lambda: _loaded(source), lambda: _plain_state(source))]
    if source == folder:
        pairs.append((lambda: _processed(folder), lambda: _plain_processor(folder)))
    return pairs


def _loaded(source):
    """{key, as in the file: shapeless numbers as bytes}."""
    found = pretrained.load(source)
    flat = flatten_dict(found.params, sep="/")
    is_timm = any(key.startswith("stem.") for key in _plain_tensors(source))
    state = formats.from_ours({k: np.asarray(v) for k, v in flat.items()}, _FORMAT[is_timm])
    return {key: np.ravel(array).tobytes() for key, array in state.items()}


_FORMAT = {True: "timm", False: "transformers"}


def _plain_state(source):
    return {
        key.removeprefix("module.").removeprefix(PREFIX): np.ravel(array.astype("<f4")).tobytes()
        for key, array in _plain_tensors(source).items()
    }


def _plain_tensors(source):
    if source.is_dir():
        return safetensors.numpy.load((source / "model.safetensors").read_bytes())
    with zipfile.ZipFile(source) as archive:
        names = {name.rpartition("archive/")[2]: name for name in archive.namelist()}
        stored = _PlainUnpickler(archive, names).load()
    return next((stored[key] for key in ("model", "module") if key in stored), stored)


class _PlainUnpickler(pickle._Unpickler):
    """Number by number, and of a few names."""

    def __init__(self, archive, names):
        super().__init__(io.BytesIO(archive.read(names["data.pkl"])))
        self.archive, self.names = archive, names

    def find_class(self, module, name):
        known = dict(
            _rebuild_tensor_v2=_plain_tensor,
            OrderedDict=OrderedDict,
            FloatStorage="<f4",
            HalfStorage="<f2",
            DoubleStorage="<f8",
        )
        return known[name]

    def persistent_load(self, reference):
        _, dtype, key, *_ = reference
        return np.frombuffer(self.archive.read(self.names[f"data/{key}"]), dtype)


def _plain_tensor(storage, offset, size, stride, *_):
    flat = [
        storage[offset + sum(i * step for i, step in zip(place, stride, strict=True))]
        for place in np.ndindex(*size)
    ]
    return np.array(flat, storage.dtype).reshape(size)


SETTINGS = (
    "image_mean", "image_std", "rescale_factor", "do_resize", "do_rescale", "do_normalize",
    "crop_pct", "resample",
)  # fmt: skip


def _processed(folder):
    """The settings that the file has, and that an image can be prepared with them."""
    processor = ImageProcessor.from_pretrained(folder / "preprocessor_config.json")
    if processor.size <= 512:
        shape = processor.preprocess(np.zeros((8, 8, 3), np.uint8), do_resize=True).shape
        if shape != (1, processor.size, processor.size, 3):
            raise ValueError(f"an image of {shape} from a processor of size {processor.size}")
    given = json.loads((folder / "preprocessor_config.json").read_bytes())
    values = [getattr(processor, name) for name in SETTINGS if given.get(name) is not None]
    return [processor.size, *(list(x) if isinstance(x, tuple) else x for x in values)]


def _plain_processor(folder):
    given = json.loads((folder / "preprocessor_config.json").read_bytes())
    size = given.get("size")
    if size is None:  # transformers' own
        size = 384 if "ConvNext" in given.get("image_processor_type", "ConvNext") else 224
    if isinstance(size, dict):
        size = size["shortest_edge"] if "shortest_edge" in size else size["height"]
    values = [given[name] for name in SETTINGS if given.get(name) is not None]
    if any(isinstance(x, float) and math.isnan(x) for x in values):
        raise InputError("a number that is none", "numbers")
    return [size, *values]
