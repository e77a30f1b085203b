"""Weights in and out: our logits and gradients beside those of the project they belong to.

Random weights exercise every parameter; those that training has to wake up (gamma, GRN) are awake.
PyTorch computes in float64, we in float32. Projects that cannot be installed are in oracles.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict
from timm.models import _hub as timm_hub

import convnext
from convnext.models.convnext import abstract_params
from convnext.weights import formats, model_config
from tests.parity import oracles

DEPTHS, DIMS, NUM_CLASSES = (1, 1, 2, 1), (8, 16, 24, 40), 5
SMALL = dict(depths=DEPTHS, dims=DIMS, num_classes=NUM_CLASSES)
SIZES = {"45x70 px": (45, 70), "131x97 px": (131, 97)}
LOGITS, GRADIENTS = 1e-5, 1e-4  # what the errors may be


def official(use_grn=False):
    return oracles.OfficialConvNeXt(DEPTHS, DIMS, NUM_CLASSES, use_grn)


def isotropic(layer_scale):
    return oracles.IsotropicConvNeXt(3, 24, NUM_CLASSES, layer_scale)


def timm_model(name, **options):
    return timm.create_model(name, **SMALL, **options)


def transformers_model(name, **options):
    config = getattr(transformers, f"{name}Config")(
        depths=list(DEPTHS), hidden_sizes=list(DIMS), num_labels=NUM_CLASSES, **options
    )
    kind = "Model" if name.startswith("DINO") else "ForImageClassification"
    return getattr(transformers, name + kind)(config)


def torchvision_model():
    setting = torchvision.models.convnext.CNBlockConfig
    outputs = [*DIMS[1:], None]
    stages = [setting(*stage) for stage in zip(DIMS, outputs, DEPTHS, strict=True)]
    return torchvision.models.ConvNeXt(stages, num_classes=NUM_CLASSES)


FAMILIES = {
    "official V1": official,
    "official V2": lambda: official(use_grn=True),
    "official FCMAE": lambda: official(use_grn=True),
    "isotropic": lambda: isotropic(layer_scale=False),
    "isotropic, LayerScale": lambda: isotropic(layer_scale=True),
    "timm V1": lambda: timm_model("convnext_tiny"),
    "timm V1, 1x1 convolutions": lambda: timm_model("convnext_atto"),
    "timm V1, tiny_hnf": lambda: timm_model("convnext_tiny_hnf"),
    "timm V1, large_mlp": lambda: timm_model("convnext_large_mlp", head_hidden_size=48),
    "timm V1, xxlarge": lambda: timm_model("convnext_xxlarge"),
    "timm V2": lambda: timm_model("convnextv2_tiny"),
    "timm V2, 1x1 convolutions": lambda: timm_model("convnextv2_atto"),
    "transformers V1": lambda: transformers_model("ConvNext"),
    "transformers V2": lambda: transformers_model("ConvNextV2"),
    "transformers DINOv3": lambda: transformers_model("DINOv3ConvNext"),
    "torchvision": torchvision_model,
}


def publish(family, model, folder):
    """Writes the model as its project does; returns what from_pretrained takes."""
    if family == "official FCMAE":
        torch.save(oracles.fcmae_checkpoint(model), folder / "fcmae.pt")
        return folder / "fcmae.pt"
    if family.startswith("official"):
        torch.save({"model": model.state_dict()}, folder / "official.pth")
        return folder / "official.pth"
    if family.startswith("isotropic"):
        torch.save({"model": model.state_dict()}, folder / "isotropic.pth")
        return folder / "isotropic.pth"
    if family.startswith("timm"):
        timm_hub.save_for_hf(model, folder, safe_serialization=True)
        return folder
    if family.startswith("transformers"):
        model.save_pretrained(folder)
        return folder
    safetensors.torch.save_file(model.state_dict(), folder / "torchvision.safetensors")
    return folder / "torchvision.safetensors"


def outputs(family, model, images):
    """What the project's model makes of images [N, 3, H, W]: logits, or features without a head."""
    if family == "official FCMAE":
        return model.features(images)[0][-1].mean((2, 3))
    if family.startswith("transformers"):
        result = model(images)
        return result.pooler_output if "DINO" in family else result.logits
    return model(images)


def images_of(size):
    return np.random.default_rng(size).normal(size=(2, *size, 3)).astype(np.float32)


def relative_error(ours, reference):
    reference = np.asarray(reference, np.float64)
    return np.abs(np.asarray(ours, np.float64) - reference).max() / np.abs(reference).max()


def compare(family, direction, record, theirs, forward, params, used):
    """Logits at both sizes, and at the first the gradients of a random projection of them by the
    images and by each parameter.

    forward(params, images [N, H, W, 3]) is our model; `used` are those of our keys that their model
    has. Fails where an error is too large, after recording it.
    """
    theirs = theirs.double().eval()
    column, *others = SIZES
    errors = {}
    for name in others:
        images = images_of(SIZES[name])
        with torch.no_grad():
            reference = outputs(family, theirs, to_torch(images))
        errors[name] = relative_error(jax.jit(forward)(params, images), reference)

    images = images_of(SIZES[column])
    pixels = to_torch(images).requires_grad_()
    reference = outputs(family, theirs, pixels)
    weights = np.random.default_rng(1).normal(size=reference.shape).astype(np.float32)
    (reference * torch.from_numpy(weights)).sum().backward()

    def loss(params, images):
        logits = forward(params, images)
        return (logits * weights).sum(), logits

    gradients, logits = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, images)
    errors[column] = relative_error(logits, reference.detach())

    _, expected = formats.to_ours(
        {key: p.grad.numpy() for key, p in theirs.named_parameters() if p.grad is not None}
    )
    assert expected.keys() == used
    ours = flatten_dict(gradients[0], sep="/")
    ours["image"], expected["image"] = gradients[1], pixels.grad.permute(0, 2, 3, 1)
    gradient_error = max(relative_error(ours[key], expected[key]) for key in expected)

    for name in SIZES:
        record(family, direction, name, errors[name])
    record(family, direction, "gradients", gradient_error)
    assert max(errors.values()) < LOGITS
    assert gradient_error < GRADIENTS


