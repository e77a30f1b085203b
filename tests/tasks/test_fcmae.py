import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh
from PIL import Image

import eval as eval_command
import train as train_command
from configs import fcmae as fcmae_config
from configs import pretrain_folder
from convnext import ConvNeXt, from_pretrained, save_pretrained, sharding, tasks
from convnext.evaluation.requests import Request
from convnext.models import fcmae
from convnext.runs import log
from convnext.tasks import fcmae as task_of_fcmae
from convnext.weights import pretrained
from tests.helpers.inputs import noise, refused
from tests.helpers.pretraining import config_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The workdir of a small run, and its last state."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train_command.train(config_of(), workdir)


def batch_of(task, count=8):
    examples = [task.train_source[index] for index in range(count)]
    batch = {name: np.stack([each[name] for each in examples]) for name in examples[0]}
    numbers = dict(epoch=np.zeros(count, np.int32), index=np.arange(count, dtype=np.int32))
    return {**batch, **numbers}


def test_the_loss_falls_and_is_logged(finished):
    lines = log.read(finished[0] / "metrics.jsonl")
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    first, last = losses[0], losses[-1]
    assert first == pytest.approx(1, abs=0.1) and last < first - 0.03
    scores = [line["val/loss"] for line in lines if "val/loss" in line]
    assert len(scores) == 2 and scores[1] < scores[0] < 1


def test_eval_py_finds_the_loss_of_the_run(finished, tmp_path):
    workdir, _ = finished
    expected = [line["val/loss"] for line in log.read(workdir / "metrics.jsonl")
                if "val/loss" in line][-1]  # fmt: skip
    for batch_size in (128, 96):
        path = tmp_path / f"{batch_size}.json"
        request = Request(weights=["raw"], batch_size=batch_size)
        eval_command.answer(request, None, workdir, json=str(path))
        (row,) = json.loads(path.read_text())
        assert row["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(finished, tmp_path):
    class After(train_command.interruption.Watch):
        def stops_after(self, step, *args, **keywords):
            return step == 15 or super().stops_after(step, *args, **keywords)

    train_command.train(config_of(), tmp_path, After())
    assert log.read(tmp_path / "metrics.jsonl")[-1]["step"] == 15
    state = train_command.train(config_of(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state.params, finished[1].params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"accumulation_steps": 4}, {"model.remat": True}, {"mesh.fsdp": 2}, {"mesh.data": -1}],
    ids=str,
)
def test_parts_devices_and_remat_change_nothing(finished, changes, tmp_path, monkeypatch):
    if "mesh.fsdp" not in changes and "mesh.data" not in changes:
        one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
        monkeypatch.setattr(sharding, "make_mesh", lambda **_: one)
    state = train_command.train(config_of(num_epochs=1, **changes), tmp_path)
    assert int(state.step) == 11
    found, plain = (
        [line["train/loss"] for line in log.read(workdir / "metrics.jsonl")][:11]
        for workdir in (tmp_path, finished[0])
    )
    assert found == pytest.approx(plain, rel=2e-5)  # the warm-up is as long


def test_masks_are_those_of_the_key_and_of_the_numbers_of_images():
    task = tasks.make(config_of(), sharding.make_mesh())
    batch = batch_of(task)
    keys = jax.random.split(jax.random.key(0))
    first, again = (task.prepare(keys, batch) for _ in range(2))
    np.testing.assert_array_equal(first["order"], again["order"])
    other = task.prepare(jax.random.split(jax.random.key(1)), batch)
    assert (np.asarray(first["order"]) != np.asarray(other["order"])).any()
    assert first["image"].dtype == jnp.float32 and first["image"].shape == (8, 16, 16, 3)

    draw = partial(task_of_fcmae.masks_of, grid=(4, 4))
    order, ranks = draw(0, jnp.arange(8))
    np.testing.assert_array_equal(order[5], draw(0, jnp.array([5]))[0][0])
    np.testing.assert_array_equal(jnp.argsort(order, axis=1), ranks)
    assert len({tuple(row) for row in np.asarray(order).tolist()}) == 8
    assert (np.asarray(order) != np.asarray(draw(1, jnp.arange(8))[0])).any()


@pytest.mark.slow
def test_in_bfloat16_the_loss_is_float32():
    task = tasks.make(config_of(**{"model.dtype": "bfloat16"}), sharding.make_mesh())
    variables = task.init(jax.random.key(0))
    batch = task.prepare(jax.random.split(jax.random.key(0)), batch_of(task))
    loss, _ = task.loss(variables, batch, jax.random.key(0))
    plain = tasks.make(config_of(), sharding.make_mesh())
    expected, _ = plain.loss(variables, batch, jax.random.key(0))
    assert loss.dtype == jnp.float32
    assert float(loss) == pytest.approx(float(expected), rel=5e-3) and loss != expected


def test_what_the_official_script_decays():
    task = tasks.make(config_of(), sharding.make_mesh())
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    mask = flatten_dict(task.rules["decay_mask"](params), sep="/")
    own = {key for key, is_decayed in mask.items() if is_decayed}
    assert own == {
        key for key in mask
        if key.endswith(("kernel", "grn/gamma", "grn/beta")) or key == "mask_token"
    }  # fmt: skip
    assert {"stage_0_block_0/grn/gamma", "mask_token", "pred/kernel"} < own


