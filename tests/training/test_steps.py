from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from convnext import sharding
from convnext.data import in_memory, pipeline
from convnext.data.batches import TrainBatches
from convnext.data.epochs import Epochs
from convnext.images import augment
from convnext.task import Evaluation, add, append, joined
from convnext.tasks import classification
from convnext.training import erasing, losses, metrics, mixup, optimizer, steps
from tests.helpers import classifiers

NORMALIZE = partial(steps.normalize, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
DECAYS = (0.9, 0.99)
LABELS_ONLY = partial(mixup.mix, num_classes=5, mixup_alpha=0.0, cutmix_alpha=0.0)


@pytest.fixture(scope="module")
def parts(tiny_model):
    """Model with drop path, optimizer, and the state before the first update."""
    model = tiny_model.clone(depths=(1, 1), drop_path_rate=0.5)
    schedule = optimizer.schedule(50, 10, peak_lr=5e-3, warmup_epochs=1)
    tx = optimizer.adamw(schedule)
    init = partial(classifiers.init, model=model, tx=tx, image_size=12, ema_decays=DECAYS)
    return model, tx, jax.jit(init)


def step_function(parts, **changes):
    model, tx, _ = parts
    keywords = dict(model=model, tx=tx, normalize=NORMALIZE, mix=LABELS_ONLY,
                    key=jax.random.key(1), ema_decays=DECAYS)  # fmt: skip
    return partial(classifiers.train_step, **(keywords | changes))


@pytest.fixture(scope="module")
def one_device(parts, batch):
    """The step compiled for one device, and what it makes of three updates."""
    state = parts[2](jax.random.key(0))
    step = jax.jit(step_function(parts))
    trace = []
    for _ in range(3):
        state, values = step(state, batch)
        trace.append((state, values))
    return step, trace


@pytest.fixture(scope="module")
def no_drop_path(parts):
    """The step of the model without drop path."""
    return jax.jit(step_function(parts, model=parts[0].clone(drop_path_rate=0.0)))


@pytest.fixture(scope="module")
def logits(tiny_model, tiny_params, batch):
    apply = jax.jit(lambda images: tiny_model.apply({"params": tiny_params}, NORMALIZE(images)))
    return jax.device_get(apply(batch["image"]))


def assert_close(a, b, rtol=2e-4, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_normalize_gives_the_published_input():
    image = np.array([[[[0, 127, 255]]]], np.uint8)
    out = NORMALIZE(jnp.asarray(image))
    expected = (image / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.slow
def test_the_loss_falls_on_one_repeated_batch(parts, batch, no_drop_path):
    state, trace = parts[2](jax.random.key(0)), []
    for _ in range(40):
        state, values = no_drop_path(state, batch)
        trace.append(float(values["loss"]))
    assert trace[0] == pytest.approx(np.log(5), rel=0.05)
    assert trace[-1] < 0.75  # label smoothing alone leaves 0.42


@pytest.mark.parametrize("problem_type", [losses.MULTI_LABEL, losses.REGRESSION])
def test_labels_that_are_rows_of_numbers_are_learned(parts, batch, problem_type):
    rows = np.random.default_rng(1).integers(0, 2, (16, 5)).astype(np.float32)
    mix = partial(LABELS_ONLY, problem_type=problem_type)
    model = parts[0].clone(drop_path_rate=0.0)
    step = jax.jit(step_function(parts, model=model, mix=mix, problem_type=problem_type))
    state, trace = parts[2](jax.random.key(0)), []
    for _ in range(40):
        state, values = step(state, {**batch, "label": rows})
        trace.append(float(values["loss"]))
    chance = {losses.MULTI_LABEL: np.log(2), losses.REGRESSION: rows.mean()}[problem_type]
    assert trace[0] == pytest.approx(chance, rel=0.05)
    assert trace[-1] < 0.5 * chance


def test_a_step_is_a_function_of_seed_and_step(parts, batch, one_device):
    step, trace = one_device
    again, values = step(trace[0][0], batch)
    jax.tree.map(np.testing.assert_array_equal, (again, values), trace[1])
    moved = trace[0][0].replace(step=jnp.int32(7))  # other step, other drop path
    assert step(moved, batch)[1]["loss"] != values["loss"]
    other = jax.jit(step_function(parts, key=jax.random.key(2)))
    assert other(trace[0][0], batch)[1]["loss"] != values["loss"]


def test_the_first_update_has_rate_zero_and_counts(parts, one_device):
    start = parts[2](jax.random.key(0))
    first = one_device[1][0][0]
    jax.tree.map(np.testing.assert_array_equal, first.params, start.params)
    assert [int(state.step) for state, _ in one_device[1]] == [1, 2, 3]


def test_the_averages_follow_their_definition(parts, one_device):
    expected = {str(d): jax.device_get(parts[2](jax.random.key(0)).params) for d in DECAYS}
    for state, _ in jax.device_get(one_device[1]):
        for d in DECAYS:
            expected[str(d)] = jax.tree.map(
                lambda ema, p, d=d: d * ema + (1 - d) * p, expected[str(d)], state.params
            )
    assert_close(one_device[1][-1][0].ema_params, expected, rtol=1e-5)


@pytest.mark.parametrize("ema_warmup", [False, True])
def test_a_slow_average_moves_by_a_ten_thousandth_to_the_last_digit(ema_warmup):
    params = {"head": {"kernel": np.ones((2, 3), np.float32)}}
    zeros = jax.tree.map(np.zeros_like, params)
    tx = optimizer.adamw(lambda step: 0.0)
    state = steps.start({"params": params}, tx=tx, ema_decays=(0.9999,))
    state = state.replace(step=jnp.int32(2_000_000), ema_params={"0.9999": zeros})
    state = jax.jit(steps.Update(tx, (0.9999,), ema_warmup).apply)(state, zeros, {})
    assert_close(state.ema_params["0.9999"], jax.tree.map(lambda p: 1e-4 * p, params), 1e-6, 0)


def test_averages_may_warm_up(parts, batch):
    step = jax.jit(step_function(parts, ema_warmup=True))
    state, expected = parts[2](jax.random.key(0)), None
    for t in range(3):
        state = jax.device_get(step(state, batch)[0])
        # At most 1 - 1 / (1 + t)**(2/3), which is below 0.9 for the first 31 updates.
        decay = 1 - (1 + t) ** (-2 / 3)
        blend = lambda ema, p, d=decay: d * ema + (1 - d) * p  # noqa: E731
        expected = jax.tree.map(blend, state.params if t == 0 else expected, state.params)
    for ema_params in state.ema_params.values():
        assert_close(ema_params, expected, rtol=1e-5)
    update = jax.jit(steps.Update(parts[1], ema_decays=(0.9,), ema_warmup=True).apply)
    late = jax.device_get(update(state.replace(step=np.int32(31)), state.params, {}))
    expected = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, state.ema_params["0.9"], late.params)
    assert_close(late.ema_params["0.9"], expected, rtol=1e-5)


def test_a_linear_probe_learns_the_head_alone(parts, batch, one_device):
    params = parts[2](jax.random.key(0)).params
    pattern = "^(?!head/)"
    tx = optimizer.adamw(lambda step: 1e-2, frozen=pattern)
    state = steps.start({"params": params}, tx=tx, ema_decays=DECAYS)
    probe = jax.jit(step_function(parts, tx=tx, frozen=pattern)).lower(state, batch).compile()
    state, values = jax.device_get(probe(state, batch))
    for name, before in params.items():
        for a, b in zip(*map(jax.tree.leaves, (before, state.params[name])), strict=True):
            assert np.array_equal(a, b) == (name != "head")
    step, trace = one_device
    whole = step.lower(parts[2](jax.random.key(0)), batch).compile()
    assert 0 < values["grad_norm"] < trace[0][1]["grad_norm"]
    # A backward pass is two thirds of an update.
    assert probe.cost_analysis()["flops"] < 0.5 * whole.cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.usefixtures("uniform_lambda")
def test_grad_norm_and_loss_are_those_of_the_erased_and_mixed_batch(parts, batch):
    model, _, init = parts
    mix, erase = partial(mixup.mix, num_classes=5, group_size=4), partial(erasing.erase, prob=0.5)
    state = init(jax.random.key(0))
    _, values = jax.jit(step_function(parts, mix=mix, erase=erase))(state, batch)

    @jax.jit
    def loss_and_norm(params):
        step_key = jax.random.fold_in(jax.random.key(1), 0)
        mix_key, dropout_key, erase_key = jax.random.split(step_key, 3)
        images = erase(erase_key, NORMALIZE(batch["image"]))
        images, targets = mix(mix_key, images, batch["label"])

        def loss(params):
            rngs = {"dropout": dropout_key}
            logits = model.apply({"params": params}, images, train=True, rngs=rngs)
            return -(targets * jax.nn.log_softmax(logits)).sum(-1).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return value, jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))

    loss, norm = loss_and_norm(state.params)
    expected = {"loss": loss, "grad_norm": norm, "skipped": 0, "skipped_in_a_row": 0}
    assert_close(values, expected, rtol=1e-4)


