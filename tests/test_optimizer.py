import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from convnext import VARIANTS, ConvNeXt, optimizer
from convnext.errors import InputError

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
