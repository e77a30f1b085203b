import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from convnext import VARIANTS, Backbone, ConvNeXt
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


def first_update(tx, grads, params):
    return jax.device_get(jax.jit(lambda p: tx.update(grads, tx.init(p), p)[0])(params))


def ones(params):
    return jax.tree.map(lambda p: np.ones(p.shape, np.float32), params)


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
    schedule = optimizer.schedule(
        num_epochs * steps_per_epoch, steps_per_epoch, peak_lr=peak_lr, warmup_epochs=warmup_epochs
    )
    assert schedule(step) == pytest.approx(value, rel=5e-6)
    assert jax.jit(schedule)(jnp.int32(step)) == schedule(step)


# adjust_learning_rate of ConvNeXt-V2's utils.py, of fractional epochs.
@pytest.mark.parametrize("step", [0, 1, 399, 400, 401, 1500, 2999])
def test_the_schedule_of_v2_is_a_function_of_the_epochs_done(step):
    schedule = optimizer.schedule(3000, 10, peak_lr=3.2e-3, warmup_epochs=40, v2=True)
    epoch = step / 10
    if epoch < 40:
        expected = 3.2e-3 * epoch / 40
    else:
        expected = 1e-6 + (3.2e-3 - 1e-6) * 0.5 * (1 + np.cos(np.pi * (epoch - 40) / (300 - 40)))
    assert schedule(step) == pytest.approx(expected, rel=1e-6)


def test_a_warmup_of_one_step_is_a_rate_of_zero():
    schedule = optimizer.schedule(3, 1, peak_lr=1.0, end_lr=0.0, warmup_epochs=1)
    assert [schedule(step) for step in range(3)] == [0.0, 1.0, 0.5]


# UPerNet on ADE20K: PolyLrUpdaterHook of mmcv, with the warm-up of the official configs.
@pytest.mark.parametrize(
    "step, value",
    [(0, 1e-10), (1, 6.676618e-8), (749, 4.969963e-5), (1499, 9.899708e-5), (1500, 9.90625e-5),
     (80_000, 5e-5), (159_999, 6.25e-10)],
)  # fmt: skip
def test_poly_is_the_schedule_of_the_official_segmentation(step, value):
    schedule = optimizer.schedule(
        160_000, 1263, kind="poly", peak_lr=1e-4, end_lr=0.0, warmup_steps=1500, warmup_ratio=1e-6
    )
    assert f"{schedule(step):.6e}" == f"{value:.6e}"
    assert jax.jit(schedule)(jnp.int32(step)) == schedule(step)


def test_poly_has_a_power_and_a_lowest_rate():
    schedule = optimizer.schedule(160, 7, kind="poly", peak_lr=1.0, end_lr=0.1, power=0.9)
    expected = [0.1 + 0.9 * (1 - step / 160) ** 0.9 for step in range(160)]
    assert [schedule(step) for step in range(160)] == pytest.approx(expected, rel=1e-7)


# Mask R-CNN on COCO: StepLrUpdaterHook of mmcv; 36 epochs, milestones after 27 and 33.
DETECTION = dict(kind="step", peak_lr=1e-4, end_lr=0.0, warmup_steps=500, warmup_ratio=1e-3)


@pytest.mark.parametrize(
    "step, value",
    [(0, 1e-7), (1, 2.998e-7), (250, 5.005e-5), (499, 9.98002e-5), (500, 1e-4), (197_909, 1e-4),
     (197_910, 1e-5), (241_889, 1e-5), (241_890, 1e-6), (263_879, 1e-6)],
)  # fmt: skip
def test_step_is_the_schedule_of_the_official_detection(step, value):
    schedule = optimizer.schedule(263_880, 7330, milestone_epochs=(27, 33), **DETECTION)
    assert f"{schedule(step):.6e}" == f"{value:.6e}"
    assert jax.jit(schedule)(jnp.int32(step)) == schedule(step)


def test_milestones_are_epochs_or_steps_and_the_rate_stays_at_the_lowest():
    expected = [0.1] * 6 + [0.05] * 3 + [0.04] * 3  # 0.025 and less without the lowest
    for milestones in (
        dict(milestone_epochs=(2, 5), milestone_steps=(9,)),  # epochs of 3 steps; the run has 4
        dict(milestone_steps=(10, 6, 9)),  # in any order
    ):
        schedule = optimizer.schedule(
            12, 3, kind="step", peak_lr=0.1, end_lr=0.04, factor=0.5, **milestones
        )
        rates = [schedule(step) for step in range(12)]
        assert rates == pytest.approx(expected)


