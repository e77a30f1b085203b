"""Writes weights for other projects. pretrained.py reads them."""

import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict

from convnext.data import imagenet
from convnext.errors import InputError, require
from convnext.files import text
from convnext.images.processor import ImageProcessor
from convnext.models.convnext import ConvNeXt, abstract_params
from convnext.training import losses
from convnext.weights import formats, keras, model_config, tensorflow

EXPORT_FORMATS = ("transformers", "timm", "official", "torchvision", "tensorflow", "keras")
OF_TRANSFORMERS = ("transformers", "tensorflow")  # whose config.json and processor they have
OTHERS = {"tensorflow": tensorflow, "keras": keras}  # whose names are not of PyTorch


def save_pretrained(
    folder: str | os.PathLike,
    model: ConvNeXt,
    params: Any,
    *,
    format: str = "transformers",  # noqa: A002
    labels: Sequence[str] | None = None,
    processor: ImageProcessor | None = None,
    problem_type: str | None = None,
) -> None:
    """Writes model.safetensors, config.json and preprocessor_config.json.

    format "transformers" is for AutoModelForImageClassification.from_pretrained(folder) and
    pipeline("image-classification"). "tensorflow" is for TFConvNextModel,
    TFConvNextForImageClassification and their V2 of transformers 4.x. "timm" is for
    timm.create_model(`"local-dir:<folder>"`, pretrained=True). "official" has the keys of
    facebookresearch/ConvNeXt and ConvNeXt-V2, and if torch is installed also a model.pth for their
    scripts. "torchvision" is for load_state_dict. "keras" writes no safetensors, but a
    model.weights.h5 for ConvNeXt of keras.applications, which needs h5py.
    labels: of the classes. None: ImageNet's, if the number fits.
    processor: how images are prepared. None: ImageProcessor(). In the format of transformers crop
    offsets are rounded down, as transformers does.

    The numbers are written as they are. Raises InputError, before it writes, if the format cannot
    hold the model, or if params or labels are not the model's.
    """
    if format not in EXPORT_FORMATS:
        raise InputError(f"format is {format!r}", ", ".join(EXPORT_FORMATS))
    accepted = (None, *losses.PROBLEM_TYPES)
    require(problem_type in accepted, "problem_type", problem_type, accepted)
    name = "isotropic" if format == "official" and not model.stem_norm else format
    # Whose models, if not whose names, they have.
    name = {"tensorflow": "transformers", "keras": "torchvision"}.get(format, name)
    if reason := formats.unsupported(model, name):
        raise InputError(f"the format {format} has no models with {reason}", "another format")
    processor = ImageProcessor() if processor is None else processor
    if format in OF_TRANSFORMERS:  # which knows no other
        processor = dataclasses.replace(processor, crop_rounding="floor")
    names = _checked_labels(labels, model)
    prefix = ""
    if format == "transformers" and model.num_classes:
        prefix = "convnextv2." if model.use_grn else "convnext."
    state = _checked_params(params, model)
    if format in OTHERS:
        state = OTHERS[format].from_ours(state)
    else:
        is_conv = format == "timm" and model_config.variant_of(model) in model_config.CONV_MLP
        state = formats.from_ours(state, name, prefix=prefix, conv_mlp=is_conv)
    state = {key: np.ascontiguousarray(array) for key, array in state.items()}
    if format in OF_TRANSFORMERS:
        config = model_config.transformers_config(model, names, processor.size, problem_type)
    else:
        config = model_config.timm_config(model, names, processor, problem_type)
    texts = {} if format == "keras" else {"config.json": config}
    try:
        texts["preprocessor_config.json"] = processor.to_config()
    except InputError:  # a crop that transformers lacks; timm's config.json has it, too
        if format in OF_TRANSFORMERS:
            raise
    try:
        _write(Path(folder), state, texts, format)
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write to {folder}: {reason}", "another folder") from error


def upload(folder: str | os.PathLike, repository: str, *, private: bool | None = None) -> str:
    """Uploads a folder to USER/NAME of the Hugging Face Hub, which is made if need be, with the
    token of the Hub's own login; its address. Raises InputError for what the Hub refuses, first of
    all the model card, if there is one."""
    import huggingface_hub as hub

    api, card = hub.HfApi(), Path(folder) / "README.md"
    try:
        if card.is_file():
            hub.ModelCard.load(card).validate()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload by convnext-jax"
        )
    except Exception as error:  # of the network, the login, or what the Hub answers
        reason = " ".join(str(error).split())
        raise InputError(
            f"cannot push to {repository}: {reason}", "a repository of yours, after hf auth login"
        ) from error
    return f"https://huggingface.co/{repository}"


def _checked_labels(names, model):
    count = model.num_classes or 0
    if names is None:
        return imagenet.names(count)
    if len(names) != count:
        raise InputError(f"{len(names)} labels for {count} classes", "one label for each class")
    return tuple(map(str, names))


def _checked_params(params, model):
    state = flatten_dict(jax.device_get(params), sep="/")
    shapes = {key: np.shape(value) for key, value in state.items()}
    expected = {k: v.shape for k, v in flatten_dict(abstract_params(model), sep="/").items()}
    if shapes != expected:
        wrong = [key for key in sorted(shapes | expected) if shapes.get(key) != expected.get(key)]
        raise InputError(
            f"params are not the model's: {formats.listed({'differing': wrong})}",
            "what model.init makes",
        )
    return {key: np.asarray(value, np.float32) for key, value in state.items()}


def _write(folder, state, texts, format):  # noqa: A002
    """Writes all files or none, and removes those of an earlier export that this one lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        scratch = Path(scratch)
        for name, value in texts.items():
            (scratch / name).write_text(text.of_json(value), encoding="utf-8")
        if format == "keras":
            keras.write(scratch / "model.weights.h5", state)
        else:
            # transformers asks for it: which of its frameworks has these names.
            framework = "tf" if format == "tensorflow" else "pt"
            tensors = scratch / "model.safetensors"
            safetensors.numpy.save_file(state, tensors, {"format": framework})
            tensors.chmod((scratch / "config.json").stat().st_mode)  # save_file's is 600
        if format == "official" and importlib.util.find_spec("torch"):
            import torch

            tensors = {key: torch.tensor(value) for key, value in state.items()}
            torch.save({"model": tensors}, scratch / "model.pth")
        for name in ("preprocessor_config.json", "model.pth"):
            (folder / name).unlink(missing_ok=True)
        for path in scratch.iterdir():
            path.replace(folder / path.name)