def test_the_rate_follows_from_the_batch():
    config = config_of(batch_size=64)
    with config.unlocked():
        config.schedule.peak_lr = None
    found = tasks.make(config, sharding.make_mesh()).config
    assert found.schedule.peak_lr == 1.5e-4 * 64 / 256 and config.schedule.peak_lr is None
    assert tasks.make(config_of(), sharding.make_mesh()).config.schedule.peak_lr == 2e-3


def test_fine_tuning_starts_from_the_encoder(finished):
    workdir, state = finished
    model, params = from_pretrained(workdir, num_classes=7)
    assert isinstance(model, ConvNeXt) and model.num_classes == 7 and model.use_grn
    flat, trained = (flatten_dict(each, sep="/") for each in (params, state.params))
    encoder = {key for key in trained if not fcmae.is_of_decoder(key)}
    assert flat.keys() - encoder == {"norm/scale", "norm/bias", "head/kernel", "head/bias"}
    for key in encoder:
        np.testing.assert_array_equal(flat[key], trained[key], key)
    found = pretrained.load(workdir)
    assert found.processor.size == 16 and found.labels == ()
    assert "val/loss" in found.origin


def test_pre_training_starts_from_weights_of_any_kind(finished, tmp_path):
    workdir, state = finished
    task = tasks.make(config_of(), sharding.make_mesh())
    whole = flatten_dict(task.pretrained(str(workdir), jax.random.key(5))["params"], sep="/")
    for key, value in flatten_dict(state.params, sep="/").items():
        np.testing.assert_array_equal(whole[key], value, key)

    model, params = from_pretrained(workdir, num_classes=3)
    save_pretrained(tmp_path, model, params)
    part = flatten_dict(task.pretrained(str(tmp_path), jax.random.key(5))["params"], sep="/")
    drawn = flatten_dict(task.init(jax.random.key(5))["params"], sep="/")
    for key, value in part.items():
        expected = drawn[key] if fcmae.is_of_decoder(key) else whole[key]
        np.testing.assert_array_equal(value, expected, key)
    wider = tasks.make(config_of(**{"model.dims": (8, 24)}), sharding.make_mesh())
    refused("does not fit the config's model: misshapen downsample_1_conv/bias", wider.pretrained,
            str(workdir), jax.random.key(0))  # fmt: skip


def test_images_need_no_classes(tmp_path):
    """Flat, nested, and what is validated on follows from a hash of the names."""
    for index in range(40):
        path = tmp_path / ("" if index % 2 else f"deep/{index % 3}") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(40, 50, 3, seed=index)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    config = pretrain_folder.get_config()
    changes = {"data.root": str(tmp_path), "data.val_fraction": 0.2, "image_size": 64}
    config.update_from_flattened_dict({**changes, "batch_size": 8, "num_workers": 0})
    task = tasks.make(config, sharding.make_mesh())
    assert len(task.train_source) + len(task.evaluation.source) == 40
    assert 2 <= len(task.evaluation.source) <= 15
    kept = {path.name for path in task.evaluation.source.paths()}
    lines = task.describe(jax.eval_shape(task.init, jax.random.key(0))["params"])
    assert (
        "skipped    1 .txt" in lines and "masks      1 of 4 patches of 32 px are visible" in lines
    )
    example = task.train_transform(task.train_source[0], np.random.default_rng(0))
    assert example["image"].shape == (64, 64, 3)

    Image.fromarray(noise(40, 50, 3, seed=99)).save(tmp_path / "one_more.png")
    more = tasks.make(config, sharding.make_mesh())
    now = {path.name for path in more.evaluation.source.paths()}
    assert now - {"one_more.png"} == kept


def test_what_cannot_be_is_refused_in_a_line(tmp_path):
    mesh = sharding.make_mesh()
    refused("height and width of the images is .18, 18.; accepted: multiples of 4",
            tasks.make, config_of(image_size=18), mesh)  # fmt: skip
    refused("model.mask_ratio is 0.99, which leaves 0 of the 16 patches of an image visible",
            tasks.make, config_of(**{"model.mask_ratio": 0.99}), mesh)  # fmt: skip
    refused("model.mask_ratio is 1.5; accepted: above 0, below 1",
            tasks.make, config_of(**{"model.mask_ratio": 1.5}), mesh)  # fmt: skip
    empty = pretrain_folder.get_config()
    refused("data.root is not set; accepted: --config.data.root=FOLDER", tasks.make, empty, mesh)
    empty.data.root = str(tmp_path)
    refused("no images in .*; accepted: files ending in", tasks.make, empty, mesh)


def test_a_dry_run_needs_no_images(capsys, tmp_path):
    config = fcmae_config.get_config("atto")
    config.data.root = str(tmp_path / "none")
    train_command.train(config, tmp_path / "run", dry_run=True)
    told = capsys.readouterr().out
    assert "masks      19 of 49 patches of 32 px are visible" in told
    # 7,257,992 in the official checkpoint.
    assert "model      7,257,992 parameters, 3,871,232 of them of the decoder" in told
    assert "1,281,167 training images, 50,000 validation images" in told
    assert "0.0024 at step 12,4" in told and "499,200 in all" in told
