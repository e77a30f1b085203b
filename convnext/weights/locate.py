"""Finds and reads a state dict: from the Hugging Face Hub, safetensors or torch.save."""

import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from convnext.errors import InputError, require
from convnext.files import text, torch_save
from convnext.weights import published

# Files of weights. Of those in a folder or repository, the first in this order is read.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
CARD = "README.md"  # of a repository; its first lines state the licence
# Keys of a training checkpoint that hold the EMA and the raw weights: official scripts, timm's.
EMA_KEYS = ("model_ema", "state_dict_ema")
RAW_KEYS = ("model", "state_dict", "module")
TIMEOUT = 10  # seconds until the Hub counts as out of reach
MAX_TENSORS = 10_000  # every key is matched against the whole table; the largest model has 500


def locate(source: str | os.PathLike, revision: str | None = None) -> Path:
    """Returns a local file or folder, and downloads it first if source is the id of a Hugging Face
    repository, or a name or an address that stands for one (published.find).

    Uses the cache, token and offline mode of huggingface_hub (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE).
    Raises InputError if there is nothing, or if it cannot be reached.
    """
    path = Path(source).expanduser()
    # os.path.exists returns False where Path.exists raises OSError: for a name too long for a file.
    if os.path.exists(path):
        return path
    with _reported(source):
        return _download(_repository(source), revision)


def beside(source: str | os.PathLike, name: str, revision: str | None = None) -> Path | None:
    """Returns a file that lies beside weights, in a folder or a Hugging Face repository, of which
    only this file is downloaded; None where the source is a folder or file without one.

    Raises InputError as `locate` does, and where the repository has no such file.
    """
    import huggingface_hub as hub

    path = Path(source).expanduser()
    if os.path.exists(path):
        file = (path if path.is_dir() else path.parent) / name
        return file if file.is_file() else None
    with _reported(source):
        return Path(hub.hf_hub_download(_repository(source), name, revision=revision))


def _repository(source):
    """The id that is meant by an id, a name or an address. Raises InputError."""
    path = Path(source)
    if known := published.find(str(source)):
        source = known.id
        path = Path(source)
    elif re.match("https?://", str(source)):
        accepted = "the file once it is here, or what python -m tools.variants --weights lists"
        raise InputError(f"no weights are known at {str(source)[:200]}", accepted)
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source))
    if not is_id or path.suffix in SUFFIXES or path.parent.is_dir():
        raise InputError(
            f"no file or folder {str(source)[:200]}",
            "a file of weights, a folder with one, the workdir of a run, or a Hugging Face id such "
            "as facebook/convnext-tiny-224",
        )
    return str(source)


@contextmanager
def _reported(source):
    """Makes an InputError of what huggingface_hub raises."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # from whichever library huggingface_hub calls
        reason = " ".join(str(error).split())
        raise InputError(f"cannot download {source}: {reason}", "an id within reach") from error


def _download(repository, revision):
    """Returns the folder in the cache with the repository's configs and weights."""
    import huggingface_hub as hub

    try:
        # list_repo_files would try six times, which takes half a minute.
        info = hub.model_info(repository, revision=revision, timeout=TIMEOUT)
        names = [file.rfilename for file in info.siblings or ()]
    except hub.errors.HfHubHTTPError:  # the Hub has answered
        raise
    except Exception:  # no network, or HF_HUB_OFFLINE: only the cache is left
        names = None

    def is_there(name):
        if names is not None:
            return name in names
        return isinstance(hub.try_to_load_from_cache(repository, name, revision=revision), str)

    def fetch(name):
        local = names is None
        return hub.hf_hub_download(repository, name, revision=revision, local_files_only=local)

    weights = next(filter(is_there, WEIGHT_FILES), None)
    if weights is None:
        if names is not None:
            accepted = f"one of {', '.join(WEIGHT_FILES)}"
            raise InputError(f"{repository} has no weights", accepted)
        raise InputError(
            f"cannot reach {repository} on the Hugging Face Hub, and its weights are not in the "
            "cache",
            "an id within reach or in the cache, or a local file",
        )
    for name in filter(is_there, ("config.json", "preprocessor_config.json", CARD)):
        fetch(name)
    path = Path(fetch(weights))
    if weights.endswith(".index.json"):
        for shard in _shards(path):
            fetch(shard)
    return path.parent


