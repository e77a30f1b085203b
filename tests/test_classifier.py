from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import convnext
from convnext import Classifier, ConvNeXt, ImageProcessor
from convnext.errors import InputError
from convnext.weights import pretrained

SOURCE = Path(__file__).parent / "fixtures" / "pretrained" / "official_v1.pth"


@pytest.fixture(scope="module")
def found():
    return pretrained.load(SOURCE)


@pytest.fixture(scope="module")
def classifier(found):
    return Classifier(found.model, found.params, "abcde", ImageProcessor(size=64))


@pytest.fixture(scope="module")
def images():
    """Of differing sizes."""
    rng = np.random.default_rng(0)
    sizes = [(70, 90), (64, 64), (100, 65), (80, 81), (66, 200)]
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def assert_same(results, expected):
    """But for the rounding of another batch size."""
    for one, two in zip(results, expected, strict=True):
        assert [entry["label"] for entry in one] == [entry["label"] for entry in two]
        scores = [[entry["score"] for entry in entries] for entries in (one, two)]
        np.testing.assert_allclose(*scores, rtol=1e-4)


def test_scores_are_the_softmax_of_the_logits_best_first(classifier, images):
    pixels = classifier.processor.preprocess(images)
    logits = jax.jit(classifier.model.apply)({"params": classifier.params}, pixels)
    expected = softmax(np.float64(logits))
    results = classifier(images)
    assert len(results) == len(images)
    for result, row in zip(results, expected, strict=True):
        assert [entry["label"] for entry in result] == ["abcde"[i] for i in np.argsort(-row)]
        scores = [entry["score"] for entry in result]
        np.testing.assert_allclose(scores, np.sort(row)[::-1], rtol=1e-4)


def test_one_image_a_batch_and_a_path_give_the_same(classifier, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    expected = classifier(images)[:1]
    for given in (images[0], [images[0]], tmp_path / "a.png", str(tmp_path / "a.png"),
                  images[0][None], (tmp_path / "a.png").read_bytes()):  # fmt: skip
        assert_same(classifier(given), expected)


@pytest.mark.slow
def test_the_size_of_a_batch_changes_nothing(found, images):
    fresh = Classifier(found.model, found.params, "abcde", ImageProcessor(size=64))
    results = [fresh(images, batch_size=size) for size in (1, 2, 3, 32)]
    for other in results[1:]:
        assert_same(results[0], other)


def test_few_sizes_of_a_batch_are_compiled(found, images, monkeypatch):
    """Powers of two, and the largest allowed."""
    classifier = Classifier(found.model, found.params, "abcde", ImageProcessor(size=64))
    sizes = []

    def record(params, images):
        sizes.append(len(images))
        return np.zeros((len(images), 5), np.float32)

    monkeypatch.setitem(classifier.__dict__, "_apply", record)
    for count in (1, 2, 3, 4, 5):
        assert len(classifier(images[:count])) == count
    classifier(images, batch_size=3)
    assert sizes == [1, 2, 4, 4, 8, 3, 2]


@pytest.mark.parametrize(
    "problem_type, function",
    [
        (None, "softmax"),
        ("single_label_classification", "softmax"),
        ("multi_label_classification", "sigmoid"),
        ("regression", "none"),
    ],
)
def test_the_problem_type_chooses_the_function(found, images, problem_type, function):
    processor = ImageProcessor(size=64)
    default = Classifier(found.model, found.params, "abcde", processor, problem_type)
    assert default(images[:1]) == default(images[:1], function_to_apply=function)
    logits = {e["label"]: e["score"] for e in default(images[:1], function_to_apply="none")[0]}
    scores = {e["label"]: e["score"] for e in default(images[:1], function_to_apply="sigmoid")[0]}
    for label, logit in logits.items():
        assert scores[label] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


def test_one_output_gives_a_sigmoid():
    model, params = convnext.from_pretrained(SOURCE, num_classes=1, head_init_scale=0.0)
    one = Classifier(model, params, ["hot dog"], ImageProcessor(size=64))
    image = np.zeros((64, 64, 3), np.uint8)
    assert one(image) == [[{"label": "hot dog", "score": 0.5}]]


def test_top_k_is_at_most_all(classifier, images):
    assert [len(r) for r in classifier(images[:2], top_k=2)] == [2, 2]
    assert [len(r) for r in classifier(images[:2], top_k=100)] == [5, 5]


def test_from_pretrained_has_the_labels_of_imagenet(tmp_path):
    model = ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4))
    image = convnext.models.convnext.smallest_image(model)
    params = jax.jit(model.init)(jax.random.key(0), image)["params"]
    params["head"]["bias"] = params["head"]["bias"].at[281].set(9.0)
    convnext.save_pretrained(tmp_path, model, params, processor=ImageProcessor(size=32))
    best = Classifier.from_pretrained(tmp_path)(np.zeros((40, 50, 3), np.uint8), top_k=1)
    assert best[0][0]["label"] == "tabby, tabby cat" and best[0][0]["score"] > 0.85


def test_what_cannot_be_used_is_named(found, classifier, images):
    with pytest.raises(InputError, match="4 labels; accepted: a model with a head"):
        Classifier(found.model, found.params, "abcd", ImageProcessor())
    with pytest.raises(InputError, match="'tanh'; accepted: softmax, sigmoid, none"):
        classifier(images[0], function_to_apply="tanh")
    with pytest.raises(InputError, match="top_k is 0"):
        classifier(images[0], top_k=0)
    with pytest.raises(InputError, match="batch_size is 2.5; accepted: an integer from 1 up"):
        classifier(images[0], batch_size=2.5)
    with pytest.raises(InputError, match="a model of 0 classes with 0 labels"):
        Classifier(found.model.clone(num_classes=None), found.params, "", ImageProcessor())
    with pytest.raises(InputError, match="crop"):
        classifier(images[0], crop="none")
