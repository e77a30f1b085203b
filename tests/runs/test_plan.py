import math
import re
from itertools import product

import jax
import pytest
from flax.traverse_util import flatten_dict

from convnext import VARIANTS, ConvNeXt, sharding
from convnext.training import optimizer
from convnext.kernels import outline
from convnext.runs import plan

# GMACs in convolutions and linear layers, computed from the official code.
GMACS = {
    ("tiny", 224): 4.456, ("small", 224): 8.684, ("base", 224): 15.355, ("large", 224): 34.361,
    ("xlarge", 224): 60.921, ("tiny", 288): 7.365, ("xlarge", 288): 100.705,
    ("tiny", 384): 13.092, ("base", 384): 45.122, ("large", 384): 100.978, ("xlarge", 384): 179.029,
    ("tiny", 512): 23.275, ("isotropic_small", 224): 4.286, ("isotropic_base", 224): 16.896,
    ("isotropic_large", 224): 59.699, ("large_mlp", 224): 34.364,
}  # fmt: skip


@pytest.mark.parametrize("name, image_size", GMACS)
def test_gmacs_are_those_of_the_official_code(name, image_size):
    model = ConvNeXt(**VARIANTS[name])
    assert round(plan.macs(model, image_size) / 1e9, 3) == GMACS[name, image_size]


def test_the_description_says_what_will_run():
    model = ConvNeXt(**VARIANTS["tiny"])
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    text = plan.describe(
        model=model, params=params, image_size=224, mesh=sharding.make_mesh(fsdp=2),
        train_size=1_281_167, val_size=50_000, batch_size=4096, steps_per_epoch=312,
        accumulation_steps=4, num_epochs=300, warmup_epochs=20,
        schedule=optimizer.warmup_cosine(312, 300, peak_lr=4e-3, warmup_epochs=20),
    )  # fmt: skip
    for fact in (
        "8 cpu, mesh data 4 x fsdp 2", "28,589,128 parameters", "4.456 GMACs at 224 px",
        "\nprecision  float32\n",
        "1,281,167 images", "50,000", "312 per epoch", "93,600 in all",
        "4,096 images: devices 8 x parts 4 x images 128",
        "0 at step 1, 0.004 at step 6,240, 0.003", "1e-06 at step 93,600",
    ):  # fmt: skip
        assert fact in text


def test_the_precision_of_float32_is_that_of_the_device_or_what_was_asked_for():
    model = ConvNeXt(**VARIANTS["tiny"])
    said = {}
    for platform in ("cpu", "cuda", "tpu"):
        with outline.compiling_for(platform):
            said[platform] = plan.precision(model)
            half = plan.precision(model.clone(dtype="bfloat16"))
            assert half == "precision  bfloat16, sums along the blocks in float32"
            with jax.default_matmul_precision("highest"):
                asked = plan.precision(model)
            assert asked.startswith("precision  float32, products of precision highest, as JAX_")
    assert said["cpu"] == "precision  float32"
    assert "TF32" in said["cuda"] and "bfloat16" in said["tpu"]
    assert "JAX_DEFAULT_MATMUL_PRECISION=highest" in said["cuda"]
    rounded = model.clone(dtype="bfloat16", residual_dtype="bfloat16")
    assert plan.precision(rounded) == "precision  bfloat16"


def test_without_warm_up_there_are_five_rates_too(params_of):
    """Those of the official fine-tuning."""
    model = ConvNeXt(**VARIANTS["tiny"])
    text = plan.describe(
        model=model, params=params_of(model), image_size=224, mesh=sharding.make_mesh(),
        train_size=1_281_167, val_size=50_000, batch_size=512, accumulation_steps=1,
        steps_per_epoch=2502, num_epochs=30, warmup_epochs=0,
        schedule=optimizer.warmup_cosine(2502, 30, peak_lr=5e-5, warmup_epochs=0),
    )  # fmt: skip
    assert text.endswith(
        "rate       5e-05 at step 1, 4.282e-05 at step 18,765, 2.55e-05 at step 37,530, "
        "8.177e-06 at step 56,295, 1e-06 at step 75,060"
    )


MIX = dict(
    mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1, mode="batch",
    group_size=128,
)  # fmt: skip
RECIPE = dict(
    weight_decay=0.05, weight_decay_end=None, b1=0.9, b2=0.999, eps=1e-8, clip_norm=None,
    layer_decay=1.0, layer_decay_type="group", frozen=None,
)  # fmt: skip


def groups(params, **changes):
    """{"rate x 1, decay 0": "65,128 in 123: ..."}, and the line before."""
    text = plan.updates(params, **{**RECIPE, **changes})
    first, *paragraphs = re.split(r"\n  (?! )", text)
    return dict(re.sub(r"\n +", " ", part).split("; ", 1) for part in paragraphs), first


def expanded(names):
    """As a shell does: a_{1..2}/{b,c} -> a_1/b, a_1/c, a_2/b, a_2/c."""

    def choices(part):
        if ".." not in part:
            return part.split(",")
        first, last = part.split("..")
        return [str(number) for number in range(int(first), int(last) + 1)]

    for name in names.split():
        yield from map("".join, product(*map(choices, re.split("[{}]", name))))


