import importlib
import inspect
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext import VARIANTS, ConvNeXt, ImageProcessor, sharding
from convnext.data import sources
from convnext.errors import InputError
from convnext.images import augment, randaugment
from convnext.runs import log
from convnext.tasks import recipe
from convnext.training import erasing, mixup, optimizer, steps
from convnext.training.losses import SINGLE_LABEL
from convnext.weights import pretrained

ROOT = Path(__file__).parent.parent
NAN = float("nan")
FILES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def rows(file):
    """What may follow the colon of a config file that has several."""
    module = importlib.import_module(f"configs.{file}")
    return getattr(module, "ROWS", getattr(module, "DROP_PATH_RATES", ()))


NAMES = [name for file in FILES for name in [file, *(f"{file}:{row}" for row in rows(file))]]


def load(name):
    file, *row = name.split(":")
    return importlib.import_module(f"configs.{file}").get_config(*row)


CLASSIFIERS = [name for name in NAMES if load(name).task == "classification"]
AUTOENCODERS = [name for name in NAMES if load(name).task == "fcmae"]


def decided(name):
    """The config with what it leaves open, as for 100 images."""
    config, model = load(name), ConvNeXt(**VARIANTS["atto"], num_classes=1000)
    start = pretrained.Pretrained(model, {}, (), ImageProcessor(), None, "here", "here")
    images = sources.Announced(100, 4)
    return recipe.decide(config, images, SINGLE_LABEL, sharding.make_mesh(), lambda: start)[0]


