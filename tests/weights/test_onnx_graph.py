import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext import Classifier, ConvNeXt, ImageProcessor, save_pretrained
from convnext.weights import pretrained
from tests.helpers.inputs import refused
from tools import convert, export, predict

pytest.importorskip("onnxruntime")

FORMAT_OF = {convert.main: "timm", export.main: "onnx"}
MODEL = ConvNeXt((1, 1), (8, 16), 3, layer_scale_init_value=0.1)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Weights, and what was exported of them."""
    weights, out = (tmp_path_factory.mktemp(name) for name in ("weights", "out"))
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    save_pretrained(weights, MODEL, params, labels=["a", "b", "c"], processor=ImageProcessor(32))
    export.main([str(weights), str(out), "--format=onnx"])
    return weights, out


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (50, 73, 3), dtype=np.uint8) for _ in range(3)]


def scores(classifier, images):
    return [{each["label"]: each["score"] for each in named} for named in classifier(images)]


def test_it_names_images_as_the_model_does(places, images):
    expected = scores(Classifier.from_pretrained(places[0]), images)
    for source in (places[1], places[1] / "onnx" / "model.onnx"):
        found = scores(Classifier.from_pretrained(source), images)
        assert all(
            one == pytest.approx(other, abs=1e-6)
            for one, other in zip(found, expected, strict=True)
        )


def test_one_of_a_fixed_batch_takes_any_number_of_images(places, images, tmp_path):
    export.main([str(places[0]), str(tmp_path), "--format=onnx", "--batch_size=2"])
    expected = scores(Classifier.from_pretrained(places[0]), images)
    found = scores(Classifier.from_pretrained(tmp_path), images)
    assert found[2] == pytest.approx(expected[2], abs=1e-6)


def test_one_of_a_fixed_size_takes_images_of_that_size(places, images, tmp_path):
    export.main([str(places[0]), str(tmp_path), "--format=onnx", "--image_size=48"])
    expected = Classifier.from_pretrained(places[0])(images, size=48)
    classifier = Classifier.from_pretrained(tmp_path)
    assert classifier(images)[0][0]["label"] == expected[0][0]["label"]
    told = r"height and width of the images is \(64, 64\); accepted: \[48, 48\], as exported"
    refused(told, classifier, images, size=64)


def test_predict_takes_it(places, images, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(images[0]).save(tmp_path / "x.png")
    told = []
    for source in places:
        predict.main([str(tmp_path / "x.png"), f"--model={source}"])
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]


def test_what_is_no_classifier_and_what_it_cannot_do_is_said(places, tmp_path):
    load = pretrained.load_runnable
    (tmp_path / "x.onnx").write_bytes(b"x")
    refused("x.onnx: .*; accepted: an ONNX file", load, tmp_path / "x.onnx")
    refused(
        "the graph is .*none.onnx.; accepted: a file",
        load,
        tmp_path / "none.onnx",
    )
    refused("num_classes of the exported .* is 2; accepted: None", load, places[1],
            num_classes=2)  # fmt: skip
    refused("dtype of the exported .* is .*bfloat16", load, places[1],
            dtype=jnp.bfloat16)  # fmt: skip
    headless = tmp_path / "headless"
    params = pretrained.load(places[0], num_classes=0).params
    save_pretrained(tmp_path / "w", MODEL.clone(num_classes=None), params)
    export.main([str(tmp_path / "w"), str(headless), "--format=onnx"])
    refused("what goes in and out of .*headless.* is .'pixel_values', 'last_hidden_state'",
            load, headless)  # fmt: skip


def test_what_needs_more_than_logits_refuses_it_in_a_line(places, tmp_path):
    refused("no weights in the folder", pretrained.load, places[1])
    for command in convert.main, export.main:
        with pytest.raises(SystemExit, match="^error: no weights in the folder"):
            command([str(places[1]), str(tmp_path), "--format=" + FORMAT_OF[command]])
