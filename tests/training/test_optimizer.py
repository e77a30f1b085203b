import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from convnext import VARIANTS, ConvNeXt
from convnext.errors import InputError
from convnext.models.convnext import abstract_params
from convnext.training import optimizer, steps
from tests.fixtures import make_optimizer as reference

PYTORCH = np.load(Path(reference.__file__).with_name("optimizer.npz"))

# (steps per epoch, epochs, peak, warm-up epochs): values of the official cosine_scheduler.
IMAGENET_1K = (312, 300, 4e-3, 20)
IMAGENET_22K = (3466, 90, 4e-3, 5)
ISOTROPIC = (312, 300, 4e-3, 50)
FINE_TUNING = (2502, 30, 5e-5, 0)


@pytest.mark.parametrize(
    "run, step, value",
    [
        (IMAGENET_1K, 0, 0.0),
        (IMAGENET_1K, 1, 6.4113e-7),
        (IMAGENET_1K, 6238, 3.99936e-3),
        (IMAGENET_1K, 6239, 4e-3),
        (IMAGENET_1K, 6240, 4e-3),
        (IMAGENET_1K, 49_920, 2.0005e-3),
        (IMAGENET_1K, 93_599, 1.0000013e-6),
        (ISOTROPIC, 54_600, 2.0005e-3),
        (IMAGENET_22K, 1, 2.30827e-7),
        (IMAGENET_22K, 164_635, 2.0005e-3),
        (IMAGENET_22K, 311_939, 1.0000001e-6),
        (FINE_TUNING, 0, 5e-5),
        (FINE_TUNING, 18_765, 4.28241e-5),
        (FINE_TUNING, 37_530, 2.55e-5),
        (FINE_TUNING, 75_059, 1.0000000e-6),
    ],
)
def test_the_schedule_is_the_official_one(run, step, value):
    steps_per_epoch, num_epochs, peak_lr, warmup_epochs = run
    schedule = optimizer.warmup_cosine(
        steps_per_epoch, num_epochs, peak_lr=peak_lr, end_lr=1e-6, warmup_epochs=warmup_epochs
    )
    assert schedule(step) == pytest.approx(value, rel=5e-6)
    assert jax.jit(schedule)(jnp.int32(step)) == schedule(step)


# adjust_learning_rate of ConvNeXt-V2's utils.py, of fractional epochs.
@pytest.mark.parametrize("step", [0, 1, 399, 400, 401, 1500, 2999])
def test_the_schedule_of_v2_is_a_function_of_the_epochs_done(step):
    schedule = optimizer.warmup_cosine(
        10, 300, peak_lr=3.2e-3, end_lr=1e-6, warmup_epochs=40, v2=True
    )
    epoch = step / 10
    if epoch < 40:
        expected = 3.2e-3 * epoch / 40
    else:
        expected = 1e-6 + (3.2e-3 - 1e-6) * 0.5 * (1 + np.cos(np.pi * (epoch - 40) / (300 - 40)))
    assert schedule(step) == pytest.approx(expected, rel=1e-6)


def test_a_warmup_of_one_step_is_a_rate_of_zero():
    schedule = optimizer.warmup_cosine(1, 3, peak_lr=1.0, end_lr=0.0, warmup_epochs=1)
    assert [schedule(step) for step in range(3)] == [0.0, 1.0, 0.5]


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(InputError, match="warmup_epochs is 20; accepted: at most num_epochs"):
        optimizer.warmup_cosine(10, 2, peak_lr=1.0)


# Tensors and parameters that the official code decays (optim_factory.py), with 1,000 classes.
@pytest.mark.parametrize(
    "name, tensors, parameters",
    [
        ("tiny", 59, 28_524_000),
        ("small", 113, 50_096_352),
        ("base", 113, 88_422_016),
        ("large", 113, 197_513_664),
        ("xlarge", 113, 349_859_072),
    ],
)
def test_what_is_decayed_is_what_the_official_code_decays(name, tensors, parameters):
    model = ConvNeXt(**VARIANTS[name])
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    mask = flatten_dict(optimizer.decay_mask(params))
    decayed = [leaf for path, leaf in flatten_dict(params).items() if mask[path]]
    assert (len(decayed), sum(leaf.size for leaf in decayed)) == (tensors, parameters)