def flatten(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


# Parameters, drop path, epochs, warm-up epochs, group size and averages: Table 5 of the paper
# and the commands in TRAINING.md of the official code.
PAPER = {
    "convnext_tiny": (28_589_128, 0.1, 300, 20, 128, (0.9999,)),
    "convnext_small": (50_223_688, 0.4, 300, 20, 128, (0.9999,)),
    "convnext_base": (88_591_464, 0.5, 300, 20, 128, (0.9999,)),
    "convnext_large": (197_767_336, 0.5, 300, 20, 64, (0.9999,)),
    "convnext_xlarge": (392_900_177, 0.2, 90, 5, 32, ()),
    "isotropic_small": (22_308_712, 0.1, 300, 50, 128, (0.9999,)),
    "isotropic_base": (87_083_752, 0.2, 300, 50, 128, (0.9999,)),
    "isotropic_large": (305_942_504, 0.5, 300, 50, 64, (0.9999,)),
}


# The same, with the image size and the weights it starts from: its Table 6 and TRAINING.md.
FINE_TUNINGS = {
    f"imagenet22k_to_1k:{variant}_{size}": (
        variant, drop_path_rate, size, f"timm/convnext_{variant}.fb_in22k", 0.8, 0.001, averages
    )
    for variant, drop_path_rate, averages in (
        ("tiny", 0.0, ()), ("small", 0.1, ()), ("base", 0.2, ()), ("large", 0.3, ()),
        ("xlarge", 0.4, (0.9999,)),
    )
    for size in (224, 384)
} | {
    "imagenet1k_384:base": ("base", 0.8, 384, "convnext_base_1k_224.pth", 0.7, 1.0, ()),
    "imagenet1k_384:large": ("large", 0.95, 384, "timm/convnext_large.fb_in1k", 0.7, 1.0, ()),
}  # fmt: skip


def test_every_published_row_has_a_config():
    sizes = {"tiny", "small", "base", "large", "xlarge"}
    assert {name.partition(":")[2] for name in NAMES if name.startswith("imagenet22k:")} == sizes
    v2 = {name.partition(":")[2] for name in NAMES if name.startswith("convnextv2:")}
    on_1k = {name.removeprefix("v2_") for name in VARIANTS if name.startswith("v2_")}
    larger = ("nano", "tiny", "base", "large")
    assert v2 == on_1k | {f"{size}_22k" for size in (*larger, "huge")} | {
        f"{size}_22k_1k_{pixels}" for size in larger for pixels in (224, 384)
    } | {"huge_22k_1k_384", "huge_22k_1k_512"}
    assert set(NAMES) > set(FINE_TUNINGS) | set(PAPER) | {"digits", "folder"}


@pytest.mark.parametrize("name", FINE_TUNINGS)
def test_a_fine_tuning_of_the_paper_has_the_papers_values(name):
    config = load(name)
    variant, *expected = FINE_TUNINGS[name]
    assert all(config.model[field] == value for field, value in VARIANTS[variant].items())
    assert [
        config.model.drop_path_rate, config.image_size, config.init_from,
        config.optimizer.layer_decay, config.model.head_init_scale, config.ema_decays,
    ] == expected  # fmt: skip
    assert (config.batch_size, config.num_epochs, config.optimizer.weight_decay) == (512, 30, 1e-8)
    assert dict(config.schedule) == dict(
        kind="cosine", peak_lr=5e-5, end_lr=1e-6, warmup_epochs=0, warmup_steps=None,
        warmup_ratio=0.0, v2=False, power=1.0, milestone_epochs=(), milestone_steps=(), factor=0.1,
    )  # fmt: skip
    assert (config.mix.mixup_alpha, config.mix.cutmix_alpha, config.mix.label_smoothing) == (
        0.0, 0.0, 0.1
    )  # fmt: skip
    assert (config.optimizer.layer_decay_type, config.model.num_classes) == ("group", 1000)


# TRAINING.md of ConvNeXt-V2: rate, epochs, warm-up, layer decay, weight decay, drop path, alphas
# and smoothing. All have `--nodes 4 --ngpus 8 --batch_size 32`, so mix 32 images of 1024.
V2 = {
    "atto": (8e-4, 600, 0, (0.9, "single"), 0.3, 0.1, (0.0, 0.0), 0.2),
    "tiny": (3.2e-3, 300, 40, (0.9, "single"), 0.05, 0.2, (0.8, 1.0), 0.1),
    "base": (2.5e-3, 100, 20, (0.6, "group"), 0.05, 0.1, (0.8, 1.0), 0.1),
}


@pytest.mark.parametrize("size", V2)
def test_a_fine_tuning_of_v2_has_the_values_of_its_code(size):
    config = load(f"convnextv2:{size}")
    assert (
        config.schedule.peak_lr, config.num_epochs, config.schedule.warmup_epochs,
        (config.optimizer.layer_decay, config.optimizer.layer_decay_type),
        config.optimizer.weight_decay, config.model.drop_path_rate,
        (config.mix.mixup_alpha, config.mix.cutmix_alpha), config.mix.label_smoothing,
    ) == V2[size]  # fmt: skip
    assert (config.batch_size, config.mix.group_size) == (4 * 8 * 32, 32)
    assert (config.schedule.v2, config.ema_decays) == (True, (0.9999,))
    assert config.model.use_grn and config.init_from == f"timm/convnextv2_{size}.fcmae"


def test_every_row_of_v2_on_imagenet_1k_mixes_the_images_of_one_gpu():
    on_1k = [name for name in rows("convnextv2") if not name.endswith("_22k")]
    assert {load(f"convnextv2:{name}").mix.group_size for name in on_1k} == {32}


@pytest.mark.parametrize("name", PAPER)
def test_a_config_of_the_paper_has_the_papers_values(name):
    config = load(name)
    model = ConvNeXt(**config.model)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(params)),
        config.model.drop_path_rate,
        config.num_epochs,
        config.schedule.warmup_epochs,
        config.mix.group_size,
        config.ema_decays,
    ) == PAPER[name]
    assert config.batch_size == 4096
    assert (config.schedule.peak_lr, config.schedule.end_lr) == (4e-3, 1e-6)
    assert dict(config.optimizer) == dict(
        weight_decay=0.05,
        weight_decay_end=None,
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        clip_norm=None,
        layer_decay=1.0,
        layer_decay_type="group",
    )
    assert (config.mix.mixup_alpha, config.mix.cutmix_alpha) == (0.8, 1.0)
    assert (config.mix.label_smoothing, config.mix.switch_prob) == (0.1, 0.5)
    assert dict(config.augment.randaugment) == dict(
        num_ops=2, magnitude=9.0, magnitude_std=0.5, increasing=True, prob=0.5
    )
    assert (config.erase.prob, config.erase.area) == (0.25, (0.02, 1 / 3))