def test_a_warmup_is_given_in_epochs_or_in_steps():
    by_epochs = optimizer.schedule(25, 10, peak_lr=0.1, end_lr=0.0, warmup_epochs=1)
    by_steps = optimizer.schedule(25, 10, peak_lr=0.1, end_lr=0.0, warmup_steps=10)
    rates = [by_epochs(step) for step in range(25)]  # a run of two epochs and a half
    assert rates == [by_steps(step) for step in range(25)]
    cosine = [0.05 * (1 + np.cos(np.pi * step / 15)) for step in range(15)]
    assert rates == pytest.approx([0.1 * step / 9 for step in range(10)] + cosine, abs=1e-8)


@pytest.mark.parametrize("kind", ["cosine", "poly", "step"])
def test_a_warmup_begins_at_its_ratio(kind):
    milestones = (3,) if kind == "step" else ()
    schedule = optimizer.schedule(
        40, 10, kind=kind, peak_lr=0.2, warmup_steps=8, warmup_ratio=0.25,
        milestone_epochs=milestones,
    )  # fmt: skip
    assert schedule(0) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (
            {"warmup_epochs": 20},
            "^schedule.warmup_epochs is 20; accepted: at most num_epochs, which is 2.5$",
        ),
        (
            {"warmup_steps": 26},
            "^schedule.warmup_steps is 26; accepted: 0 to num_steps, which is 25$",
        ),
        ({"warmup_epochs": 1, "warmup_steps": -5}, "^schedule.warmup_steps is -5; accepted: 0 and"),
        (
            {"warmup_epochs": 1, "warmup_steps": 5},
            "^schedule.warmup_epochs is 1; accepted: 0 beside schedule.warmup_",
        ),
        ({"kind": "line", "v2": True}, "schedule.kind is 'line'; accepted: cosine or poly or step"),
        (
            {"kind": "step"},
            r"^schedule.milestone_epochs, schedule.milestone_steps is \(\(\), \(\)\); accepted: nu",
        ),
        (
            {"kind": "step", "milestone_epochs": (0, 1)},
            r"is \(\(0, 1\), \(\)\); accepted: numbers from 1 up",
        ),
        ({"kind": "step", "milestone_steps": ("a",)}, r"is \(\(\), \('a',\)\); accepted: numbers"),
        (
            {"milestone_steps": [3]},
            r"is \(\(\), \(3,\)\); accepted: .* where schedule.kind is step, else",
        ),
        (
            {"kind": "poly", "v2": True},
            "^schedule.v2 is True; accepted: False, where schedule.kind",
        ),
        ({"peak_lr": float("inf")}, "^schedule.peak_lr is inf; accepted: 0 and more"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        optimizer.schedule(25, 10, **{"peak_lr": 1.0, **wrong})


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


def test_a_task_says_what_is_decayed_and_how_fast_each_layer_learns():
    """As the pre-training of ConvNeXt-V2, whose code decays GRN."""
    model = ConvNeXt(depths=(1,), dims=(4,), use_grn=True, layer_scale_init_value=None)
    params = ones(abstract_params(model))

    def not_biases(params):
        return jax.tree.map_with_path(lambda path, _: path[-1].key != "bias", params)

    def stem_at_half(params):
        return jax.tree.map_with_path(lambda path, _: 0.5 if "stem" in path[0].key else 1.0, params)

    tx = optimizer.adamw(
        lambda step: 1.0, weight_decay=0.25, decay_mask=not_biases, layer_scale_rule=stem_at_half
    )
    updates = first_update(tx, jax.tree.map(np.zeros_like, params), params)
    found = {name: float(u.mean()) for name, u in flatten_dict(updates, sep="/").items()}
    assert found["stage_0_block_0/grn/gamma"] == found["stage_0_block_0/norm/scale"] == -0.25
    assert (found["stem_conv/kernel"], found["stem_conv/bias"]) == (-0.125, 0)


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
    schedule = optimizer.schedule(10, 2, peak_lr=0.1, end_lr=0.01, warmup_epochs=2)
    hyper = dict(weight_decay=0.05, b1=0.9, b2=0.99, eps=1e-8, clip_norm=clip_norm)
    tx = optimizer.adamw(schedule, **hyper)
    ours, state = params, tx.init(params)

    @jax.jit
    def update(grad, state, params):
        updates, state = tx.update(grad, state, params)
        return optax.apply_updates(params, updates), state

    for grad in grads:
        ours, state = update(grad, state, ours)
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


# get_num_layer_layer_wise and get_num_layer_stage_wise of the official detection and segmentation
# code: the layer of each part, where the third stage has 9 and 27 blocks.
LAYER_WISE = {
    "tiny": {"stem_conv": 0, "stem_norm": 0, "stage_0_block_0": 1, "stage_0_block_2": 1,
             "downsample_1_norm": 2, "downsample_1_conv": 2, "stage_1_block_2": 2,
             "downsample_2_conv": 3, "stage_2_block_0": 3, "stage_2_block_2": 3,
             "stage_2_block_3": 4, "stage_2_block_5": 4, "stage_2_block_6": 5,
             "stage_2_block_8": 5, "downsample_3_norm": 6, "stage_3_block_0": 6,
             "stage_3_block_2": 6, "norm_stage1": 7, "norm_stage4": 7},
    "base": {"stem_conv": 0, "stage_0_block_0": 1, "stage_1_block_0": 2, "downsample_2_norm": 3,
             "stage_2_block_0": 3, "stage_2_block_3": 4, "stage_2_block_6": 5,
             "stage_2_block_9": 6, "stage_2_block_12": 7, "stage_2_block_15": 8,
             "stage_2_block_18": 9, "stage_2_block_21": 10, "stage_2_block_24": 11,
             "stage_2_block_26": 11, "downsample_3_conv": 12, "stage_3_block_2": 12,
             "norm_stage2": 13},
}  # fmt: skip
STAGE_WISE = {"stem_conv": 0, "stem_norm": 0, "downsample_1_norm": 0, "downsample_2_conv": 0,
              "downsample_3_conv": 0, "stage_0_block_0": 1, "stage_0_block_2": 1,
              "stage_1_block_0": 2, "stage_2_block_0": 3, "stage_2_block_8": 3,
              "stage_3_block_0": 4, "stage_3_block_2": 4, "norm_stage1": 5,
              "norm_stage4": 5}  # fmt: skip


# Scales of Mask R-CNN T; Cascade Mask R-CNN T; the latter with S, L and XL; and with B.
@pytest.mark.parametrize(
    "name, decay, published",
    [
        ("tiny", 0.95, [0.69834, 0.73509, 0.77378, 0.81451, 0.85738, 0.9025, 0.95, 1]),
        ("tiny", 0.7, [0.08235, 0.11765, 0.16807, 0.2401, 0.343, 0.49, 0.7, 1]),
        ("base", 0.7, [0.00969, 0.01384, 0.01977, 0.02825, 0.04035, 0.05765, 0.08235, 0.11765,
                       0.16807, 0.2401, 0.343, 0.49, 0.7, 1]),
        ("base", 0.8, [0.05498, 0.06872, 0.0859, 0.10737, 0.13422, 0.16777, 0.20972, 0.26214,
                       0.32768, 0.4096, 0.512, 0.64, 0.8, 1]),
    ],
)  # fmt: skip
def test_the_scales_of_the_official_detection(name, decay, published, params_of):
    backbone = params_of(Backbone(**VARIANTS[name], out_norms=True))
    params = {"backbone": backbone, "roi_head": {"fc_cls": {"kernel": 0}}}
    scales = optimizer.layer_scales(params, decay, "layer_wise")
    assert scales == optimizer.layer_scales(params, decay, "group")
    for part, layer in LAYER_WISE[name].items():
        (found,) = set(jax.tree.leaves(scales["backbone"][part]))
        assert found == pytest.approx(published[layer], abs=5.1e-6), part
    assert len(set(jax.tree.leaves(scales))) == len(published)
    assert scales["roi_head"]["fc_cls"]["kernel"] == 1


# Scales of UPerNet T; and of S, B, L and XL.
@pytest.mark.parametrize(
    "name, published",
    [
        ("tiny", [0.4783, 0.5314, 0.5905, 0.6561, 0.7290, 1]),
        ("base", [0.2542, 0.2824, 0.3138, 0.3487, 0.3874, 1]),
        ("large", [0.2542, 0.2824, 0.3138, 0.3487, 0.3874, 1]),
    ],
)
def test_the_scales_of_the_official_segmentation(name, published, params_of):
    backbone = params_of(Backbone(**VARIANTS[name], out_norms=True))
    params = {"backbone": backbone, "decode_head": {"conv_seg": {"kernel": 0}}}
    scales = optimizer.layer_scales(params, 0.9, "stage_wise")
    for part, layer in STAGE_WISE.items():
        (found,) = set(jax.tree.leaves(scales["backbone"][part]))
        assert found == pytest.approx(published[layer], abs=5.1e-5), part
    assert len(set(jax.tree.leaves(scales))) == len(published)
    assert scales["decode_head"]["conv_seg"]["kernel"] == 1


@pytest.mark.parametrize("layer_decay_type", optimizer.LAYER_DECAY_TYPES)
def test_a_body_counts_alike_wherever_it_stands(layer_decay_type, params_of):
    """Two of them, of other depths, beside a head whose names are like a body's."""
    tiny, small = (params_of(ConvNeXt(**VARIANTS[name])) for name in ("tiny", "small"))
    head = {"stem_conv": {"kernel": 0}, "downsample_1_conv": {"kernel": 0}}
    params = {"model": {"backbone": tiny, "teacher": small}, "decode_head": head}
    assert optimizer.layer_scales(params, 0.8, layer_decay_type) == {
        "model": {
            "backbone": optimizer.layer_scales(tiny, 0.8, layer_decay_type),
            "teacher": optimizer.layer_scales(small, 0.8, layer_decay_type),
        },
        "decode_head": jax.tree.map(lambda _: 1.0, head),
    }


def test_what_is_frozen_counts_as_layers_too():
    model = ConvNeXt(depths=(1, 1, 4, 1), dims=(2, 2, 4, 4), num_classes=3)
    params, updates = {"backbone": ones(abstract_params(model))}, []
    for frozen in (None, "backbone/stage_2_block_3/|backbone/stage_3_block_0/"):
        tx = optimizer.adamw(lambda step: 1.0, layer_decay=0.5, frozen=frozen)
        updates.append(flatten_dict(first_update(tx, params, params), sep="/"))
    every, some = updates
    changed = {name for name, update in some.items() if update.any()}
    assert {name.split("/")[1] for name in every.keys() - changed} == {
        "stage_2_block_3", "stage_3_block_0"
    }  # fmt: skip
    for name in changed:
        np.testing.assert_array_equal(some[name], every[name], err_msg=name)


def test_layer_decay_that_does_not_fit_is_refused(params_of):
    params = params_of(ConvNeXt(**VARIANTS["isotropic_small"]))
    with pytest.raises(InputError, match="layer_decay_type is 'group, of 1 stages'; accepted: sin"):
        optimizer.layer_scales(params, 0.8, "group")
    with pytest.raises(InputError, match="layer_decay_type is 'stage_wise, of 1 stages'; accepted"):
        optimizer.layer_scales({"backbone": params}, 0.8, "stage_wise")
    with pytest.raises(InputError, match="layer_decay_type is 'double'; accepted: group or single"):
        optimizer.layer_scales(params, 0.8, "double")
    with pytest.raises(
        InputError, match=r"layer_decay is 0\.8; accepted: 1, for parameters that ha"
    ):
        optimizer.layer_scales({"head": {"kernel": 0}}, 0.8)
    assert optimizer.layer_scales({"head": {"kernel": 0}}, 1.0) == {"head": {"kernel": 1.0}}


def test_layer_decay_that_does_not_fit_is_refused_before_the_first_update():
    with pytest.raises(InputError, match="^optimizer.layer_decay_type is 'double'; accepted: gro"):
        optimizer.adamw(1e-3, layer_decay_type="double")
    for frozen in (None, "^head/bias"):
        tx = optimizer.adamw(1e-3, layer_decay=0.8, frozen=frozen)
        with pytest.raises(InputError, match=r"^optimizer.layer_decay is 0\.8; accepted: 1, for p"):
            tx.init({"head": {"kernel": jnp.zeros(2), "bias": jnp.zeros(2)}})


def test_ten_updates_are_those_of_pytorch():
    names = reference.shapes()
    params = {name: jnp.asarray(reference.value(i, names[name])) for i, name in enumerate(names)}
    params = unflatten_dict(params, sep="/")
    tx = optimizer.adamw(
        lambda step: reference.learning_rate(step), num_steps=reference.STEPS,
        weight_decay=reference.WEIGHT_DECAY, weight_decay_end=reference.WEIGHT_DECAY_END,
        clip_norm=reference.CLIP_NORM, layer_decay=reference.LAYER_DECAY,
    )  # fmt: skip
    state = steps.start({"params": params}, tx=tx, ema_decays=(reference.EMA_DECAY,))
    update = jax.jit(partial(steps.Update(tx, (reference.EMA_DECAY,)).apply, others={}))
    for step in range(reference.STEPS):
        grads = {name: reference.gradient(step, i, names[name]) for i, name in enumerate(names)}
        state = update(state, unflatten_dict(grads, sep="/"))
    made = {"params": state.params, "ema": state.ema_params[str(reference.EMA_DECAY)]}
    for name, value in flatten_dict(made, sep="/").items():
        np.testing.assert_allclose(value, PYTORCH[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_weight_decay_follows_a_cosine(tiny_params):
    tx = optimizer.adamw(lambda step: 1.0, num_steps=4, weight_decay=0.5, weight_decay_end=0.1)
    params = jax.device_get(tiny_params)
    zeros, state, decays = jax.tree.map(np.zeros_like, params), tx.init(params), []
    update = jax.jit(tx.update)
    for _ in range(4):
        updates, state = jax.device_get(update(zeros, state, params))
        ratio = updates["head"]["kernel"] / params["head"]["kernel"]
        decays.append(-float(ratio.mean()))
        assert not updates["head"]["bias"].any()
    cosine = [0.1 + 0.4 * (1 + np.cos(np.pi * i / 4)) / 2 for i in range(4)]
    assert decays == pytest.approx(cosine)


def test_what_is_frozen_has_no_update_and_no_state(tiny_params):
    tx = optimizer.adamw(lambda step: 1.0, frozen="^(?!head/)")
    updates = first_update(tx, ones(tiny_params), tiny_params)
    changed = {name for name, leaf in flatten_dict(updates, sep="/").items() if leaf.any()}
    assert changed == {"head/kernel", "head/bias"}
    head = sum(leaf.size for leaf in jax.tree.leaves(tiny_params["head"]))
    state = jax.eval_shape(tx.init, tiny_params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * head + 2  # and two counts


@pytest.mark.parametrize("pattern", ["(", "nothing", ""])
def test_a_frozen_pattern_that_tells_nothing_apart_is_refused(tiny_params, pattern):
    with pytest.raises(InputError, match=rf"frozen is '{re.escape(pattern)}'.*; accepted: a regul"):
        optimizer.frozen_mask(tiny_params, pattern)


def test_frozen_patterns_and_the_decay_see_full_names(tiny_params):
    params = {"backbone": tiny_params, "neck": {"kernel": np.ones(2), "bias": np.ones(2)}}
    top = flatten_dict(optimizer.decay_mask(tiny_params), sep="/")
    mask = flatten_dict(optimizer.decay_mask(params), sep="/")
    neck = {"neck/kernel": True, "neck/bias": False}
    assert mask == {f"backbone/{name}": at for name, at in top.items()} | neck
    mask = flatten_dict(optimizer.frozen_mask(params, "^backbone/st"), sep="/")
    assert {name for name, at in mask.items() if at} == {
        f"backbone/{name}" for name in top if name.startswith(("stem", "stage"))
    }
    norm = lambda p: optax.tree.norm(optimizer.stop_gradients(p, "^backbone/st"), squared=True)  # noqa: E731
    grads = flatten_dict(jax.device_get(jax.jit(jax.grad(norm))(params)), sep="/")
    assert not any(grads[name].any() for name, at in mask.items() if at)
    assert grads["neck/kernel"].all() and grads["backbone/head/kernel"].any()


def test_an_update_reads_and_writes_each_array_once():
    """Two moments read the gradients; parameters read both; the average reads the parameters."""
    tx = optimizer.adamw(lambda step: 1e-3)
    params = {"a": {"kernel": jnp.zeros((256, 256))}, "b": {"kernel": jnp.zeros((256, 512))}}
    state = steps.start({"params": params}, tx=tx, ema_decays=(0.99,))
    update = jax.jit(steps.Update(tx, (0.99,)).apply, donate_argnums=0)
    compiled = update.lower(state, params, {}, jnp.array(True)).compile()
    assert compiled.cost_analysis()["bytes accessed"] / (4 * 256 * 768) < 13.1