# Nor are gamma and beta of GRN, in ConvNeXt-V2's optim_factory.py.
def test_grn_is_not_decayed():
    model = ConvNeXt(depths=(1,), dims=(4,), use_grn=True, layer_scale_init_value=None)
    mask = optimizer.decay_mask(abstract_params(model))["stage_0_block_0"]
    assert mask["grn"] == {"gamma": False, "beta": False}
    assert mask["pwconv1"] == {"kernel": True, "bias": False}


def adamw_by_hand(params, grads, rates, *, weight_decay, b1, b2, eps, clip_norm):
    """torch.optim.AdamW, written out in float64; decays what is called kernel."""
    params = {name: value.astype(np.float64) for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in params.items()}
    v = {name: np.zeros_like(value) for name, value in params.items()}
    for t, (grad, lr) in enumerate(zip(grads, rates, strict=True), start=1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grad.values()))
        scale = min(1.0, clip_norm / norm) if clip_norm is not None else 1.0
        for name in params:
            g = grad[name] * scale
            if name == "kernel":
                params[name] = params[name] * (1 - lr * weight_decay)
            m[name] = b1 * m[name] + (1 - b1) * g
            v[name] = b2 * v[name] + (1 - b2) * g * g
            denominator = np.sqrt(v[name] / (1 - b2**t)) + eps
            params[name] = params[name] - lr * m[name] / (1 - b1**t) / denominator
    return params


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_ten_updates_are_those_of_adamw(clip_norm):
    rng = np.random.default_rng(0)
    params = {
        "kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
    }
    grads = [
        {name: rng.normal(size=p.shape).astype(np.float32) for name, p in params.items()}
        for _ in range(10)
    ]
    schedule = optimizer.warmup_cosine(2, 5, peak_lr=0.1, end_lr=0.01, warmup_epochs=2)
    hyper = dict(weight_decay=0.05, b1=0.9, b2=0.99, eps=1e-8, clip_norm=clip_norm)
    tx = optimizer.adamw(schedule, **hyper)
    ours, state = params, tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, ours)
        ours = optax.apply_updates(ours, updates)
    expected = adamw_by_hand(params, grads, [float(schedule(i)) for i in range(10)], **hyper)
    for name in params:
        np.testing.assert_allclose(ours[name], expected[name], rtol=2e-6, atol=2e-6)


def scales_by_part(params, *arguments):
    """{top-level name: scale}"""
    scales = optimizer.layer_scales(params, *arguments)
    for part in scales.values():  # the same for all that a part has
        assert len(set(jax.tree.leaves(part))) == 1
    return {name: jax.tree.leaves(part)[0] for name, part in scales.items()}


# get_num_layer_for_convnext of the official optim_factory.py, 12 layers, and of its detection
# code, 6 layers.
def test_layer_decay_has_the_official_groups(params_of):
    base, tiny = (params_of(ConvNeXt(**VARIANTS[name])) for name in ("base", "tiny"))
    scales = scales_by_part(base, 0.8)
    expected = {"stem_conv": 0.0550, "stem_norm": 0.0550, "stage_0_block_2": 0.0687,
                "downsample_1_norm": 0.0859, "stage_1_block_0": 0.0859, "downsample_2_conv": 0.1074,
                "stage_2_block_0": 0.1074, "stage_2_block_2": 0.1074, "stage_2_block_3": 0.1342,
                "stage_2_block_26": 0.64, "downsample_3_conv": 0.8, "stage_3_block_0": 0.8,
                "norm": 1.0, "head": 1.0}  # fmt: skip
    assert {name: scales[name] for name in expected} == pytest.approx(expected, abs=5e-5)
    assert len(set(scales.values())) == 14
    scales = scales_by_part(base, 0.7)
    expected = {"stem_conv": 0.0097, "stage_2_block_8": 0.0576, "stage_3_block_2": 0.7}
    assert {name: scales[name] for name in expected} == pytest.approx(expected, abs=5e-5)
    scales = scales_by_part(tiny, 0.8)
    expected = {"stem_conv": 0.2097, "stage_0_block_0": 0.2621, "downsample_1_conv": 0.3277,
                "stage_2_block_2": 0.4096, "stage_2_block_3": 0.512, "stage_2_block_8": 0.64,
                "downsample_3_norm": 0.8, "head": 1.0}  # fmt: skip
    assert {name: scales[name] for name in expected} == pytest.approx(expected, abs=5e-5)
    assert len(set(scales.values())) == 8


