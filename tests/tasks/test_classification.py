from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from configs import digits
from convnext import ConvNeXt, ImageProcessor, sharding
from convnext.data import in_memory, sources
from convnext.data.batches import TrainBatches
from convnext.data.epochs import Epochs
from convnext.errors import InputError
from convnext.images import augment, decode
from convnext.tasks import classification
from convnext.training import augmentation, losses, steps
from convnext.weights.pretrained import Pretrained
from tests.helpers.inputs import noise, refused


def source(labels):
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    return in_memory.Arrays(images, np.array(labels), ["a", "b", "c"])


def test_the_first_label_is_of_an_image_that_can_be_read():
    class Damaged(in_memory.Arrays):
        def __getitem__(self, index):
            if index < 2:
                raise InputError(f"cannot read {index}")
            return super().__getitem__(index)

    images, labels = np.zeros((3, 2, 2, 3), np.uint8), np.array([5, 6, 7], np.int32)
    assert classification.first_label(Damaged(images, labels, [])) == 7
    with pytest.raises(InputError, match="cannot read 1"):
        classification.first_label(Damaged(images[:2], labels[:2], []))


def test_the_number_of_classes_is_the_datas():
    train, _ = sources.load("digits")
    checked = partial(classification.check_num_classes, train, train[0]["label"])
    assert checked(None, losses.SINGLE_LABEL) == 10
    assert checked(10, losses.SINGLE_LABEL) == 10
    with pytest.raises(InputError, match="model.num_classes is 1000; accepted: 10"):
        checked(1000, losses.SINGLE_LABEL)


def test_a_regression_has_as_many_outputs_as_a_label_has_numbers():
    train, _ = sources.load("digits")
    checked = partial(classification.check_num_classes, train)
    assert checked(np.int32(3), None, losses.REGRESSION) == 1
    assert checked(np.zeros(4, np.float32), 4, losses.REGRESSION) == 4
    with pytest.raises(InputError, match="num_classes is 10 in a regression; accepted: 1, as"):
        checked(np.int32(3), 10, losses.REGRESSION)


def sources_of(problem_type, labels, monkeypatch):
    """Those of a run, and the one that weights from anywhere are evaluated on."""
    given = source(labels)
    monkeypatch.setattr(sources, "load", lambda **_: (given, given))
    config = digits.get_config()
    config.problem_type = problem_type
    config.model.num_classes = None
    task = classification.make(config, sharding.make_mesh())
    model = ConvNeXt(depths=(1,), dims=(4,), num_classes=3)
    names = ("a", "b", "c")
    found = Pretrained(model, {}, names, ImageProcessor(size=8), problem_type, "here", "here")
    evaluated = classification.evaluation(found, given)
    return task.train_source, task.evaluation.source, evaluated.source


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_of_no_class_is_refused_by_its_image(label, monkeypatch):
    found = sources_of(losses.SINGLE_LABEL, np.int32([0, 1, label, 2]), monkeypatch)
    for name, each in zip(("training", "evaluation", "evaluation"), found, strict=True):
        said = f"the label of {name} image 2 is {label}; accepted: 0 to 2, of the 3 classes"
        refused(said, each.__getitem__, 2)
        assert each[1]["label"] == 1


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        (losses.REGRESSION, np.int32([0, 1, -7, 2])),
        (losses.MULTI_LABEL, np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]),
    ],
)
def test_labels_that_are_no_classes_may_be_any_numbers(problem_type, labels, monkeypatch):
    for each in sources_of(problem_type, labels, monkeypatch):
        np.testing.assert_array_equal([each[index]["label"] for index in range(4)], labels)


def made(**fields):
    config = digits.get_config()
    config.update_from_flattened_dict(fields)
    task = classification.make(config, sharding.make_mesh())
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    return task, task.describe(params)[-1]


def test_images_are_augmented_on_the_device_by_seed_epoch_and_index():
    task, said = made()
    assert said == "augments   on the device"
    epochs = Epochs(len(task.train_source), 8, num_epochs=3, seed=0)
    batches = TrainBatches(task.train_source, task.train_transform, epochs)
    batch = batches[200]
    assert batch["image"].shape == (8, 16, 16, 3) and set(batch["epoch"]) == {1}
    train, _ = sources.load("digits")
    resized = [augment.resize(train[index]["image"], 16, 16) for index in batch["index"]]
    np.testing.assert_array_equal(batch["image"], resized)
    np.testing.assert_array_equal(batch["label"], train.labels[batch["index"]])

    step_keys = jax.random.split(jax.random.key(7))
    prepare = jax.jit(task.prepare)
    found = prepare(step_keys, batch)["image"]
    keys = augmentation.keys_of(0, batch["epoch"], batch["index"])
    levels = augmentation.augment(keys, np.array(resized), **task.config.augment)
    expected = steps.normalize(levels, **task.config.normalize)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    again = prepare(jax.random.split(jax.random.key(8)), batch)["image"]
    np.testing.assert_array_equal(again, found)  # whatever the batch draws for itself
    other = prepare(step_keys, {**batch, "epoch": batch["epoch"] + 1})["image"]
    assert (np.abs(other - found).max((1, 2, 3)) > 0.1).all()