@pytest.fixture(scope="module")
def breaking(parts):
    """The step with targets that are infinite where an image is white, and 1e37 where it is nearly
    so."""

    def mix(key, images, labels):
        level = images.min()
        factor = jnp.where(level == 255, jnp.inf, jnp.where(level == 250, 1e37, 1.0))
        return images / 255, jax.nn.one_hot(labels, 5) * factor

    return jax.jit(step_function(parts, mix=mix, normalize=lambda images: images))


@pytest.mark.parametrize("level", [255, 250])  # a loss, or only its gradients
def test_an_update_that_is_not_finite_is_skipped_and_counted(parts, batch, breaking, level):
    white = {**batch, "image": np.full_like(batch["image"], level)}
    before, _ = breaking(parts[2](jax.random.key(0)), batch)
    state = before
    for count in (1, 2):
        state, values = breaking(state, white)
        assert int(values["skipped"]) == int(values["skipped_in_a_row"]) == count
        assert not np.isfinite(values["grad_norm"])
        assert np.isfinite(values["loss"]) == (level == 250)
    assert int(state.step) == 3
    for name in ("params", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(before, name))
    adam, schedule = state.opt_state[1], state.opt_state[3]
    jax.tree.map(np.testing.assert_array_equal, adam, before.opt_state[1])
    assert int(schedule.count) == 3  # the rate is that of the step
    state, values = breaking(state, batch)
    assert (int(values["skipped"]), int(values["skipped_in_a_row"])) == (2, 0)
    assert np.isfinite(values["loss"]) and int(state.opt_state[1].count) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "accumulation_steps, fsdps, remat", [(1, (4,), False), (2, (4, 1), True)]
)  # fmt: skip
def test_eight_devices_that_share_the_state_do_what_one_does(
    parts, batch, one_device, accumulation_steps, fsdps, remat
):
    init = parts[2]
    plain = step_function(parts, accumulation_steps=accumulation_steps)
    reference = one_device[0] if accumulation_steps == 1 else jax.jit(plain)
    expected = [(init(jax.random.key(0)), None)]
    for _ in range(3):
        expected.append(reference(expected[-1][0], batch))
    for fsdp in fsdps:
        mesh = sharding.make_mesh(fsdp=fsdp)
        state_sharding = sharding.state_sharding(expected[0][0], mesh)
        by_batch, replicated = sharding.batch_sharding(mesh), sharding.replicated(mesh)
        step = jax.jit(
            partial(plain, model=parts[0].clone(remat=remat), gathered=replicated),
            in_shardings=(state_sharding, by_batch),
            out_shardings=(state_sharding, replicated),
            donate_argnums=0,
        )
        state = jax.device_put(init(jax.random.key(0)), state_sharding)
        placed = jax.device_put(batch, by_batch)
        for expected_state, expected_values in expected[1:]:
            with jax.transfer_guard("disallow"):
                state, values = step(state, placed)
            assert_close(values, expected_values, rtol=1e-5)
            assert_close(state.params, expected_state.params, rtol=1e-3, atol=2e-4)
        split = [leaf for leaf in jax.tree.leaves(state.params) if "fsdp" in leaf.sharding.spec]
        assert bool(split) == (fsdp > 1)


