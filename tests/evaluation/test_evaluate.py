from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext import ConvNeXt, ImageProcessor
from convnext.data import in_memory
from convnext.errors import InputError
from convnext.evaluation import evaluate as evaluation
from convnext.evaluation import probing
from convnext.images import augment
from convnext.tasks import scoring
from convnext.training import losses
from convnext.weights import pretrained
from tests.helpers.inputs import refused

SIZE = 12
MODEL = ConvNeXt(depths=(1, 1), dims=(8, 16), patch_size=2, num_classes=7,
                 layer_scale_init_value=1.0, head_init_scale=50.0)  # fmt: skip
NAMES = tuple("abcdefg")


@pytest.fixture(scope="module")
def found():
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    processor = ImageProcessor(size=SIZE, crop_pct=0.75, image_mean=(0.3, 0.4, 0.5))
    return pretrained.Pretrained(MODEL, params, NAMES, processor, None, "the test", "the test")


@pytest.fixture(scope="module")
def source():
    """Of 21 images, so that the last batch of 8 is not full."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (21, 5, 7, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    return in_memory.Arrays(images, rng.integers(0, 6, 21).astype(np.int32), NAMES)


def probabilities(found, images):
    """[N, K], of uint8 [N, SIZE, SIZE, 3], plainly."""
    x = (np.float32(images) / 255 - found.processor.image_mean) / found.processor.image_std
    logits = np.float64(MODEL.apply({"params": found.params}, np.float32(x)))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def cropped(source, **options):
    options = dict(image_size=SIZE, crop_pct=0.75) | options
    return np.stack([augment.eval_transform(image, **options) for image in source.images])


def scores(probs, labels):
    order = np.argsort(-probs, axis=1)
    confidence, hits = probs.max(axis=1), order[:, 0] == labels
    parts = np.ceil(confidence * 15)
    gaps = [abs(confidence[parts == p].sum() - hits[parts == p].sum()) for p in set(parts)]
    return {
        "loss": -np.log(probs[np.arange(len(labels)), labels]).mean(),
        "top1": hits.mean(),
        "top5": (order[:, :5] == labels[:, None]).any(axis=1).mean(),
        "ece": sum(gaps) / len(labels),
        "count": len(labels),
    }


def assert_scores(result, expected):
    del result["class_accuracy"]
    assert result == pytest.approx(expected, rel=1e-5)


def evaluate(found, source, **options):
    return evaluation.evaluate(found, {"": source}, batch_size=8, **options).mean


def test_every_example_counts_once_and_as_it_should(found, source):
    result = evaluate(found, source)
    probs = probabilities(found, cropped(source))
    of_class = result["class_accuracy"]
    assert list(of_class) == list(NAMES) and of_class["g"] is None  # has no example
    is_c = source.labels == 2
    assert of_class["c"] == pytest.approx((probs[is_c].argmax(axis=1) == 2).mean())
    assert 0 < result["top1"] < result["top5"] < 1  # the test could fail
    assert_scores(result, scores(probs, source.labels))


@pytest.mark.slow
def test_mirror_images_and_crops_are_averaged_as_probabilities(found, source):
    crops = cropped(source, crops=5)
    assert crops.shape == (21, 5, SIZE, SIZE, 3)
    plain = cropped(source)
    np.testing.assert_array_equal(crops[:, 0], plain)
    flipped = (probabilities(found, plain) + probabilities(found, plain[:, :, ::-1])) / 2
    assert_scores(evaluate(found, source, flip=True), scores(flipped, source.labels))
    views = [crops[:, view] for view in range(5)]
    views += [view[:, :, ::-1] for view in views]
    ten = np.mean([probabilities(found, view) for view in views], axis=0)
    assert_scores(evaluate(found, source, flip=True, crops=5), scores(ten, source.labels))


def test_the_corners_are_those_of_the_resized_image():
    image = np.arange(16 * 20 * 3, dtype=np.uint8).reshape(16, 20, 3)
    crops = augment.eval_transform(image, image_size=8, crop_pct=0.5, crops=5)  # not resized
    places = [(4, 6), (0, 0), (0, 12), (8, 0), (8, 12)]
    for crop, (top, left) in zip(crops, places, strict=True):
        np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])
    with pytest.raises(InputError, match="crops is 3; accepted: 1, 5"):
        augment.eval_transform(image, image_size=8, crops=3)


def test_of_some_classes_only_their_probabilities_count(found, source):
    classes = (1, 2, 3, 5, 6, 0)
    probs = probabilities(found, cropped(source))[:, classes]
    probs /= probs.sum(axis=1, keepdims=True)
    subset = in_memory.Arrays(source.images, source.labels, NAMES[:6])
    assert_scores(evaluate(found, subset, classes=classes), scores(probs, source.labels))


def test_of_several_right_labels_any_is_a_hit_and_the_loss_is_of_the_first(found, source):
    others = np.where(np.arange(21) % 3 == 0, -1, (source.labels + 1) % 7)
    both = np.stack([source.labels, source.labels, others], axis=1).astype(np.int32)
    only_other = both.copy()
    only_other[:, 1] = -1
    probs = probabilities(found, cropped(source))
    best = probs.argmax(axis=1)
    right = in_memory.Arrays(source.images, both, NAMES)
    result = evaluate(found, right)
    assert result["top1"] == pytest.approx(((best == source.labels) | (best == others)).mean())
    assert result["loss"] == pytest.approx(scores(probs, source.labels)["loss"], rel=1e-5)
    # What the original label says is no hit where it is not among the right ones.
    result = evaluate(found, in_memory.Arrays(source.images, only_other, NAMES))
    assert result["top1"] == pytest.approx((best == others).mean())


def test_images_without_a_class_are_refused_and_other_numbers_are_not(found, source):
    unlabelled = in_memory.Arrays(source.images, source.labels - 1, source.class_names)
    said = r"the label of evaluation image \d+ is -1; accepted: 0 to "
    refused(said, evaluate, found, unlabelled)
    refused(said, evaluation.probe, found, source, unlabelled, name="knn", batch_size=8)
    model = found.model.clone(num_classes=1)
    head = jax.tree.map(lambda leaf: leaf[..., :1], found.params["head"])
    params = {**found.params, "head": head}
    numbers = replace(found, model=model, params=params, problem_type=losses.REGRESSION)
    assert evaluate(numbers, unlabelled)["count"] == len(source)


def test_several_parts_have_a_mean_and_the_count_of_all(found, source):
    few = in_memory.Arrays(source.images[:4], source.labels[:4], NAMES)
    result = evaluation.evaluate(found, {"fog/1": source, "fog/2": few}, batch_size=8)
    assert list(result.parts) == ["fog/1", "fog/2"]
    assert result.parts["fog/1"] == evaluate(found, source)
    assert result.parts["fog/2"] == evaluate(found, few)
    assert result.mean["count"] == 25
    top1 = [part["top1"] for part in result.parts.values()]
    assert result.mean["top1"] == (top1[0] + top1[1]) / 2


def test_a_processor_that_training_has_not_is_refused(found, source):
    odd = replace(found, processor=replace(found.processor, rescale_factor=1 / 127.5))
    with pytest.raises(InputError, match=r"rescale_factor is 0.0078\d+; accepted: 1 / 255"):
        evaluate(odd, source)


# Features in place of the head.


def test_features_are_those_of_the_model_without_its_head(found, source):
    given = scoring.features(found, source, batch_size=8)
    x = (np.float32(cropped(source)) / 255 - found.processor.image_mean) / found.processor.image_std
    maps = MODEL.apply({"params": found.params}, np.float32(x), method="features")
    np.testing.assert_allclose(given["features"], maps["pooler_output"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(given["label"], source.labels)


@pytest.mark.slow
def test_a_probe_of_the_images_that_it_learned_knows_them(found, source):
    result = evaluation.probe(found, source, source, name="linear", batch_size=8).mean
    assert result["count"] == 21 and result["top1"] > 0.6  # chance is 0.17
    # 20 of 21 neighbours vote, but the nearest, the image itself, has the most weight by far.
    result = evaluation.probe(found, source, source, name="knn", batch_size=8).mean
    assert result["class_accuracy"]["g"] is None


def test_neighbours_vote_by_their_cosine():
    train = {
        "features": np.float32([[2, 0], [0, 3], [-1, 0]]),
        "label": np.array([4, 1, 1]),
    }
    found = probing.probabilities("knn", train, np.float32([[5, 5]]), 6)
    similarity = np.array([0.5**0.5, 0.5**0.5, -(0.5**0.5)])
    votes = np.exp(similarity / 0.07)
    np.testing.assert_allclose(found[0, [4, 1]], [votes[0], votes[1:].sum()] / votes.sum())
    assert found.shape == (1, 6) and found[0, 0] == 0


def test_a_linear_probe_finds_a_linear_rule():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(400, 5))
    label = (points @ [1, 2, 0, 0, -1] > 0).astype(int) * 2
    train = {"features": points[:200], "label": label[:200]}
    found = probing.probabilities("linear", train, points[200:], 3)
    assert (found.argmax(axis=1) == label[200:]).mean() > 0.95


def test_another_probe_is_refused():
    with pytest.raises(InputError, match="probe is 'svm'; accepted: knn, linear"):
        probing.probabilities("svm", {}, np.zeros((1, 2)), 2)
