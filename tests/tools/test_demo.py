"""What the page of tools.demo shows; the page itself is in browser/test_demo.py."""

import asyncio
import dataclasses
import importlib.util
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from convnext import Classifier
from convnext.evaluation import activation
from convnext.weights import pretrained
from tests.helpers.inputs import noise, refused
from tools import demo

SOURCE = Path(__file__).parents[1] / "fixtures" / "pretrained" / "official_v1.pth"


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


@pytest.mark.slow
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


def without_gradio(monkeypatch):
    """As if it were there."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    starlette = SimpleNamespace(Middleware=lambda *made, **keywords: (*made, keywords))
    monkeypatch.setitem(sys.modules, "starlette.middleware", starlette)


def test_the_page_is_guarded_and_ends_at_a_sigterm_as_at_ctrl_c(monkeypatch, capsys):
    launched = {}

    def launch(**keywords):
        launched.update(keywords)
        return None, "http://127.0.0.1:7860/", None

    def block_thread():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    without_gradio(monkeypatch)
    blocks = SimpleNamespace(launch=launch, block_thread=block_thread)
    monkeypatch.setattr(demo, "page", lambda viewer, title: blocks)
    try:
        demo.main([f"--model={SOURCE}", "--image_size=64", "--host=photos.example"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "is at http://127.0.0.1:7860/, until Ctrl-C" in capsys.readouterr().out
    ((guard, keywords),) = launched["app_kwargs"]["middleware"]
    assert guard is demo.known_hosts and {"photos.example", "localhost"} < keywords["names"]


@pytest.mark.parametrize(
    "asked, known",
    [("127.0.0.1:7860", True), ("localhost:7860", True), ("LOCALHOST", True), ("[::1]:7860", True),
     ("192.168.1.7", True), ("Box.local", True), ("evil.example", False), ("", False),
     ("evil.example:7860", False), ("localhost.evil.example", False), ("127.0.0.1.evil", False),
     ("evil@", False), ("[evil", False)],
)  # fmt: skip
def test_the_page_is_asked_by_an_address_or_a_known_name(asked, known):
    assert demo.is_known(asked, {"localhost", "box.local"}) == known
    passed, sent = [], []

    async def app(scope, receive, send):
        passed.append(scope)

    async def send(message):
        sent.append(message)

    guarded = demo.known_hosts(app, {"localhost", "Box.local"})
    for kind in ("http", "websocket"):
        scope = {"type": kind, "headers": [(b"host", asked.encode())]}
        asyncio.run(guarded(scope, None, send))
    assert len(passed) == 2 * known
    assert known or [sent[0]["status"], sent[-1]["type"]] == [400, "websocket.close"]
    asyncio.run(guarded({"type": "lifespan"}, None, send))
    assert passed[-1]["type"] == "lifespan"


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
    without_gradio(monkeypatch)
    with pytest.raises(SystemExit) as stop:
        demo.main(flags)
    assert stop.value.code.startswith(message)
