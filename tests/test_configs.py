import importlib
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from convnext import VARIANTS, ConvNeXt, logs, mixup, optimizer, sharding, steps
from convnext.data import augment, sources
from convnext.errors import InputError

ROOT = Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def load(name):
    return importlib.import_module(f"configs.{name}").get_config()


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


def test_the_paper_has_a_config_for_each_model_and_two_are_ours():
    assert set(NAMES) == {*PAPER, "digits", "folder"}


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


@pytest.mark.parametrize("name", NAMES)
def test_every_config_has_the_fields_of_the_recipe_and_no_other(name):
    assert sorted(flatten(load(name))) == sorted(flatten(load("convnext_tiny")))
    with pytest.raises(AttributeError, match="locked"):
        load(name).typo = 1


@pytest.mark.parametrize("name", NAMES)
def test_every_section_is_the_keywords_of_one_function(name):
    config = load(name)
    key = jax.random.key(0)
    inspect.signature(sources.load).bind(**config.data)
    inspect.signature(augment.train_transform).bind(0, 0, image_size=0, **config.augment)
    inspect.signature(augment.eval_transform).bind(0, image_size=0, **config.preprocess)
    inspect.signature(steps.normalize).bind(0, **config.normalize)
    inspect.signature(mixup.mix).bind(key, 0, 0, num_classes=0, **config.mix)
    inspect.signature(sharding.make_mesh).bind(**config.mesh)
    inspect.signature(logs.Log).bind(
        "", start_step=0, num_steps=0, batch_size=0, config={}, **config.log
    )
    schedule = optimizer.warmup_cosine(2, config.num_epochs, **config.schedule)
    params = {"kernel": jnp.ones(2)}
    tx = optimizer.adamw(schedule, **config.optimizer)
    tx.update(params, tx.init(params), params)


def test_train_uses_every_field():
    source = (ROOT / "train.py").read_text()
    unused = [field for field in load("convnext_tiny") if f"config.{field}" not in source]
    assert not unused


def test_the_folder_config_takes_a_variant():
    config = importlib.import_module("configs.folder").get_config("v2_nano")
    assert ConvNeXt(**config.model) == ConvNeXt(
        **VARIANTS["v2_nano"], num_classes=None, drop_path_rate=0.1, dtype="float32"
    )
    with pytest.raises(InputError, match="the variant is 'v3'; accepted: atto, femto"):
        importlib.import_module("configs.folder").get_config("v3")
