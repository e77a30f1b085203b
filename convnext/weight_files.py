"""From the name of a source to a state dict: the Hugging Face Hub, safetensors, torch.save."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from convnext import torch_files
from convnext.errors import InputError

# In a folder or repository, the first of these that is there.
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def locate(source: str | os.PathLike, revision: str | None = None) -> Path:
    """A local file or folder, after a download where source is the id of a Hugging Face repository.

    The library's cache, token and offline mode are used (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE).
    Raises InputError where there is nothing, or it cannot be reached.
    """
    path = Path(source)
    if path.exists():
        return path
    is_id = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source))
    if not is_id or path.suffix in (".safetensors", ".pth", ".pt", ".bin"):
        raise InputError(
            f"no file or folder {source}; accepted: a file of weights, a folder with one, the "
            "workdir of a run, or a Hugging Face id such as facebook/convnext-tiny-224"
        )
    import huggingface_hub
    from huggingface_hub import errors

    folder = None
    for name in ("config.json", "preprocessor_config.json", *WEIGHT_FILES):
        try:
            folder = Path(huggingface_hub.hf_hub_download(source, name, revision=revision)).parent
        except errors.LocalEntryNotFoundError as error:  # neither in the cache nor reachable
            unreachable = error
            continue
        except (errors.EntryNotFoundError, errors.HFValidationError):
            continue
        except (errors.HfHubHTTPError, OSError) as error:
            raise InputError(f"cannot download {source}: {error}") from error
        if name in WEIGHT_FILES:
            if name.endswith(".index.json"):
                for shard in _shards(folder / name):
                    huggingface_hub.hf_hub_download(source, shard, revision=revision)
            return folder
    if folder is None:
        raise InputError(
            f"cannot reach {source} on the Hugging Face Hub, and it is not in the cache; accepted: "
            f"an id that is cached or reachable, or a local file"
        ) from unreachable
    raise InputError(f"{source} has no weights; accepted: one of {', '.join(WEIGHT_FILES)}")


def read_tensors(path: Path, weights: str | None = None) -> dict[str, np.ndarray]:
    """The state dict in a file; of an official training checkpoint its average, where there is one
    and weights is not "raw". Raises InputError where it cannot be read."""
    if path.name.endswith(".index.json"):
        state = {}
        for shard in _shards(path):
            state.update(read_tensors(path.parent / shard, None))
        return state
    if path.suffix == ".safetensors":
        try:
            return safetensors.numpy.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise InputError(f"cannot read the safetensors file {path.name}: {error}") from error
    return _unwrap(torch_files.read(path), weights)


def _shards(index):
    return sorted(set(read_json(index).get("weight_map", {}).values()))


def _unwrap(stored, weights):
    """The state dict: what torch.save stored, or under a key of the official scripts."""
    has_ema = isinstance(stored, Mapping) and "model_ema" in stored
    if weights == "ema" and not has_ema:
        raise InputError("weights is 'ema', but there is no model_ema; accepted: 'raw'")
    names = ("model", "state_dict", "module")
    if has_ema and weights != "raw":
        names = ("model_ema",)
    for name in names:
        if isinstance(stored, Mapping) and isinstance(stored.get(name), Mapping):
            stored = stored[name]
            break
    if not isinstance(stored, Mapping):
        raise InputError(f"a {type(stored).__name__} is stored; accepted: a dict of tensors")
    others = [str(key) for key, value in stored.items() if not isinstance(value, np.ndarray)]
    if others:
        raise InputError(f"{', '.join(others[:4])} are no tensors; accepted: a dict of tensors")
    return dict(stored)


def read_json(path: Path) -> dict:
    """Raises InputError where the file holds no JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no object; accepted: a JSON object")
    return value