@pytest.mark.slow
@pytest.mark.usefixtures("uniform_lambda")
def test_fifty_losses_do_not_depend_on_the_number_of_devices(parts):
    """With all that is random: shuffled, augmented, mixed within groups that 4 and 8 devices split,
    erased, dropped. The step as train.py binds it."""
    model = parts[0].clone(depths=(2,), dims=(8,))
    init = partial(classifiers.init, model=model, tx=parts[1], image_size=12, ema_decays=DECAYS)
    start = jax.jit(init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int32) % 5
    images = rng.integers(0, 50, (40, 12, 12, 3), dtype=np.uint8)
    images += 50 * labels[:, None, None, None].astype(np.uint8)
    source = in_memory.Arrays(images, labels, "abcde")
    transform = partial(augment.train, image_size=12, affine_degrees=20.0)
    batches = TrainBatches(source, transform, Epochs(len(source), 16, num_epochs=25))

    def losses_on(data, fsdp):
        devices = np.array(jax.devices()[: data * fsdp]).reshape(data, fsdp)
        mesh = Mesh(devices, ("data", "fsdp"))
        whole, rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        state_sharding = sharding.state_sharding(start, mesh)
        step = step_function(parts, model=model, erase=partial(erasing.erase, prob=0.5),
                             mix=partial(mixup.mix, num_classes=5, group_size=8, mesh=mesh),
                             gathered=whole)  # fmt: skip
        jitted = jax.jit(step, in_shardings=(state_sharding, rows),
                           out_shardings=(state_sharding, whole))  # fmt: skip
        state, values = jax.device_put(start, state_sharding), []
        feed = pipeline.Feed(rows)
        compiled = jitted.lower(state, next(feed.train(batches))).compile()
        for batch in feed.train(batches):
            with jax.transfer_guard("disallow"):
                state, scalars = compiled(state, batch)
            values.append(float(scalars["loss"]))
        return values

    expected = losses_on(1, 1)
    assert len(expected) == 50 and np.mean(expected[:5]) - np.mean(expected[-5:]) > 0.1
    for data, fsdp in ((2, 1), (4, 1), (8, 1), (2, 4)):
        np.testing.assert_allclose(losses_on(data, fsdp), expected, rtol=1e-5)


