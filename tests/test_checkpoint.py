import math
from functools import partial

import jax
import numpy as np
import pytest

from convnext import checkpoint, mixup, optimizer, sharding, steps
from convnext.errors import InputError


@pytest.fixture(scope="module")
def run(tiny_model, batch):
    """init, a compiled step, and an unchanging batch."""
    model = tiny_model.clone(drop_path_rate=0.5)
    tx = optimizer.adamw(optimizer.warmup_cosine(4, 5, peak_lr=5e-3, warmup_epochs=1))
    init = jax.jit(partial(steps.init, model=model, tx=tx, image_size=12, ema_decays=(0.9, 0.99)))
    step = partial(
        steps.train_step,
        model=model,
        tx=tx,
        normalize=partial(steps.normalize, mean=(0.5,) * 3, std=(0.2,) * 3),
        mix=partial(mixup.mix, num_classes=5, mixup_alpha=0.0, cutmix_alpha=0.0),
        key=jax.random.key(1),
        ema_decays=(0.9, 0.99),
    )
    step = jax.jit(step)
    return init, lambda state: step(state, batch)[0]


def shape_and_place(init, fsdp=1):
    mesh = sharding.make_mesh(fsdp=fsdp)
    abstract = jax.eval_shape(init, jax.random.key(0))
    return abstract, sharding.of_state(abstract, mesh)


def save(workdir, state, metrics=None, keep=3):
    with checkpoint.open_checkpoints(workdir, keep=keep, best_metric="val_ema/top1") as checkpoints:
        checkpoints.save_async(int(state.step), state, metrics=metrics)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.usefixtures("uncached")
@pytest.mark.parametrize("fsdp", [1, 4])
def test_two_and_two_steps_with_a_restore_between_are_four(run, tmp_path, fsdp):
    init, step = run
    straight = init(jax.random.key(0))
    for _ in range(4):
        straight = step(straight)
    state = step(step(init(jax.random.key(0))))
    save(tmp_path, state)
    restored = checkpoint.restore(tmp_path, *shape_and_place(init, fsdp))
    assert isinstance(restored, steps.TrainState)
    assert_equal(restored, state)
    kernel = restored.params["stage_1_block_0"]["pwconv1"]["kernel"]
    assert kernel.sharding.is_fully_replicated == (fsdp == 1)
    if fsdp == 1:
        on_one = jax.device_put(restored, jax.devices()[0])
        assert_equal(step(step(on_one)), straight)


def test_the_parameters_or_an_average_are_read_alone(run, tmp_path):
    init, step = run
    state = step(step(init(jax.random.key(0))))
    save(tmp_path, state)
    abstract = jax.eval_shape(init, jax.random.key(0)).params
    place = sharding.replicated(sharding.make_mesh())
    assert_equal(checkpoint.restore_params(tmp_path, abstract, place), state.params)
    average = checkpoint.restore_params(tmp_path, abstract, place, ema_decay=0.99)
    assert_equal(average, state.ema_params["0.99"])
    with pytest.raises(InputError, match="ema_params/0.5/.* is missing there"):
        checkpoint.restore_params(tmp_path, abstract, place, ema_decay=0.5)


def test_the_latest_and_the_best_are_kept(run, tmp_path):
    state = run[0](jax.random.key(0))
    top1 = {1: 0.3, 2: 0.9, 3: math.nan, 4: 0.5, 5: None, 6: 0.4}
    with checkpoint.open_checkpoints(tmp_path, keep=2, best_metric="val_ema/top1") as checkpoints:
        for step, value in top1.items():
            metrics = None if value is None else {"val_ema/top1": value, "val/loss": 1.0}
            checkpoints.save_async(step, state, metrics=metrics)
    with checkpoint.open_checkpoints(tmp_path, keep=2, best_metric="val_ema/top1") as checkpoints:
        assert [c.step for c in checkpoints.checkpoints] == [2, 5, 6]
    assert checkpoint.latest_step(tmp_path) == 6


def test_an_empty_or_missing_workdir_is_at_step_zero(tmp_path):
    assert checkpoint.latest_step(tmp_path) == 0
    assert checkpoint.latest_step(tmp_path / "nowhere") == 0
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="no checkpoint in .*; accepted: the workdir of a"):
        checkpoint.restore(tmp_path, {}, {})


@pytest.mark.parametrize(
    "change, message",
    [
        (
            dict(dims=(8, 24)),
            r"params/downsample_1_conv/bias is \(16,\) there and \(24,\) here",
        ),
        (dict(depths=(1, 3)), r"params/stage_1_block_2/\S+ is missing there and \(\S+\) here"),
        (dict(depths=(1, 1)), r"params/stage_1_block_1/\S+ is \(16,\) there and missing here"),
    ],
)
def test_the_checkpoint_of_another_model_is_refused_by_name(
    run, tiny_model, tmp_path, change, message
):
    save(tmp_path, run[1](run[0](jax.random.key(0))))
    before = sorted(path.name for path in tmp_path.rglob("*"))
    model = tiny_model.clone(**change)
    tx = optimizer.adamw(optimizer.warmup_cosine(4, 5, peak_lr=5e-3, warmup_epochs=1))
    init = partial(steps.init, model=model, tx=tx, image_size=12, ema_decays=(0.9, 0.99))
    abstract, place = shape_and_place(init)
    with pytest.raises(InputError, match=f"holds another model: {message}"):
        checkpoint.restore(tmp_path, abstract, place)
    with pytest.raises(InputError, match="holds another model: ema_params/0.99/"):
        checkpoint.restore_params(
            tmp_path, abstract.params, sharding.replicated(sharding.make_mesh()), ema_decay=0.99
        )
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
