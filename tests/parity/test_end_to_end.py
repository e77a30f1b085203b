"""A model of full size, and an exported folder in the hands of transformers and of ours."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import convnext
from convnext.data import imagenet
from tests.parity import oracles

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """ConvNeXt-T of transformers with random weights, and the folder in which it saved them."""
    folder = tmp_path_factory.mktemp("tiny")
    model = transformers.ConvNextForImageClassification(
        transformers.ConvNextConfig(num_labels=1000)
    )
    oracles.randomise(model, seed=3)
    model.save_pretrained(folder)
    return model.double().eval(), folder


def test_tiny_at_full_size(tiny, record):
    theirs, folder = tiny
    model, params = convnext.from_pretrained(folder)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        reference = theirs(torch.from_numpy(images).permute(0, 3, 1, 2).double()).logits.numpy()
    logits = np.asarray(jax.jit(model.apply)({"params": params}, images), np.float64)
    error = np.abs(logits - reference).max() / np.abs(reference).max()
    record("transformers tiny, 28,589,128 parameters", "in", "224x224 px", error)
    assert error < 1e-5


def test_transformers_pipeline_and_predict_agree_on_an_exported_folder(tiny, tmp_path):
    model, params = convnext.from_pretrained(tiny[1])
    out = tmp_path / "exported"
    convnext.save_pretrained(out, model, params, labels=imagenet.names(1000))
    rng = np.random.default_rng(1)
    paths = []
    # In the second, 259 - 224 pixels are 3 modulo 4, where the rounding of the crop matters.
    for name, size in (("a.jpg", (300, 451)), ("b.png", (256, 259)), ("c.png", (100, 80))):
        noise = rng.integers(0, 256, (*[-(-side // 8) for side in size], 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)
        paths.append(str(tmp_path / name))
        image.save(paths[-1])

    pipeline = transformers.pipeline(
        "image-classification",
        model=str(out),
        image_processor=transformers.ConvNextImageProcessorPil.from_pretrained(out),
    )
    expected = pipeline(paths, top_k=5)
    printed = subprocess.run(
        [sys.executable, "-m", "tools.predict", *paths, f"--model={out}", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    results = [json.loads(line) for line in printed.splitlines()]
    assert [result["image"] for result in results] == paths
    for result, theirs in zip(results, expected, strict=True):
        ours = result["classes"]
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        np.testing.assert_allclose(
            [entry["score"] for entry in ours], [entry["score"] for entry in theirs], rtol=1e-4
        )