@pytest.mark.slow
def test_accumulation_without_drop_path_is_the_large_batch(parts, batch, no_drop_path):
    model = parts[0].clone(drop_path_rate=0.0)
    state = parts[2](jax.random.key(0))
    in_four = jax.jit(step_function(parts, model=model, accumulation_steps=4))
    for _ in range(2):
        expected, values = no_drop_path(state, batch)
        state, values_in_four = in_four(state, batch)
        assert_close(values_in_four, values, rtol=1e-5)
        assert_close(state.opt_state[1].mu, expected.opt_state[1].mu, rtol=1e-3, atol=1e-6)
        state = expected


@pytest.mark.slow
def test_each_part_of_an_accumulated_batch_drops_other_paths(parts, batch):
    model = parts[0]
    same = jax.tree.map(lambda x: np.repeat(x[:4], 4, axis=0), batch)  # four equal parts
    state = parts[2](jax.random.key(0))
    in_four = jax.jit(step_function(parts, model=model, accumulation_steps=4))
    quarter = jax.tree.map(lambda x: x[::4], same)

    @jax.jit
    def loss_of_part(index):
        key = jax.random.split(jax.random.fold_in(jax.random.key(1), 0))[1]
        rngs = {"dropout": jax.random.fold_in(key, index)}
        images, targets = LABELS_ONLY(None, NORMALIZE(quarter["image"]), quarter["label"])
        logits = model.apply({"params": state.params}, images, train=True, rngs=rngs)
        return optax.softmax_cross_entropy(logits, targets).mean()

    losses = [float(loss_of_part(index)) for index in range(4)]
    assert len(set(losses)) == 4
    assert float(in_four(state, same)[1]["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_evaluation_counts_every_example_once_whatever_the_batch_size(
    tiny_model, tiny_params, batch, logits
):
    label, logits = batch["label"][:13], logits[:13]
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    order = np.argsort(-logits, axis=1)
    expected = {
        "val/loss": -float(log_probs[np.arange(13), label].mean()),
        "val/top1": float((order[:, 0] == label).mean()),
        "val/top5": 1.0,
        "val_ema/loss": np.log(5),  # of weights that are all zero
        "val_ema/top1": float((label == 0).mean()),
        "val_ema/top5": 1.0,
    }
    evaluation = classifiers.evaluation(tiny_model, NORMALIZE)
    eval_step = jax.jit(partial(steps.eval_step, measure=evaluation.measure))
    zeros = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), tiny_params)
    weights = {"val": {"params": tiny_params}, "val_ema": {"params": zeros}}
    for size in (16, 8, 4):
        batches = [
            {name: value[i : i + size] for name, value in batch.items()} for i in range(0, 16, size)
        ]
        totals = steps.evaluate(eval_step, evaluation, weights, batches)
        assert steps.scores(evaluation, totals) == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_drops_no_paths(tiny_model, tiny_params, batch):
    def measured(drop_path_rate):
        model = tiny_model.clone(drop_path_rate=drop_path_rate)
        measure = classifiers.evaluation(model, NORMALIZE).measure
        return jax.jit(partial(steps.eval_step, measure=measure))({"params": tiny_params}, batch)

    jax.tree.map(np.testing.assert_array_equal, measured(0.9), measured(0.0))