@pytest.mark.parametrize(
    "name, options",
    [("base", dict(layer_decay=0.8)), ("v2_tiny", dict(layer_decay=0.9, layer_decay_type="single")),
     ("isotropic_small", dict(frozen="^(?!head/)")), ("tiny", dict(frozen="_block_[02]/"))],
)  # fmt: skip
def test_every_parameter_is_named_once(params_of, name, options):
    params = params_of(ConvNeXt(**VARIANTS[name]))
    sizes = {path: leaf.size for path, leaf in flatten_dict(params, sep="/").items()}
    found = []
    for group in groups(params, **options)[0].values():
        head, names = group.split(": ")
        members = list(expanded(names))
        assert head == f"{sum(sizes[path] for path in members):,} in {len(members)}"
        found += members
    assert sorted(found) == sorted(sizes)


def test_the_recipe_decays_the_kernels_of_tiny(params_of):
    """59 of the 182 arrays in the official code."""
    found, first = groups(params_of(ConvNeXt(**VARIANTS["tiny"])))
    assert first == "updates    AdamW, b1 0.9, b2 0.999, eps 1e-08, gradients not clipped"
    assert list(found) == ["rate x 1, decay 0.05", "rate x 1, decay 0"]
    assert found["rate x 1, decay 0.05"] == (
        "28,524,000 in 59: downsample_{1..3}_conv/kernel head/kernel "
        "stage_0_block_{0..2}/{dwconv/kernel,pwconv1/kernel,pwconv2/kernel} "
        "stage_1_block_{0..2}/{dwconv/kernel,pwconv1/kernel,pwconv2/kernel} "
        "stage_2_block_{0..8}/{dwconv/kernel,pwconv1/kernel,pwconv2/kernel} "
        "stage_3_block_{0..2}/{dwconv/kernel,pwconv1/kernel,pwconv2/kernel} stem_conv/kernel"
    )
    assert found["rate x 1, decay 0"].startswith("65,128 in 123: ")


def test_the_fine_tuning_of_base_has_the_official_scales(params_of):
    """Twelve groups below the head; 0.8 of the paper's Table 6."""
    params = params_of(ConvNeXt(**VARIANTS["base"]))
    found, _ = groups(params, weight_decay=1e-8, layer_decay=0.8)
    official = [0.0550, 0.0687, 0.0859, 0.1074, 0.1342, 0.1678, 0.2097, 0.2621, 0.3277, 0.4096,
                0.5120, 0.6400, 0.8, 1]  # fmt: skip
    rules = [re.fullmatch(r"rate x (\S+), decay (\S+)", rule).groups() for rule in found]
    assert [round(float(scale), 4) for scale, _ in rules] == [x for x in official for _ in "ab"]
    assert [decay for _, decay in rules] == ["1e-08", "0"] * 14
    blocks = "stage_2_block_{9..11}/{dwconv/kernel,pwconv1/kernel,pwconv2/kernel}"
    assert found["rate x 0.2097, decay 1e-08"].endswith(f" in 9: {blocks}")
    assert found["rate x 0.05498, decay 0"] == "384 in 3: stem_conv/bias stem_norm/{bias,scale}"


def test_what_is_frozen_clipped_or_on_a_cosine_is_said(params_of):
    params = params_of(ConvNeXt(**VARIANTS["tiny"]))
    found, first = groups(params, frozen="^(?!head/)", clip_norm=5.0, weight_decay_end=1e-4)
    assert first.endswith("gradients clipped to a norm of 5")
    assert list(found) == ["rate x 1, decay 0.05 to 0.0001", "rate x 1, decay 0", "frozen"]
    assert found["rate x 1, decay 0.05 to 0.0001"] == "768,000 in 1: head/kernel"
    assert found["frozen"].startswith("27,820,128 in 180: ")


@pytest.mark.parametrize(
    "rows, group_size", [(64, 128), (16, 128), (48, 128), (192, 128), (96, 64), (1, 4)]
)
def test_the_description_says_how_many_devices_a_group_is_on(rows, group_size):
    batch_size = 8 * math.lcm(rows, group_size)
    starts = range(0, batch_size, group_size)
    on = [(start + group_size - 1) // rows - start // rows + 1 for start in starts]
    text = plan.mixing(batch_size, batch_size // rows, **MIX | {"group_size": group_size})
    across = f"{group_size} across up to {max(on)} devices (group_size {rows} moves no image)"
    assert text.startswith(f"mixing     groups of {across}, mode batch, ")


def test_the_rest_of_a_dry_run_is_said_in_a_line_each():
    assert plan.mixing(4096, 32, **MIX) == (
        "mixing     groups of 128, mode batch, mixup_alpha 0.8, cutmix_alpha 1, prob 1, "
        "switch_prob 0.5, label_smoothing 0.1"
    )
    assert plan.mixing(64, 1, **MIX).startswith("mixing     groups of 64, mode batch, ")
    off = {**MIX, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    assert plan.mixing(64, 8, **off) == "mixing     none, label_smoothing 0.1"
    assert plan.averages((0.9999,), False) == "averages   0.9999"
    assert plan.averages((0.9, 0.99), True) == "averages   0.9, 0.99 with a warm-up"
    assert plan.averages((), True) == "averages   none"
    assert plan.published(82.0, "README") == "published  82.0 top-1 (README)"
    assert plan.published(None, None) == "published  nothing"
