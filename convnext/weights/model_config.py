"""Conversion between the config.json of transformers or timm and the fields of a ConvNeXt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convnext.errors import InputError, require
from convnext.images.processor import FILTERS, ImageProcessor, is_number
from convnext.models.convnext import VARIANTS, ConvNeXt
from convnext.training import losses

# timm's variants whose MLP is made of 1x1 convolutions: rank 4 instead of 2 (conv_mlp=True).
CONV_MLP = (
    "atto",
    "femto",
    "pico",
    "nano",
    "tiny_hnf",
    "v2_atto",
    "v2_femto",
    "v2_pico",
    "v2_nano",
)
# Fields that tell architectures apart, beside the number of classes.
ARCHITECTURE = (
    "depths", "dims", "in_chans", "patch_size", "stem_norm", "use_grn", "layer_scale_init_value",
    "norm_eps", "head_norm_first", "head_hidden_size",
)  # fmt: skip

# Arguments of timm's ConvNeXt, and the values that are accepted; (): any, as it changes no number.
TIMM_ARGUMENTS = dict(
    num_classes=(), drop_rate=(), head_init_scale=(), conv_mlp=(), global_pool=("avg",),
    output_stride=(32,), kernel_sizes=(7, [7], [7, 7, 7, 7]), stem_type=("patch",),
    conv_bias=(True,), act_layer=("gelu",), norm_layer=("layernorm",),
)  # fmt: skip

MAX_SIZE = 65_536  # of a depth, a width and every other count
SIZES = f"a list of integers from 1 to {MAX_SIZE}"


@dataclass(frozen=True)
class ModelConfig:
    """Contents of a config.json. `fields` are keywords of ConvNeXt, without num_classes."""

    fields: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    problem_type: str | None = None  # see losses.PROBLEM_TYPES


def read(config: Mapping[str, Any]) -> ModelConfig:
    """Reads a config.json. Raises InputError if the model is not a ConvNeXt, or has something that
    ConvNeXt here does not have."""
    try:
        if "architecture" in config or "model_type" in config:
            is_timm = "architecture" in config
            model_config = _read_timm(config) if is_timm else _read_transformers(config)
            check(model_config.fields)
            return model_config
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"config.json is malformed ({error})", "the one of a ConvNeXt by transformers or timm"
        ) from error
    raise InputError(
        "config.json has neither model_type (transformers) nor architecture (timm)",
        "the one of a ConvNeXt by transformers or timm",
    )


def _read_transformers(config):
    model_type = config["model_type"]
    types = ("convnext", "convnextv2", "dinov3_convnext")
    if model_type not in types:
        raise InputError(f"model_type is {model_type!r}", ", ".join(types))
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"hidden_act is {config['hidden_act']!r}", "'gelu'")
    is_v2, is_dinov3 = model_type == "convnextv2", model_type == "dinov3_convnext"
    tiny = VARIANTS["tiny"]
    depths = _sizes("depths", config.get("depths") or tiny["depths"])
    dims = _sizes("hidden_sizes", config.get("hidden_sizes") or tiny["dims"])
    num_stages = config.get("num_stages", len(depths))
    if not len(depths) == len(dims) == num_stages:
        raise InputError(
            f"config.json has depths {depths}, hidden_sizes {dims} and num_stages {num_stages}",
            "three that agree",
        )
    # ConvNextModel uses 1e-6 in all norms but the last, whatever layer_norm_eps is.
    final_norm_eps = config.get("layer_norm_eps", 1e-6 if is_dinov3 else 1e-12)
    gamma = None if is_v2 else config.get("layer_scale_init_value", 1e-6)
    fields = dict(
        depths=depths,
        dims=dims,
        in_chans=config.get("num_channels", 3),
        patch_size=config.get("patch_size", 4),
        use_grn=is_v2,
        layer_scale_init_value=gamma if gamma and gamma > 0 else None,
        drop_path_rate=config.get("drop_path_rate", 0.0),
        norm_eps=final_norm_eps if is_dinov3 else 1e-6,
        final_norm_eps=final_norm_eps,
    )
    return ModelConfig(fields, _labels(config.get("id2label")), _problem_type(config))


def check(fields: Mapping[str, Any]) -> None:
    """Raises InputError for a value of a ConvNeXt field that no model can be built with."""
    for name, value in fields.items():
        match name:
            case "depths" | "dims":
                ok, accepted = _are_sizes(value), SIZES
            case "in_chans" | "patch_size":
                ok, accepted = _is_size(value), f"an integer from 1 to {MAX_SIZE}"
            case "num_classes" | "head_hidden_size":
                ok = value is None or value == 0 or _is_size(value)
                accepted = f"None, or an integer from 0 to {MAX_SIZE}"
            case "stem_norm" | "use_grn" | "head_norm_first" | "remat":
                ok, accepted = isinstance(value, bool), "true or false"
            case "drop_path_rate" | "norm_eps" | "final_norm_eps":
                ok, accepted = is_number(value) and 0 <= value < 1, "a number from 0 to below 1"
            case "layer_scale_init_value":
                ok, accepted = value is None or is_number(value), "None, or a number"
            case _:
                continue
        require(ok, f"{name} of config.json", value, accepted)


def _is_size(value):
    return type(value) is int and 1 <= value <= MAX_SIZE


def _are_sizes(values):
    return isinstance(values, list | tuple) and all(map(_is_size, values))


def _sizes(name, values):
    require(_are_sizes(values), f"{name} of config.json", values, SIZES)
    return tuple(values)


def _labels(names):
    """Returns the names in a list, or in an object with the keys "0", "1", ...; None if there are
    none."""
    if isinstance(names, Mapping):
        keys = sorted(names, key=int)
        accepted = "the numbers from 0 to the number of classes"
        require(list(map(int, keys)) == list(range(len(keys))), "keys of labels", keys, accepted)
        names = [names[key] for key in keys]
    return tuple(map(str, names)) if names else None


def _problem_type(config):
    given = config.get("problem_type")
    ok = given is None or given in losses.PROBLEM_TYPES
    require(ok, "problem_type of config.json", given, ", ".join(losses.PROBLEM_TYPES))
    return given


def _timm_name(variant):
    """Returns timm's name of a variant. The isotropic models, which timm lacks, get names of the
    same form."""
    return f"convnextv2_{variant[3:]}" if variant.startswith("v2_") else f"convnext_{variant}"


def _architectures():
    named = {_timm_name(variant): fields for variant, fields in VARIANTS.items()}
    small = dict(VARIANTS["v2_tiny"], depths=VARIANTS["small"]["depths"])
    return named | {"convnextv2_small": small}


def _read_timm(config):
    architectures = _architectures()
    if config["architecture"] not in architectures:
        raise InputError(
            f"unknown architecture {config['architecture']!r}", ", ".join(architectures)
        )
    arguments = dict(config.get("model_args") or {})
    for name, accepted in TIMM_ARGUMENTS.items():
        value = arguments.pop(name, None)
        if accepted and value is not None and value not in accepted:
            raise InputError(f"model_args of config.json has {name} {value!r}", f"{accepted[0]!r}")
    if "ls_init_value" in arguments:
        arguments["layer_scale_init_value"] = arguments.pop("ls_init_value")
    if "norm_eps" in arguments:
        arguments["final_norm_eps"] = arguments["norm_eps"]
    for name in ("depths", "dims"):
        if name in arguments:
            arguments[name] = _sizes(name, arguments[name])
    known = {*ARCHITECTURE, "final_norm_eps", "drop_path_rate"}
    unknown = sorted(arguments.keys() - known)
    if unknown:
        raise InputError(
            f"model_args of config.json has {', '.join(unknown)}", f"{', '.join(sorted(known))}"
        )
    fields = {**architectures[config["architecture"]], **arguments}
    # Earlier versions of timm write one flat dict.
    details = {**(config.get("pretrained_cfg") or {}), **config}
    labels = _labels(details.get("label_names") or details.get("labels"))
    return ModelConfig(fields, labels, _problem_type(config))


def variant_of(model: ConvNeXt) -> str | None:
    """Returns the model's name in VARIANTS, whatever its number of classes, or None."""
    variants = (name for name in VARIANTS if not differences(model, ConvNeXt(**VARIANTS[name])))
    return next(variants, None)