# LayerDecayValueAssigner of ConvNeXt-V2's optim_factory.py, "single".
def test_single_layer_decay_has_a_layer_for_each_block(params_of):
    scales = scales_by_part(params_of(ConvNeXt(**VARIANTS["v2_tiny"])), 0.9, "single")
    exponents = {"stem_norm": 18, "stage_0_block_0": 18, "stage_0_block_2": 16,
                 "downsample_1_conv": 15, "stage_1_block_0": 15, "stage_2_block_8": 4,
                 "downsample_3_norm": 3, "stage_3_block_2": 1, "norm": 0, "head": 0}  # fmt: skip
    expected = {name: 0.9**exponent for name, exponent in exponents.items()}
    assert {name: scales[name] for name in expected} == pytest.approx(expected)


def test_layer_decay_that_does_not_fit_is_refused(params_of):
    params = params_of(ConvNeXt(**VARIANTS["isotropic_small"]))
    with pytest.raises(InputError, match="layer_decay_type is 'group, of 1 stages'; accepted: sin"):
        optimizer.layer_scales(params, 0.8, "group")
    with pytest.raises(InputError, match="layer_decay_type is 'double'; accepted: group or single"):
        optimizer.layer_scales(params, 0.8, "double")


def test_ten_updates_are_those_of_pytorch():
    names = reference.shapes()
    params = {name: jnp.asarray(reference.value(i, names[name])) for i, name in enumerate(names)}
    params = unflatten_dict(params, sep="/")
    tx = optimizer.adamw(
        lambda step: reference.learning_rate(step), num_steps=reference.STEPS,
        weight_decay=reference.WEIGHT_DECAY, weight_decay_end=reference.WEIGHT_DECAY_END,
        clip_norm=reference.CLIP_NORM, layer_decay=reference.LAYER_DECAY,
    )  # fmt: skip
    state = steps.start(params, tx=tx, ema_decays=(reference.EMA_DECAY,))
    update = jax.jit(partial(steps.update, tx=tx, ema_decays=(reference.EMA_DECAY,)))
    for step in range(reference.STEPS):
        grads = {name: reference.gradient(step, i, names[name]) for i, name in enumerate(names)}
        state = update(state, unflatten_dict(grads, sep="/"))
    made = {"params": state.params, "ema": state.ema_params[str(reference.EMA_DECAY)]}
    for name, value in flatten_dict(made, sep="/").items():
        np.testing.assert_allclose(value, PYTORCH[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_weight_decay_follows_a_cosine(tiny_params):
    tx = optimizer.adamw(lambda step: 1.0, num_steps=4, weight_decay=0.5, weight_decay_end=0.1)
    zeros, state, decays = jax.tree.map(jnp.zeros_like, tiny_params), tx.init(tiny_params), []
    for _ in range(4):
        updates, state = tx.update(zeros, state, tiny_params)
        ratio = updates["head"]["kernel"] / tiny_params["head"]["kernel"]
        decays.append(-float(ratio.mean()))
        assert not updates["head"]["bias"].any()
    cosine = [0.1 + 0.4 * (1 + np.cos(np.pi * i / 4)) / 2 for i in range(4)]
    assert decays == pytest.approx(cosine)


def test_what_is_frozen_has_no_update_and_no_state(tiny_params):
    tx = optimizer.adamw(lambda step: 1.0, frozen="^(?!head/)")
    ones = jax.tree.map(jnp.ones_like, tiny_params)
    updates, state = tx.update(ones, tx.init(tiny_params), tiny_params)
    changed = {name for name, leaf in flatten_dict(updates, sep="/").items() if leaf.any()}
    assert changed == {"head/kernel", "head/bias"}
    head = sum(leaf.size for leaf in jax.tree.leaves(tiny_params["head"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * head + 2  # and two counts


@pytest.mark.parametrize("pattern", ["(", "nothing", ""])
def test_a_frozen_pattern_that_tells_nothing_apart_is_refused(tiny_params, pattern):
    with pytest.raises(InputError, match=rf"frozen is '{re.escape(pattern)}'.*; accepted: a regul"):
        optimizer.frozen_mask(tiny_params, pattern)