def to_torch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).double()


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_in(family, tmp_path, record):
    theirs = FAMILIES[family]()
    oracles.randomise(theirs, seed=0)
    model, params = convnext.from_pretrained(publish(family, theirs, tmp_path))
    used = set(flatten_dict(params, sep="/"))
    if family == "official FCMAE":
        used -= {"norm/scale", "norm/bias"}

    def forward(params, images):
        if family != "official FCMAE":
            return model.apply({"params": params}, images)
        features = model.apply({"params": params}, images, method="features")
        return features["last_hidden_state"].mean((1, 2))

    compare(family, "in", record, theirs, forward, params, used)


def random_params(model, seed, faint=False):
    """Parameters of which each matters. Faint ones shrink what enters each norm to a thousandth, so
    that its eps shows."""
    rng = np.random.default_rng(seed)
    state = {}
    for key, leaf in flatten_dict(abstract_params(model), sep="/").items():
        mean, std = 0.0, 0.3
        if key.endswith("/kernel"):
            std = np.prod(leaf.shape[:-1]) ** -0.5
        elif key.endswith("/scale"):
            mean = 1.0
        elif key.endswith("/gamma") and "/grn/" not in key:
            mean = 0.5
        value = mean + std * rng.normal(size=leaf.shape)
        if faint and key.split("/")[-2].endswith(("_conv", "pwconv2")):
            value *= 1e-3
        if faint and key.endswith("dwconv/bias"):
            value *= 1e-3
        state[key] = value.astype(np.float32)
    return unflatten_dict(state, sep="/")


def load_timm(folder):
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


def load_transformers(folder):
    return transformers.AutoModelForImageClassification.from_pretrained(folder)


def load_official(folder, model):
    model.load_state_dict(torch.load(folder / "model.pth", weights_only=True)["model"])
    again = safetensors.torch.load_file(folder / "model.safetensors")
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    return model


def load_torchvision(folder):
    model = torchvision_model()
    model.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    return model


V1 = dict(SMALL)
V2 = dict(SMALL, use_grn=True, layer_scale_init_value=None)
ISOTROPIC = dict(depths=(3,), dims=(24,), num_classes=5, patch_size=16, stem_norm=False)
HIDDEN = dict(V1, head_hidden_size=48)
EXPORTS = {
    "official V1": (V1, "official", lambda f: load_official(f, official())),
    "official V2": (V2, "official", lambda f: load_official(f, official(use_grn=True))),
    "isotropic": (
        dict(ISOTROPIC, layer_scale_init_value=None), "official",
        lambda f: load_official(f, isotropic(layer_scale=False)),
    ),
    "isotropic, LayerScale": (
        ISOTROPIC, "official", lambda f: load_official(f, isotropic(layer_scale=True)),
    ),
    "timm V1": (V1, "timm", load_timm),
    "timm V1, tiny_hnf": (dict(V1, head_norm_first=True), "timm", load_timm),
    "timm V1, large_mlp": (HIDDEN, "timm", load_timm),
    "timm V1, xxlarge": (dict(V1, norm_eps=1e-5, final_norm_eps=1e-5), "timm", load_timm),
    "timm V2": (V2, "timm", load_timm),
    "transformers V1": (V1, "transformers", load_transformers),
    "transformers V1, without LayerScale": (
        dict(V1, layer_scale_init_value=None), "transformers", load_transformers,
    ),
    "transformers V2": (V2, "transformers", load_transformers),
    "torchvision": (V1, "torchvision", load_torchvision),
}  # fmt: skip


@pytest.mark.parametrize("faint", [False, True], ids=["", "faint"])
@pytest.mark.parametrize("family", EXPORTS)
def test_weights_out(family, faint, tmp_path, record):
    fields, name, load = EXPORTS[family]
    model = convnext.ConvNeXt(**fields)
    params = random_params(model, seed=2, faint=faint)
    convnext.save_pretrained(tmp_path, model, params, format=name)

    def forward(params, images):
        return model.apply({"params": params}, images)

    direction = "out, faint" if faint else "out"
    used = set(flatten_dict(params, sep="/"))
    compare(family, direction, record, load(tmp_path), forward, params, used)

    again, state = convnext.from_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, state)
    images = jnp.asarray(images_of((45, 70)))
    np.testing.assert_array_equal(forward(params, images), again.apply({"params": state}, images))


@pytest.mark.parametrize("family", ["atto", "nano", "tiny_hnf", "large_mlp", "xxlarge", "v2_pico"])
def test_timm_builds_the_variant_that_was_exported(family, tmp_path):
    """Keys and shapes at full size, without the numbers."""
    model = convnext.ConvNeXt(**convnext.VARIANTS[family])
    config = model_config.timm_config(model, None, convnext.ImageProcessor())
    (tmp_path / "config.json").write_text(json.dumps(config))
    zeros = {
        key: np.broadcast_to(np.float32(0), leaf.shape)
        for key, leaf in flatten_dict(abstract_params(model), sep="/").items()
    }
    state = formats.from_ours(zeros, "timm", conv_mlp=family in model_config.CONV_MLP)
    with torch.device("meta"):
        theirs = timm.create_model(f"local-dir:{tmp_path}")
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert shapes == {key: value.shape for key, value in state.items()}
