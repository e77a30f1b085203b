import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from convnext import Classifier, ConvNeXt, ImageProcessor, save_pretrained
from tools import convert, export

onnxruntime = pytest.importorskip("onnxruntime")

MODEL = ConvNeXt((1, 1), (8, 16), 3, layer_scale_init_value=0.1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    save_pretrained(folder, MODEL, params, labels=["a", "b", "c"], processor=ImageProcessor(32))
    return folder


def exported(weights, out, *flags):
    export.main([str(weights), str(out), "--format=onnx", *flags])


def probabilities(path, pixels):
    (logits,) = onnxruntime.InferenceSession(path).run(None, {"pixel_values": pixels})
    return np.asarray(jax.nn.softmax(logits))


def test_the_folder_names_images_as_the_classifier_does(weights, tmp_path, capsys):
    exported(weights, tmp_path)
    told = capsys.readouterr().out
    assert "onnx/model.onnx holds" in told and "differ from those here by " in told
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"config.json", "preprocessor_config.json", "onnx/model.onnx"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 73, 3), dtype=np.uint8))
    processor = ImageProcessor.from_pretrained(tmp_path)
    (found,) = probabilities(
        tmp_path / "onnx/model.onnx", processor.preprocess(image, data_format="channels_first")
    )
    ((best, *_),) = Classifier.from_pretrained(weights)(image)
    assert best["label"] == "abc"[found.argmax()]
    assert best["score"] == pytest.approx(found.max(), abs=1e-6)


def test_smaller_ones_lie_beside_it(weights, tmp_path, caplog):
    for flags in ((), ("--dtype=float16",), ("--quantize=int8",)):
        exported(weights, tmp_path, *flags)
    whole, half, int8 = (
        tmp_path / "onnx" / f"model{kind}.onnx" for kind in ("", "_fp16", "_quantized")
    )
    assert half.stat().st_size < whole.stat().st_size > int8.stat().st_size
    assert not caplog.records
    pixels = np.random.default_rng(0).normal(size=(2, 3, 40, 40)).astype(np.float32)
    expected = probabilities(whole, pixels)
    assert np.abs(probabilities(half, pixels) - expected).max() < 2e-3
    assert 1e-6 < np.abs(probabilities(int8, pixels) - expected).max() < 0.05


def test_stablehlo_runs_in_jax_alone(weights, tmp_path, capsys):
    export.main([str(weights), str(tmp_path), "--format=stablehlo"])
    assert "its outputs differ from those here by" in capsys.readouterr().out
    contents = (tmp_path / "stablehlo/model.bin").read_bytes()
    image = np.random.default_rng(0).integers(0, 256, (50, 73, 3), dtype=np.uint8)
    pixels = ImageProcessor.from_pretrained(tmp_path).preprocess(image)
    (found,) = jax.nn.softmax(jax.export.deserialize(bytearray(contents)).call(pixels))
    ((best, *_),) = Classifier.from_pretrained(weights)(image)
    assert best["score"] == pytest.approx(float(found.max()), abs=1e-6)


def test_pixels_are_normalised_inside_where_that_is_asked_for(weights, tmp_path):
    exported(weights, tmp_path, "--normalize", "--image_size=40", "--batch_size=1")
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert not written["do_normalize"] and not written["do_rescale"]
    assert written["size"] == {"shortest_edge": 40}
    session = onnxruntime.InferenceSession(tmp_path / "onnx/model.onnx")
    assert session.get_inputs()[0].shape == [1, 3, 40, 40]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--format=timm"], "--format is .timm.; accepted: onnx, stablehlo, litert; py"),
        (["--format=tflite"], "--format is .tflite.; accepted: onnx, stablehlo, litert$"),
        (["--format=onnx", "--dtype=float16", "--quantize=int8"],
         "--quantize with --dtype is .float16.; accepted: one of the two"),
        (["--format=stablehlo", "--dtype=float16"],
         "--dtype of stablehlo is .float16.; accepted: --format=onnx, which has it"),
        (["--format=litert", "--batch_size=dynamic"],
         "batch_size is None; accepted: a number: a LiteRT file has one size"),
        (["--format=litert", "--normalize"], "--normalize of litert is True; accepted: --for"),
        (["--format=onnx", "--image_size=4"], "image_size is 4; accepted: 8 and more"),
        (["--format=onnx", "--batch_size=-1"], "batch_size is -1; accepted: 1 and more"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_said_in_a_line(weights, tmp_path, flags, message):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        export.main([str(weights), str(tmp_path), *flags])
    assert not list(tmp_path.iterdir())


def test_the_converter_of_litert_is_not_in_this_environment(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "litert_converter", None)
    told = "^error: no litert_converter; accepted: after pip install litert-converter ai-edge-lit"
    with pytest.raises(SystemExit, match=told):
        export.main([str(weights), str(tmp_path), "--format=litert"])


def test_a_folder_of_another_export_is_left_alone(weights, tmp_path):
    exported(weights, tmp_path)
    with pytest.raises(SystemExit, match="holds another export: its config.json differs; accepted"):
        exported(weights, tmp_path, "--image_size=64")


def test_convert_names_it(weights, tmp_path):
    told = "^error: --format is .onnx.; accepted: .*timm.*; python -m tools.export writes programs"
    with pytest.raises(SystemExit, match=told):
        convert.main([str(weights), str(tmp_path), "--format=onnx"])