# README of the official code, and of ConvNeXt-V2: at 224 and 384 pixels, or at 384 and 512.
PUBLISHED = {
    "convnext_tiny": 82.1, "convnext_small": 83.1, "convnext_base": 83.8, "convnext_large": 84.3,
    "isotropic_small": 78.7, "isotropic_base": 82.0, "isotropic_large": 82.6,
    "imagenet1k_384": 85.1, "imagenet1k_384:base": 85.1, "imagenet1k_384:large": 85.5,
    "imagenet22k_to_1k": 85.8, "convnextv2": 83.0,
} | {
    f"imagenet22k_to_1k:{variant}_{size}": top1
    for variant, *values in (("tiny", 82.9, 84.1), ("small", 84.6, 85.8), ("base", 85.8, 86.8),
                             ("large", 86.6, 87.5), ("xlarge", 87.0, 87.8))
    for size, top1 in zip((224, 384), values, strict=True)
} | {
    f"convnextv2:{variant}": top1
    for variant, top1 in (("atto", 76.7), ("femto", 78.5), ("pico", 80.3), ("nano", 81.9),
                          ("tiny", 83.0), ("base", 84.9), ("large", 85.8), ("huge", 86.3))
} | {
    f"convnextv2:{variant}_22k_1k_{size}": top1
    for variant, *values in (("nano", 82.1, 83.4), ("tiny", 83.9, 85.1), ("base", 86.8, 87.7),
                             ("large", 87.3, 88.2), ("huge", 88.7, 88.9))
    for size, top1 in zip((384, 512) if variant == "huge" else (224, 384), values, strict=True)
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_config_expects_the_published_accuracy_of_its_row(name):
    published, num_classes = load(name).published, load(name).model.num_classes
    assert published.scores.top1 == PUBLISHED.get(name)
    of_imagenet = {1000: (1_281_167, 50_000), 21841: (14_197_122, 0)}
    of_others = {"cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "flowers": (2040, 6149)}
    sizes = of_imagenet.get(num_classes) or of_others.get(name.partition(":")[0], (None, None))
    assert (published.train_size, published.val_size) == sizes
    averaged = "averaged" in (published.source or "")
    assert not averaged or load(name).ema_decays
    assert published.scores.top1 is None or published.source


@pytest.mark.parametrize("name", NAMES)
def test_every_config_has_the_fields_of_the_recipe_and_no_other(name):
    fields = {*flatten(load("convnext_tiny"))}
    if name in AUTOENCODERS:
        without = ("class_weights", "erase.", "linear.", "mix.", "problem_type", "model.final_norm",
                   "model.head_", "model.num_classes", "published.scores.top1")  # fmt: skip
        fields = {field for field in fields if not field.startswith(without)} | {
            "model.decoder_depth", "model.decoder_dim", "model.mask_ratio", "norm_pix_loss",
            "published.scores.loss",
        }  # fmt: skip
    assert {*flatten(load(name))} == fields
    with pytest.raises(AttributeError, match="locked"):
        load(name).typo = 1


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_section_is_the_keywords_of_one_function(name):
    config = decided(name)
    key = jax.random.key(0)
    inspect.signature(sources.load).bind(**config.data)
    inspect.signature(augment.train_transform).bind(0, 0, image_size=0, **config.augment)
    inspect.signature(augment.eval_transform).bind(0, image_size=0, **config.preprocess)
    inspect.signature(steps.normalize).bind(0, **config.normalize)
    randaugment.RandAugment(**config.augment.randaugment)
    inspect.signature(erasing.erase).bind(key, 0, **config.erase)
    inspect.signature(mixup.mix).bind(key, 0, 0, num_classes=0, **config.mix)
    inspect.signature(sharding.make_mesh).bind(**config.mesh)
    inspect.signature(log.Log).bind("", 0, None, config={}, best="", **config.log)
    schedule = optimizer.schedule(2 * config.num_epochs, 2, **config.schedule)
    parts = ["stem_conv", *(f"stage_{stage}_block_0" for stage in range(4)), "head"]
    params = {part: {"kernel": jnp.ones(2)} for part in parts}
    tx = optimizer.adamw(schedule, **config.optimizer)
    tx.update(params, tx.init(params), params)


def test_train_uses_every_field():
    rooms = ("train.py", "convnext/tasks/classification.py", "convnext/tasks/__init__.py",
             "convnext/tasks/inputs.py", "convnext/tasks/recipe.py",
             "convnext/runs/plan.py")  # fmt: skip
    source = "\n".join((ROOT / room).read_text() for room in rooms)
    unused = [
        field
        for field in load("convnext_tiny")
        if not re.search(rf'config\.{field}\b|"{field}"', source)
    ]
    assert not unused


@pytest.mark.parametrize("size", rows("fcmae"))
def test_masked_pre_training_has_the_values_of_the_paper(size):
    """Table 8, and main_pretrain.py of the official code, whose rate is 1.5e-4 for 256 images."""
    config = load(f"fcmae:{size}")
    own = {**VARIANTS[f"v2_{size}"], "decoder_dim": 512, "decoder_depth": 1, "mask_ratio": 0.6}
    assert all(config.model[name] == value for name, value in own.items())
    assert (config.batch_size, config.num_epochs, config.schedule.warmup_epochs) == (4096, 1600, 40)
    assert (config.schedule.peak_lr, config.schedule.end_lr, config.schedule.v2) == (None, 0, True)
    optimizer_ = config.optimizer
    assert (optimizer_.b1, optimizer_.b2, optimizer_.weight_decay) == (0.9, 0.95, 0.05)
    assert (optimizer_.clip_norm, optimizer_.layer_decay, config.ema_decays) == (None, 1.0, ())
    assert (config.augment.crop_scale, config.augment.flip_prob) == ((0.2, 1.0), 0.5)
    assert config.augment.randaugment.num_ops == 0 and config.model.drop_path_rate == 0
    assert config.norm_pix_loss and config.image_size == 224


def test_the_folder_config_takes_a_variant():
    for variant in ("v2_nano", "tiny"):
        config = decided(f"folder:{variant}")
        fields = {
            **VARIANTS[variant],
            "layer_scale_init_value": config.model.layer_scale_init_value,
        }
        assert ConvNeXt(**config.model) == ConvNeXt(
            **fields, num_classes=None, drop_path_rate=config.model.drop_path_rate,
            dtype="float32", residual_dtype="float32",
        )  # fmt: skip
        has_scale = config.model.layer_scale_init_value is not None
        assert has_scale == (variant == "tiny")
    with pytest.raises(InputError, match="the variant is 'v3'; accepted: atto, femto"):
        importlib.import_module("configs.folder").get_config("v3")


@pytest.mark.parametrize(
    "section, changes",
    [(section, {name: value}) for section, name, values in (
        ("schedule", "peak_lr", [-1e-3]), ("schedule", "end_lr", [-1e-6]),
        ("schedule", "warmup_epochs", [-1]), ("schedule", "warmup_steps", [-1]),
        ("schedule", "warmup_ratio", [-0.1, 1.1]),
        ("schedule", "power", [-1.0]), ("schedule", "factor", [0.0, 1.1]),
        ("schedule", "milestone_epochs", [(0,)]), ("schedule", "milestone_steps", [(5,)]),
        ("optimizer", "weight_decay", [-0.05]), ("optimizer", "weight_decay_end", [-0.05]),
        ("optimizer", "b2", [-0.1, 1.0]), ("optimizer", "eps", [0.0]),
        ("optimizer", "clip_norm", [0.0, float("inf")]), ("optimizer", "layer_decay", [0.0, 1.1]),
        ("erase", "prob", [-0.1, 1.1]), ("erase", "area", [(0.0, 0.5), (0.1, 1.1), (0.1,)]),
        ("erase", "min_aspect", [0.0, 2.0]),
        ("mix", "mixup_alpha", [-1.0]), ("mix", "cutmix_alpha", [-1.0, NAN]),
        ("mix", "prob", [1.1]), ("mix", "switch_prob", [-0.1, NAN]),
        ("mix", "label_smoothing", [-0.1, 1.0]),
        ("augment", "crop_scale", [(0.0, 1.0), (0.5, 0.1), ()]),
        ("augment", "crop_ratio", [(2, 1)]), ("augment", "crop_padding", [-1, 5]),
        ("augment", "flip_prob", [1.1]),
        ("augment", "color_jitter", [-0.1, float("inf")]), ("augment", "affine_degrees", [181.0]),
        ("augment", "affine_translate", [-0.1, 1.1]), ("augment", "affine_scale", [(0.0, 1.0)]),
        ("augment", "affine_shear", [90.0]), ("augment", "gamma", [-0.1]),
        ("randaugment", "num_ops", [-1]), ("randaugment", "magnitude", [-1.0, 11.0]),
        ("randaugment", "magnitude_std", [-0.5]), ("randaugment", "prob", [1.1]),
        ("preprocess", "crop_pct", [0.0]),
        ("normalize", "std", [(1.0, -1.0, 1.0), (1.0,), ("a", "b", "c")]),
        ("normalize", "mean", [(), (0.5, 0.5), (NAN, 0.0, 0.0)]),
    ) for value in values],
)  # fmt: skip
def test_the_function_that_has_a_field_refuses_what_is_out_of_range(section, changes):
    config = load("convnext_tiny")
    images, key = jnp.zeros((2, 4, 4, 3)), jax.random.key(0)
    black, labels = np.zeros((4, 4, 3), np.uint8), jnp.zeros(2, jnp.int32)
    functions = dict(
        schedule=partial(optimizer.schedule, 300, 10),
        optimizer=partial(optimizer.adamw, 1e-3, num_steps=10),
        erase=partial(erasing.erase, key, images),
        mix=partial(mixup.mix, key, images, labels, num_classes=2),
        augment=partial(augment.train_transform, black, np.random.default_rng(0), image_size=4),
        randaugment=randaugment.RandAugment,
        preprocess=partial(augment.eval_transform, black, image_size=4),
        normalize=partial(steps.normalize, images),
    )
    fields = config.augment.randaugment if section == "randaugment" else config[section]
    (name,) = changes
    full = f"augment.{section}.{name}" if section == "randaugment" else f"{section}.{name}"
    with pytest.raises(InputError, match=rf"\b{full}\b.* is .*; accepted: .*\d"):
        functions[section](**{**fields, **changes})