def differences(model: ConvNeXt, other: ConvNeXt) -> dict[str, tuple[Any, Any]]:
    """Returns the fields in which two architectures differ, with both values."""

    def comparable(name, value):
        if name == "layer_scale_init_value":  # only whether there is a LayerScale matters
            return value is not None
        return tuple(value) if name in ("depths", "dims") else value

    pairs = {name: (getattr(model, name), getattr(other, name)) for name in ARCHITECTURE}
    return {
        name: pair
        for name, pair in pairs.items()
        if comparable(name, pair[0]) != comparable(name, pair[1])
    }


def transformers_config(
    model: ConvNeXt, labels: Sequence[str] | None, image_size: int, problem_type: str | None = None
) -> dict[str, Any]:
    """Returns the config.json from which transformers builds the same model."""
    version = "V2" if model.use_grn else ""
    kind = "ForImageClassification" if model.num_classes else "Model"
    config = dict(
        architectures=[f"ConvNext{version}{kind}"],
        model_type=f"convnext{version.lower()}",
        num_channels=model.in_chans,
        patch_size=model.patch_size,
        num_stages=len(model.depths),
        depths=list(model.depths),
        hidden_sizes=list(model.dims),
        hidden_act="gelu",
        initializer_range=0.02,
        layer_norm_eps=model.final_norm_eps,
        drop_path_rate=model.drop_path_rate,
        image_size=image_size,
        dtype="float32",
    )
    if not model.use_grn:
        # transformers takes an initial value of 0 for "no LayerScale".
        is_off = model.layer_scale_init_value is None
        config["layer_scale_init_value"] = 0.0 if is_off else model.layer_scale_init_value or 1e-6
    if model.num_classes:
        names = labels or [f"LABEL_{i}" for i in range(model.num_classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    if problem_type:
        config["problem_type"] = problem_type
    return config


def timm_config(
    model: ConvNeXt,
    labels: Sequence[str] | None,
    processor: ImageProcessor,
    problem_type: str | None = None,
) -> dict[str, Any]:
    """Returns the config.json from which timm builds the same model. It is also written for formats
    whose projects have none."""
    variant = variant_of(model)
    base = variant or ("tiny" if model.stem_norm else "isotropic_base")
    arguments = dict(
        depths=list(model.depths),
        dims=list(model.dims),
        in_chans=model.in_chans,
        patch_size=model.patch_size,
        use_grn=model.use_grn,
        ls_init_value=model.layer_scale_init_value,
        conv_mlp=variant in CONV_MLP,
        norm_eps=model.norm_eps,
        head_norm_first=model.head_norm_first,
        head_hidden_size=model.head_hidden_size,
    )
    num_classes = model.num_classes or 0
    size = processor.size
    is_warped = size >= 384 and processor.crop_mode is None
    config = dict(
        architecture=_timm_name(base),
        num_classes=num_classes,
        num_features=model.head_hidden_size or model.dims[-1],
        model_args=arguments,
        pretrained_cfg=dict(
            num_classes=num_classes,
            input_size=[model.in_chans, size, size],
            pool_size=None,
            crop_mode="squash" if is_warped else processor.crop_mode or "center",
            crop_pct=1.0 if is_warped else processor.crop_pct,
            interpolation=FILTERS[processor.resample],
            mean=list(processor.image_mean),
            std=list(processor.image_std),
            first_conv="stem.0" if model.stem_norm else "stem",
            classifier="head.fc",
        ),
    )
    if labels:
        config["label_names"] = list(labels)
    if problem_type:
        config["problem_type"] = problem_type
    return config