def test_a_classifier_counts_its_confusions_in_the_same_pass(
    tiny_model, tiny_params, batch, logits
):
    measure = partial(
        classification.measure, model=tiny_model, normalize=NORMALIZE,
        problem_type=losses.SINGLE_LABEL, has_matrix=True,
    )  # fmt: skip
    found = jax.jit(measure)({"params": tiny_params}, batch)["confusion"]
    expected = np.zeros((5, 5), int)
    np.add.at(expected, (batch["label"][:13], logits.argmax(axis=1)[:13]), 1)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.int32


def test_weights_are_named_by_the_order_of_the_decays(parts):
    state = parts[2](jax.random.key(0)).replace(params="p", ema_params={"0.9": "a", "0.99": "b"})
    state = state.replace(others={"batch_stats": "s"})
    update = steps.Update(None, (0.99, 0.9))
    weights = {
        "val": {"params": "p", "batch_stats": "s"},
        "val_ema": {"params": "b", "batch_stats": "s"},
        "val_ema_0.9": {"params": "a", "batch_stats": "s"},
    }
    assert list(update.weights(state).items()) == list(weights.items())
    assert (update.best("top1"), update.best("-loss")) == ("val_ema/top1", "-val_ema/loss")
    assert list(steps.Update(None).weights(state)) == ["val"]
    assert steps.Update(None).best("top1") == "val/top1"


def test_rows_are_kept_in_order_without_those_of_mask_0(tiny_model, tiny_params, batch, logits):
    def measure(variables, batch):
        logits = tiny_model.apply(variables, NORMALIZE(batch["image"]))
        return metrics.outputs(logits, batch["label"], batch["mask"]) | {"index": batch["index"]}

    masked = {**batch, "mask": batch["mask"] * (np.arange(16) != 5)}  # one that cannot be read
    index = np.array([*range(13), -1, -1, -1], np.int32)
    index[:8] = index[:8][::-1]  # as with groups, where they come in another order
    masked = {name: np.concatenate([x[:8][::-1], x[8:]]) for name, x in masked.items()}
    masked["index"] = index
    batches = [{name: value[i : i + 8] for name, value in masked.items()} for i in (0, 8)]
    evaluation = Evaluation(None, None, measure, combine=append, scores=joined)
    eval_step = jax.jit(partial(steps.eval_step, measure=measure))
    totals = steps.evaluate(eval_step, evaluation, {"": {"params": tiny_params}}, batches)
    rows = evaluation.scores(totals[""])
    assert rows["index"].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    np.testing.assert_array_equal(rows["label"], batch["label"][rows["index"]])
    np.testing.assert_array_equal(rows["prediction"], logits.argmax(axis=1)[rows["index"]])
    probabilities = np.asarray(jax.nn.softmax(logits)).max(axis=1)[rows["index"]]
    np.testing.assert_allclose(rows["confidence"], probabilities, rtol=1e-5)


ADDING = Evaluation(None, None, None)


def multiply(variables, batch):
    return np.float32(variables * batch)


def test_an_evaluation_is_stopped_between_batches_and_has_no_totals_then():
    batches, stops = iter(range(1, 6)), iter([False, False, True]).__next__
    assert steps.evaluate(multiply, ADDING, {"val": 10.0}, batches, stops) is None
    assert list(batches) == [4, 5]
    assert steps.evaluate(multiply, ADDING, {"val": 10.0}, range(1, 6)) == {"val": 150}


def test_an_evaluation_does_not_wait_for_the_batch_at_hand():
    """What a batch gives is combined when two further ones are on their way."""
    seen = []

    def combine(total, result):
        seen.append((int(result), asked))
        return 0

    evaluation = Evaluation(None, None, None, combine=combine)
    asked = 0

    def batch(number):
        nonlocal asked
        asked = number
        return number

    identity = lambda variables, batch: np.int32(batch)  # noqa: E731
    steps.evaluate(identity, evaluation, {"val": {}}, map(batch, range(1, 6)))
    assert seen == [(1, 3), (2, 4), (3, 5), (4, 5), (5, 5)]


def test_sums_of_an_evaluation_are_as_wide_as_they_need_to_be():
    result = {"loss": np.float32(16777217.0), "count": np.int32(2**31 - 1)}
    total = add(add(None, result), {"loss": np.float32(1.0), "count": np.int32(1)})
    assert total == {"loss": 16777217.0, "count": 2**31}
    assert (total["loss"].dtype, total["count"].dtype) == (np.float64, np.int64)
