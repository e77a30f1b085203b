import math
import re
from functools import partial
from itertools import product
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from configs import convnext_tiny
from convnext import VARIANTS, ConvNeXt, sharding
from convnext.data.epochs import Epochs
from convnext.kernels import outline
from convnext.models.convnext import activations
from convnext.runs import plan
from convnext.training import optimizer, steps


def described(params, mesh, train_size, val_size, *, image_size=224, **fields):
    """The description of a run of ConvNeXt-T with these fields of a config."""
    config = convnext_tiny.get_config().unlock()
    schedule = fields.pop("schedule")
    config.update(fields)
    config.schedule.update(schedule)
    model = ConvNeXt(**VARIANTS["tiny"])
    task = SimpleNamespace(
        train_source=range(train_size),
        evaluation=SimpleNamespace(source=range(val_size)),
        describe=lambda params: [plan.model(model, params, image_size), plan.precision(model)],
    )
    epochs = Epochs(train_size, config.batch_size, num_epochs=config.num_epochs)
    rates = optimizer.schedule(epochs.num_steps, epochs.steps_per_epoch, **config.schedule)
    state = SimpleNamespace(params=params)
    return plan.describe(config, task, epochs, rates, mesh, state)


def test_the_description_says_what_will_run(params_of):
    text = described(
        params_of(ConvNeXt(**VARIANTS["tiny"])),
        sharding.make_mesh(fsdp=2),
        1_281_167,
        50_000,
        accumulation_steps=4,
        schedule={},
    )
    for fact in (
        "8 cpu, mesh data 4 x fsdp 2", "28,589,128 parameters", "4.456 GMACs at 224 px",
        "\nprecision  float32\n",
        "1,281,167 training images, 50,000 validation images", "312 per epoch", "93,600 in all",
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
    assert "model.train_precision=highest is float32" in said["cuda"]
    with outline.compiling_for("cuda"):
        in_full = plan.precision(model.clone(train_precision="highest"))
    assert in_full == "precision  float32, products of precision highest"
    rounded = model.clone(dtype="bfloat16", residual_dtype="bfloat16")
    assert plan.precision(rounded) == "precision  bfloat16"


def test_without_warm_up_there_are_five_rates_too(params_of):
    """Those of the official fine-tuning."""
    schedule = dict(peak_lr=5e-5, warmup_epochs=0)
    fields = dict(batch_size=512, num_epochs=30, schedule=schedule)
    params, mesh = params_of(ConvNeXt(**VARIANTS["tiny"])), sharding.make_mesh()
    assert described(params, mesh, 1_281_167, 50_000, **fields).endswith(
        "rate       5e-05 at step 1, 4.282e-05 at step 18,765, 2.55e-05 at step 37,530, "
        "8.177e-06 at step 56,295, 1e-06 at step 75,060"
    )


def test_the_end_of_a_warm_up_in_steps_is_one_of_five_points(params_of):
    """Those of the official detection."""
    schedule = dict(
        kind="step", peak_lr=1e-4, end_lr=0.0, warmup_ratio=1e-3, milestone_epochs=(27, 33),
        warmup_epochs=0, warmup_steps=500,
    )  # fmt: skip
    fields = dict(batch_size=16, num_epochs=36, schedule=schedule)
    params, mesh = params_of(ConvNeXt(**VARIANTS["tiny"])), sharding.make_mesh()
    assert described(params, mesh, 117_280, 5000, **fields).endswith(
        "rate       1e-07 at step 1, 9.98e-05 at step 500, 0.0001 at step 65,970, "
        "0.0001 at step 131,940, 1e-06 at step 263,880"
    )


MIX = dict(
    mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, label_smoothing=0.1, mode="batch",
    group_size=128,
)  # fmt: skip
RECIPE = dict(
    weight_decay=0.05, weight_decay_end=None, b1=0.9, b2=0.999, eps=1e-8, clip_norm=None,
    layer_decay=1.0, layer_decay_type="group",
)  # fmt: skip


def groups(params, frozen=None, **changes):
    """{"rate x 1, decay 0": "65,128 in 123: ..."}, and the line before."""
    text = plan.updates(params, {**RECIPE, **changes}, frozen=frozen)
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


def test_the_rules_of_a_task_are_those_of_the_dry_run():
    params = {"backbone": {"kernel": jax.ShapeDtypeStruct((2, 3), "float32")},
              "mask_token": jax.ShapeDtypeStruct((5,), "float32")}  # fmt: skip
    text = plan.updates(
        params, RECIPE, frozen=None, decay_mask=lambda params: jax.tree.map(lambda _: True, params),
        layer_scale_rule=lambda params: {"backbone": {"kernel": 0.5}, "mask_token": 1.0},
    )  # fmt: skip
    assert text.splitlines()[1:] == [
        "  rate x 0.5, decay 0.05; 6 in 1: backbone/kernel",
        "  rate x 1, decay 0.05; 5 in 1: mask_token",
    ]


def test_numbered_modules_are_one_wherever_they_stand():
    names = [f"{body}stage_0_block_{i}/{leaf}" for body in ("", "a/b/") for i in range(3)
             for leaf in ("gamma", "norm/scale")]  # fmt: skip
    assert plan.compact([*names, "head/kernel", "a/norm/bias", "a/norm/scale"]) == [
        "stage_0_block_{0..2}/{gamma,norm/scale}", "a/b/stage_0_block_{0..2}/{gamma,norm/scale}",
        "head/kernel", "a/{norm/bias,norm/scale}",
    ]  # fmt: skip


def test_a_field_that_the_plan_does_not_print_is_no_error(tiny_params):
    new = {"new_field": 1}
    assert plan.updates(tiny_params, RECIPE | new, frozen=None) == plan.updates(
        tiny_params, RECIPE, frozen=None
    )
    assert plan.mixing(64, 1, MIX | new) == plan.mixing(64, 1, MIX)


@pytest.mark.parametrize(
    "rows, group_size", [(64, 128), (16, 128), (48, 128), (192, 128), (96, 64), (1, 4)]
)
def test_the_description_says_how_many_devices_a_group_is_on(rows, group_size):
    batch_size = 8 * math.lcm(rows, group_size)
    starts = range(0, batch_size, group_size)
    on = [(start + group_size - 1) // rows - start // rows + 1 for start in starts]
    text = plan.mixing(batch_size, batch_size // rows, MIX | {"group_size": group_size})
    across = f"{group_size} across up to {max(on)} devices (group_size {rows} moves no image)"
    assert text.startswith(f"mixing     groups of {across}, mode batch, ")


def test_the_rest_of_a_dry_run_is_said_in_a_line_each():
    assert plan.mixing(4096, 32, MIX) == (
        "mixing     groups of 128, mode batch, mixup_alpha 0.8, cutmix_alpha 1, prob 1, "
        "switch_prob 0.5, label_smoothing 0.1"
    )
    assert plan.mixing(64, 1, MIX).startswith("mixing     groups of 64, mode batch, ")
    off = {**MIX, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    assert plan.mixing(64, 8, off) == "mixing     none, label_smoothing 0.1"
    assert plan.averages((0.9999,), False) == "averages   0.9999"
    assert plan.averages((0.9, 0.99), True) == "averages   0.9, 0.99 with a warm-up"
    assert plan.averages((), True) == "averages   none"
    published = convnext_tiny.get_config().unlock().published
    published.update(scores=dict(top1=82.0, miou=46.7), source="README")
    assert plan.published(published) == "published  46.7 miou, 82.0 top1 (README)"
    published.update(scores=dict(top1=None, miou=None), source=None)
    assert plan.published(published, ["num_epochs"]) == "published  nothing"


def test_what_differs_from_the_recipe_is_said_of_its_published_scores():
    published = convnext_tiny.get_config().published
    source = "README of facebookresearch/ConvNeXt, averaged weights"
    changed = ["batch_size", "data.root", "init_from", "log.every_steps", "mesh.fsdp", "model.dims",
               "model.remat", "num_workers", "seed"]  # fmt: skip
    assert plan.published(published, changed) == (
        f"published  82.1 top1 ({source}) of the recipe; yours differs in batch_size, init_from, "
        "model.dims"
    )
    same = plan.published(published, ["data.root", "seed"])
    assert same == plan.published(published) == f"published  82.1 top1 ({source})"


# Temporary memory in GB of a training step on 8 chips in bfloat16, residual_dtype too, as the TPU
# compiler plans it (docs/performance.md); by variant, remat, images of 224 pixels a chip, and fsdp.
PLANNED = {
    ("tiny", False, 16, 1): 0.633, ("tiny", True, 16, 1): 0.238, ("tiny", False, 128, 1): 5.081,
    ("base", False, 16, 1): 1.426, ("base", True, 16, 1): 0.485,
    ("xlarge", False, 16, 1): 2.324, ("xlarge", True, 16, 1): 1.206,
    ("v2_tiny", False, 16, 1): 0.917, ("v2_tiny", True, 16, 1): 0.275,
    ("tiny", False, 16, 8): 0.7747, ("xlarge", False, 16, 8): 3.725,
}  # fmt: skip


IN_BFLOAT16 = dict(dtype=jnp.bfloat16, residual_dtype=jnp.bfloat16)


def abstract_state(params, ema_decays=()):
    tx = optimizer.adamw(lambda step: 1e-3)
    start = partial(steps.start, tx=tx, ema_decays=ema_decays)
    return jax.eval_shape(start, {"params": params})


def estimate(state, split, *, model, image_size, rows, rows_at_once):
    return plan.estimate(
        state, split, dtype=model.dtype, row_bytes=image_size**2 * 3 * (1 + 4),
        activations=activations(model, image_size), rows=rows, rows_at_once=rows_at_once,
    )  # fmt: skip


@pytest.mark.parametrize("name, remat, rows, fsdp", PLANNED)
def test_the_estimate_is_near_what_a_compiler_plans(params_of, name, remat, rows, fsdp):
    state, mesh = (
        abstract_state(params_of(ConvNeXt(**VARIANTS[name]))),
        sharding.make_mesh(fsdp=fsdp),
    )
    parts = estimate(
        state, sharding.state_sharding(state, mesh), image_size=224, rows=rows,
        rows_at_once=rows, model=ConvNeXt(**VARIANTS[name], remat=remat, **IN_BFLOAT16),
    )  # fmt: skip
    temporary, state_bytes = 1e9 * PLANNED[name, remat, rows, fsdp], parts.pop("state")
    assert 0.85 < sum(parts.values()) / temporary < 1.7
    assert 0.85 < (state_bytes + sum(parts.values())) / (state_bytes + temporary) < 1.2


def test_the_state_is_counted_exactly_and_split_over_fsdp(params_of):
    """Parameters, two moments and an average in float32, and five counters in int32."""
    model = ConvNeXt(**VARIANTS["tiny"])
    state = abstract_state(params_of(model), ema_decays=(0.9999,))
    size = 4 * 28_589_128
    for fsdp, divisor in ((1, 1), (8, 8)):
        split = sharding.state_sharding(state, sharding.make_mesh(fsdp=fsdp))
        parts = estimate(state, split, model=model, image_size=224, rows=1, rows_at_once=1)
        assert parts["state"] == 4 * size // divisor + 5 * 4
        assert parts["gradients"] == size and parts.get("gathered", 0) == (size if fsdp > 1 else 0)


def test_a_part_of_the_batch_keeps_activations_but_all_images_are_there(params_of):
    model = ConvNeXt(**VARIANTS["tiny"])
    state = abstract_state(params_of(model))
    split = sharding.state_sharding(state, sharding.make_mesh())
    size = partial(estimate, state, split, model=model, image_size=224, rows=64)
    whole, part = size(rows_at_once=64), size(rows_at_once=16)
    assert whole["images"] == part["images"] == 64 * 224 * 224 * 3 * (1 + 4)
    assert whole["activations"] == 4 * part["activations"]
    assert whole["state"] == part["state"]


def test_a_block_keeps_seven_maps_and_with_remat_one():
    keep = dict(depths=(2,), dims=(8,), patch_size=4)
    image, maps = 16 * 16 * 3, 4 * 4 * 8
    kept = lambda **fields: activations(ConvNeXt(**keep, **fields), 16)  # noqa: E731
    assert kept() == 4 * (2 * image + 2 * 7 * maps)
    assert kept(use_grn=True) == 4 * (2 * image + 2 * 11 * maps)
    assert kept(remat=True) == 4 * (2 * image + (2 + 7) * maps)
    assert kept(**IN_BFLOAT16) == kept(dtype=jnp.bfloat16) == 2 * (2 * image + 2 * 7 * maps)
    # Between the blocks are sums in float32.
    assert kept(**IN_BFLOAT16, remat=True) == 2 * (2 * image + (2 + 7) * maps)
    assert kept(dtype=jnp.bfloat16, remat=True) == 2 * (2 * image + (2 * 2 + 7) * maps)


def test_a_compiled_function_is_counted_without_what_it_donates():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)

    def parts(**options):
        jitted = jax.jit(lambda x, y: (x + y, x * y), **options)
        return plan.planned(jitted.lower(x, x).compile())

    assert (parts()["arguments"], parts()["temporary"]) == (8000, 0)
    # The tuple of two results has pointers of its own.
    assert 8000 <= parts()["results"] < 8100
    assert parts()["results"] - parts(donate_argnums=0)["results"] == 4000
