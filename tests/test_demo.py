"""What the page of tools.demo shows; the page itself is in browser/test_demo.py."""

import dataclasses
import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from convnext import Classifier, activation, pretrained
from tests.inputs import noise, refused
from tools import demo

SOURCE = Path(__file__).parent / "fixtures" / "pretrained" / "official_v1.pth"


@pytest.fixture(scope="module")
def found():
    return pretrained.load(SOURCE)


@pytest.fixture(scope="module")
def viewer(found):
    return demo.Viewer(found, top_k=3, image_size=64)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(noise(100, 150, 3)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_scores_are_those_of_the_classifier(viewer, photo):
    best = Classifier.from_pretrained(SOURCE)(photo, top_k=3, size=64)[0]
    assert list(viewer.scores(photo).items()) == [(e["label"], e["score"]) for e in best]


def test_the_map_is_over_what_the_model_sees(found, viewer, photo):
    """The crop of 64 pixels, enlarged to 448."""
    processor = dataclasses.replace(found.processor, size=64)
    pixels = processor.preprocess(photo)
    heat = activation.class_activation(found.params, pixels, jnp.array([2]), model=found.model)
    seen = (pixels[0] * processor.image_std + processor.image_mean) * 255
    enlarged = np.rint(seen).astype(np.uint8).repeat(7, axis=0).repeat(7, axis=1)
    expected = activation.overlay(enlarged, np.asarray(heat[0]))
    overlay = viewer.overlay(photo, viewer.labels[2])
    assert overlay.shape == (448, 448, 3) and overlay.dtype == np.uint8
    assert np.abs(overlay.astype(int) - expected).max() <= 1  # rounding


def test_labels_that_are_there_twice_are_told_apart(found, photo):
    twins = dataclasses.replace(found, labels=("crane", "crane", "owl", "auk", "emu"))
    viewer = demo.Viewer(twins, image_size=64)
    assert viewer.labels == ["crane (class 0)", "crane (class 1)", "owl", "auk", "emu"]
    assert len(viewer.scores(photo)) == 5


def test_what_cannot_be_shown_is_refused(found):
    regression = dataclasses.replace(found, problem_type="regression")
    refused("problem type .* 'regression'; accepted: classif", demo.Viewer, regression)
    refused("size is 0", demo.Viewer, found, image_size=0)
    refused("a model of 0 classes", demo.Viewer, pretrained.load(SOURCE, num_classes=0))


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        demo.main(["--model=nowhere"])
    assert stop.value.code == (
        "error: the page needs gradio, which is not installed; accepted: after pip install gradio, "
        'or pip install -e ".[demo]"'
    )


@pytest.mark.parametrize(
    "flags, message",
    [
        ([f"--model={SOURCE}", "--image_size=64", "--port=0"], "error: --port is 0; accepted: 1"),
        ([f"--model={SOURCE}", "--image_size=64", "--top_k=0"], "error: top_k is 0; accepted: an"),
        ([f"--model={SOURCE}", "--image_size=16"], "error: image is 16x16 pixels; accepted: sides"),
        (["--model=nowhere"], "error: no file or folder nowhere; accepted: a file of weights"),
    ],
)
def test_mistakes_end_before_the_page_opens(monkeypatch, flags, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(SystemExit) as stop:
        demo.main(flags)
    assert stop.value.code.startswith(message)