def test_what_the_device_does_not_have_stays_on_the_host_and_is_named():
    task, said = made(**{"augment.randaugment.num_ops": 2})
    assert said == (
        "augments   on the host: augment.randaugment.num_ops is 2, which the device does not have"
    )
    example = task.train_source[0]
    draws = [task.train_transform(example, np.random.default_rng(seed)) for seed in range(2)]
    assert example["image"].shape == (8, 8, 3)
    assert (draws[0]["image"] != draws[1]["image"]).any()
    batch = {"image": draws[0]["image"][None], "label": draws[0]["label"][None]}
    prepared = task.prepare(jax.random.split(jax.random.key(0)), batch)["image"]
    np.testing.assert_array_equal(
        prepared, steps.normalize(batch["image"], **task.config.normalize)
    )
    _, said = made(augment_on="host")
    assert "augments" not in said
    with pytest.raises(InputError, match="augment_on is 'gpu'; accepted: host or device"):
        made(augment_on="gpu")


@pytest.mark.parametrize("crop", [(None, None), ((0.2, 0.9), None), (None, 2)])
def test_of_files_only_what_a_crop_needs_is_decoded_on_the_host(crop, tmp_path):
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(noise(40, 30, 3)).save(tmp_path / name / "0.jpg")
    files = {"data.name": "folder", "data.root": str(tmp_path), "model.num_classes": 2}
    fields = dict(zip(("augment.crop_scale", "augment.crop_padding"), crop, strict=True))
    task, _ = made(**files, **fields, augment_on="host")
    assert isinstance(task.evaluation.source[0]["image"], np.ndarray)
    example = task.train_source[0]
    assert isinstance(example["image"], decode.Rows)
    whole = example | {"image": np.asarray(example["image"])}
    for seed in range(5):
        found, expected = (
            task.train_transform(each, np.random.default_rng(seed))["image"]
            for each in (example, whole)
        )
        assert found.shape == (16, 16, 3)
        np.testing.assert_array_equal(found, expected)
    task, _ = made(**files)
    assert task.train_source[0]["image"].shape == (16, 16, 3)  # resized, for the device


def test_what_is_out_of_range_is_refused_on_the_device_too():
    with pytest.raises(InputError, match="augment.flip_prob is 2.0; accepted: 0 to 1"):
        made(**{"augment.flip_prob": 2.0})


def test_classes_of_few_images_may_weigh_more(monkeypatch):
    config = digits.get_config()
    config.class_weights = "balanced"
    train, val = sources.load("digits")
    some = np.flatnonzero((train.labels > 0) | (np.arange(len(train)) % 3 == 0))
    monkeypatch.setattr(sources, "load", lambda **_: (sources.Part(train, some), val))
    task = classification.make(config, sharding.make_mesh())
    counts = np.bincount(train.labels[some])
    weights = task.loss.keywords["class_weights"]
    np.testing.assert_allclose(weights, len(some) / (10 * counts), rtol=1e-6)
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    told = f"{weights.min():.3g} to {weights.max():.3g}"
    assert f"weighing   classes by 1 / their number of images, {told}" in task.describe(params)


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(class_weights="equal"), "class_weights is 'equal'; accepted: balanced or None"),
        (
            dict(class_weights="balanced", problem_type=losses.MULTI_LABEL),
            "class_weights is 'balanced'; accepted: None for a multi_label_classification",
        ),
    ],
)
def test_weights_of_classes_are_for_one_label_each(given, message):
    config = digits.get_config()
    config.update(given)
    refused(f"^{message}$", classification.make, config, sharding.make_mesh())


def test_weights_of_classes_want_labels_that_are_known(monkeypatch):
    train, val = sources.load("digits")
    read = sources.Joined([train])
    monkeypatch.setattr(sources, "load", lambda **_: (read, val))
    config = digits.get_config()
    config.class_weights = "balanced"
    refused("accepted: None, or images whose labels are known before", classification.make, config,
            sharding.make_mesh())  # fmt: skip