def licence(folder: Path) -> str | None:
    """Returns the licence that the model card in a folder states, such as "apache-2.0"."""
    import huggingface_hub as hub

    try:
        stated = (hub.metadata_load(folder / CARD) or {}).get("license")
    except Exception:  # no card, or one whose first lines are no YAML
        return None
    return stated if isinstance(stated, str) else None


def read_tensors(path: Path, weights: str | None = None) -> dict[str, np.ndarray]:
    """Reads the state dict in a file. From an official training checkpoint it takes the EMA, unless
    there is none or weights is "raw". Raises InputError if the file cannot be read."""
    if path.name.endswith(".index.json"):
        state = {}
        for shard in _shards(path):
            state.update(read_tensors(path.parent / shard, weights))
        return state
    state = _read_tensors(path, weights)
    require(len(state) <= MAX_TENSORS, f"the number of tensors in {path}", len(state), MAX_TENSORS)
    return state


def _read_tensors(path, weights):
    if path.suffix in (".h5", ".keras"):
        accepted = "safetensors, which transformers' TensorFlow models save, or PyTorch's formats"
        raise InputError(f"{path} is a file of Keras or TensorFlow", accepted)
    if path.suffix != ".safetensors":
        state = unwrap(torch_save.read(path), weights)
        # A small file may hold any number of tensors that are views of one storage.
        size, limit = sum(array.nbytes for array in state.values()), path.stat().st_size
        require(size <= limit, f"the size of the tensors in {path}", size, f"its own, {limit}")
        return state
    if weights == "ema":
        raise InputError("weights is 'ema', but a safetensors file has one set", "'raw'")
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # of safetensors, the file system, or a dtype that numpy lacks
        raise InputError(
            f"cannot read the safetensors file {path}: {error}", "a whole one, of numbers"
        ) from error


def _shards(index):
    files = text.read_json(index).get("weight_map")
    ok = isinstance(files, dict) and all(map(_is_shard, files.values()))
    require(ok, f"weight_map of {index.name}", files, "an object of names of files beside it")
    return sorted(set(files.values()))


def _is_shard(name):
    return isinstance(name, str) and name == Path(name).name and name.endswith(SUFFIXES)


def unwrap(stored: Any, weights: str | None = None) -> dict[str, np.ndarray]:
    """Returns the state dict in what torch.save stored: the whole, or what a training script put
    under one of its keys (see `read_tensors`). Raises InputError if there is none."""
    within = stored if isinstance(stored, Mapping) else {}

    def first_state(keys):
        states = (within.get(key) for key in keys)
        return next((state for state in states if isinstance(state, Mapping)), None)

    ema = first_state(EMA_KEYS)
    if weights == "ema" and ema is None:
        raise InputError(f"weights is 'ema', but there is no {' or '.join(EMA_KEYS)}", "'raw'")
    state = ema if weights != "raw" else None
    state = first_state(RAW_KEYS) if state is None else state
    state = stored if state is None else state
    if not isinstance(state, Mapping):
        raise InputError(f"a {type(state).__name__} is stored", "a dict of tensors")
    strange = next((type(key).__name__ for key in state if not isinstance(key, str)), None)
    require(strange is None, "the type of a key of the state", strange, "str")
    others = [key for key, value in state.items() if not isinstance(value, np.ndarray)]
    if others:
        raise InputError(f"{', '.join(others[:4])} are no tensors", "a dict of tensors")
    return dict(state)
