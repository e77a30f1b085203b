"""The scripts in examples/, in their smallest form; the notebook is run by make notebook."""

import ast
import io
import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from convnext import Classifier, ImageProcessor, save_pretrained
from convnext.errors import InputError
from convnext.weights import pretrained
from examples import features, serve, transfer_digits
from tests.helpers.inputs import noise
from tools import export

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tiny_model, tiny_params):
    folder = tmp_path_factory.mktemp("weights")
    save_pretrained(folder, tiny_model, tiny_params, processor=ImageProcessor(size=16))
    return folder


def test_features_finds_the_image_that_is_most_alike(weights, tmp_path, capsys):
    for index in range(4):
        Image.fromarray(noise(16, 16, 3, seed=index)).save(tmp_path / f"{index}.png")
    (tmp_path / "later").mkdir()
    alike = np.clip(noise(16, 16, 3, seed=2).astype(int) + 3, 0, 255).astype(np.uint8)
    Image.fromarray(alike).save(tmp_path / "later" / "alike.png")

    flags = [f"--folder={tmp_path}", f"--model={weights}", "--neighbours=2"]
    features.main([str(tmp_path / "2.png"), *flags])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[1:5]] == ["stem", "stage1", "stage2", "pooler_output"]
    assert lines[3][1:] == [*"4x4x", "16"] and lines[4] == ["pooler_output", "16"]
    (best, path), (second, _) = lines[-2:]
    assert path == str(tmp_path / "later" / "alike.png") and float(best) > float(second)
    assert float(best) > 0.95


def test_features_of_no_images_are_refused(weights, tmp_path):
    with pytest.raises(InputError, match="no other image in .*; accepted: .jpg, .jpeg, .jpe"):
        features.show(tmp_path / "a.png", tmp_path, str(weights), 1)


def test_what_the_notebook_imports_is_there():
    notebook = json.loads((ROOT / "examples" / "finetune.ipynb").read_text())
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell))]
    imported = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(imported) > 8
    for node in imported:
        exec(ast.unparse(node), {})


@pytest.mark.slow
def test_transfer_prints_the_accuracy_of_each_way(weights, capsys):
    transfer_digits.main([f"--model={weights}", "--labels=1", "--num_steps=2"])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "odd or even, from 10 labels, on 360 other images:"
    ways = {line[:14].strip(): float(line[14:]) for line in lines}
    assert list(ways) == ["from scratch", "linear probe", "fine-tuning"]
    assert all(0.2 < accuracy < 0.8 for accuracy in ways.values())  # chance is 0.5


def test_a_linear_probe_leaves_all_but_the_head(weights):
    found = pretrained.load(weights, num_classes=2)
    images, labels = noise(4, 16, 16, 3) / 255, np.array([0, 1, 0, 1])
    fitted = transfer_digits.fit(
        found.model, found.params, images, labels, num_steps=2, peak_lr=0.1, frozen="^(?!head/)"
    )
    is_same = {
        name: all(jax.tree.leaves(jax.tree.map(np.array_equal, part, found.params[name])))
        for name, part in fitted.items()
    }
    assert is_same == {name: name != "head" for name in found.params}


def test_the_notebook_is_committed_with_its_outputs_and_nothing_of_a_computer():
    text = (ROOT / "examples" / "finetune.ipynb").read_text(encoding="utf-8")
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert {output["name"] for output in outputs if "name" in output} == {"stdout"}
    said = "".join("".join(output.get("text", ())) for output in outputs)
    assert "best       val_ema/top1" in said
    assert sum("image/png" in output.get("data", ()) for output in outputs) == 2
    assert not re.search(r"/home/|/root/|/tmp/", text)


def test_a_server_answers_an_image_with_its_labels(weights, tmp_path):
    export.main([str(weights), str(tmp_path / "out"), "--format=onnx"])
    classifier = Classifier.from_pretrained(tmp_path / "out")
    serving = serve.server(classifier, port=0)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{serving.server_port}"
    image = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image, "PNG")
    try:
        with urllib.request.urlopen(address, image.getvalue()) as answer:
            named = json.load(answer)
        assert named == [
            {"label": each["label"], "score": pytest.approx(each["score"], abs=1e-6)}
            for each in classifier(pixels)[0]
        ]
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            urllib.request.urlopen(address, b"no image")
        assert "cannot use the image (bytes of 8)" in json.load(refused.value)["error"]
    finally:
        serving.shutdown()
        thread.join()
        serving.server_close()
