import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train as train_command
from configs import finetune
from convnext import Classifier, ConvNeXt, ImageProcessor, from_pretrained, save_pretrained
from convnext.runs import log
from tests.helpers import own_images
from tests.helpers.inputs import refused
from tools import linear

MODEL = ConvNeXt(depths=(1, 1), dims=(8, 16), num_classes=7, patch_size=2,
                 layer_scale_init_value=0.1)  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Images that are blue or red, in two folders; and weights."""
    images, weights = (tmp_path_factory.mktemp(name) for name in ("images", "weights"))
    own_images.write(images, 20, 24)
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    save_pretrained(weights, MODEL, params, labels=[f"label {i}" for i in range(7)],
                    processor=ImageProcessor(size=16), format="transformers")  # fmt: skip
    return images, weights


@pytest.fixture(scope="module")
def workdir(places, tmp_path_factory):
    images, weights = places
    workdir = tmp_path_factory.mktemp("linear") / "run"
    linear.main([str(images), f"--model={weights}", f"--workdir={workdir}"])
    return workdir


def test_only_the_last_layer_is_another(places, workdir):
    model, params = from_pretrained(workdir)
    _, before = from_pretrained(places[1])
    assert model.num_classes == 2 and params["head"]["kernel"].shape == (16, 2)
    del params["head"], before["head"]
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_it_tells_the_images_apart(places, workdir):
    classifier = Classifier.from_pretrained(workdir)
    assert classifier.labels == ("blue", "red")
    paths = sorted(places[0].glob("*/*.png"))
    named = [answer[0]["label"] for answer in classifier(paths, top_k=1)]
    assert named == [path.parent.name for path in paths]
    lines = log.read(workdir / "metrics.jsonl")
    assert [(line["step"], line["val/top1"]) for line in lines] == [(1, 1.0)]


@pytest.mark.slow
def test_a_run_can_begin_with_it(places, workdir, tmp_path):
    config = finetune.get_config()
    config.update(init_from=str(workdir), num_steps=2)
    config.data.root = str(places[0])
    train_command.train(config, tmp_path)
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert recorded["model"]["dims"] == [8, 16] and recorded["linear"]["top1"] == 1.0


def test_a_folder_with_a_run_is_refused(places, workdir):
    config = linear.recipe(str(places[0]), model=str(places[1]))
    refused("has a run already; accepted: another --workdir", linear.write, config, workdir)
