"""The folder that tools.demo --browser writes; the page itself is in browser/test_in_browser.py."""

import base64
import json
from pathlib import Path

import pytest

from convnext.weights import pretrained
from tools import demo
from tools.reporting import browser

onnx = pytest.importorskip("onnx")
SOURCE = Path(__file__).parents[1] / "fixtures" / "pretrained" / "official_v1.pth"
SAID = "/*! ONNX Runtime Web v9.9.9\n * MIT License.\n */"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that has the package of npm above it, with little in it."""
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": "9.9.9"}))
    (folder / "dist" / browser.LIBRARY).write_text(f"{SAID}\nvar ort;")
    (folder / "dist" / f"{browser.PROGRAM}.mjs").write_text('export default "</script>";')
    (folder / "dist" / f"{browser.PROGRAM}.wasm").write_bytes(b"\0asm\xff")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def written(*flags, out="page"):
    demo.main([f"--model={SOURCE}", f"--browser={out}", *flags])
    return Path(out)


def refusal(capsys, *flags):
    with pytest.raises(SystemExit) as ended:
        written(*flags)
    assert not Path("page").exists()
    return ended.value.code


def test_the_folder_has_the_runtime_and_the_graph(package, capsys):
    out = written("--top_k=2", "--image_size=64")
    assert capsys.readouterr().out.startswith(f"{out}/index.html names images by {SOURCE} ")
    names = {path.name for path in out.iterdir()}
    assert names == {"index.html", "ort.wasm.min.js", "runtime.js", "model.js", "page.js"}
    runtime = (out / "runtime.js").read_text()
    assert runtime.startswith(SAID)
    assert '"export default \\"</script>\\";"' in runtime
    assert base64.b64encode(b"\0asm\xff").decode() in runtime
    model = (out / "model.js").read_text().removeprefix('const MODEL = "').removesuffix('";\n')
    (given,) = onnx.load_model_from_string(base64.b64decode(model)).graph.input
    assert given.name == "pixel_values"
    _, _, rest = (out / "index.html").read_text().partition('id="page">')
    page = json.loads(rest.partition("</script>")[0])
    found = pretrained.load(SOURCE)
    assert page["labels"] == list(found.labels) and page["function"] == "softmax"
    assert page["top_k"] == 2 and page["processor"]["size"] == 64
    assert page["processor"]["crop_pct"] == found.processor.crop_pct


def test_without_the_package_it_says_what_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = "error: the page needs onnxruntime-web, which is not installed; accepted: after npm inst"
    assert refusal(capsys).startswith(told)


def test_a_package_without_its_files_is_named(package, capsys):
    (package / "dist" / f"{browser.PROGRAM}.wasm").unlink()
    assert "onnxruntime-web 9.9.9 has no " in refusal(capsys)


@pytest.mark.parametrize(
    "flags, told",
    [(["--top_k=0"], "error: --top_k is 0; accepted: an integer from 1 up"),
     (["--port=80"], "error: --port is 80; accepted: of a page that is served: no --browser"),
     (["--host=me"], "error: --host is 'me'; accepted: of a page that is served: no --browser"),
     (["--image_size=0"], "error: size is 0; accepted: an integer from 1 to 13377")],
)  # fmt: skip
def test_flags_that_it_cannot_follow(package, capsys, flags, told):
    assert refusal(capsys, *flags) == told


def test_a_model_that_is_too_large_is_refused(package, capsys, monkeypatch):
    monkeypatch.setattr(browser, "MAX_BYTES", 1000)
    assert refusal(capsys).endswith("; accepted: 1000 at most: tools.export --quantize=int8")


def test_a_file_in_its_place(package, capsys):
    Path("page").write_text("")
    with pytest.raises(SystemExit) as ended:
        written()
    assert ended.value.code == "error: --browser is page: File exists; accepted: a folder to write"
