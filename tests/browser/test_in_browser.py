"""The page of tools.demo --browser in Chromium, and an exported folder in transformers.js."""

import contextlib
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from convnext import Classifier, ConvNeXt, ImageProcessor, save_pretrained
from tests.browser.conftest import RULES, SCHEMES, WIDTHS, picture
from tests.helpers.inputs import noise
from tools import demo, export

NPM = Path(sys.prefix, "npm")
LABELS = ["a cat", "<b>", "c", "d"]
MODEL = ConvNeXt((1,) * 4, (8, 16, 24, 32), 4, use_grn=True, layer_scale_init_value=None)
FOUND = """async () => {
  const { best, image } = await classify(document.getElementById('file').files[0]);
  return { best, seen: Array.from(image.data) };
}"""


@pytest.fixture(scope="module")
def params():
    params = jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    keys = iter(jax.random.split(jax.random.key(1), 99))
    return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params)


@pytest.fixture
def saved(params, tmp_path):
    """saved(processor, ...) is the folder of a small model with all that a graph has."""

    def save(processor, **options):
        options = {"labels": LABELS, "format": "timm"} | options
        save_pretrained(tmp_path / "model", MODEL, params, processor=processor, **options)
        return tmp_path / "model"

    return save


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of several kinds: what is rotated by its EXIF data, too."""
    folder = tmp_path_factory.mktemp("images")
    picture = Image.fromarray(noise(151, 230, 3))
    smooth = picture.resize((77, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "wide.png")
    smooth.convert("L").save(folder / "grey.png")
    smooth.save(folder / "turned.jpg", exif=exif, quality=90, subsampling=0)
    smooth.save(folder / "tall.webp", lossless=True)
    smooth.crop((0, 0, 20, 25)).save(folder / "small.bmp")
    return sorted(folder.iterdir())


@pytest.fixture
def named(opened, monkeypatch, tmp_path):
    """named(source, ...) opens the page that the command writes of it."""
    monkeypatch.chdir(NPM)

    @contextlib.contextmanager
    def write(source, *flags, scheme="light", width=1280):
        out = tmp_path / "page"
        demo.main([f"--model={source}", f"--browser={out}", *flags])
        with opened(out / "index.html", scheme, width) as page:
            expect(page.locator("#status")).to_have_text("Ready.", timeout=60_000)
            yield page
            assert not page.said

    return write


def choose(page, path):
    page.set_input_files("#file", path)
    expect(page.locator("#status")).to_have_text(re.compile("Named in "), timeout=60_000)


def assert_alike(page, classifier, path, atol=3e-6):
    """What the model sees, to the pixel, and the scores that it gives it."""
    choose(page, path)
    found = page.evaluate(FOUND)
    processor = classifier.processor
    seen = processor.preprocess(path, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(found["seen"], seen.ravel(), path.name)
    expected = classifier(path)[0]
    assert [e["label"] for e in found["best"]] == [e["label"] for e in expected]
    scores = [each["score"] for each in found["best"]]
    np.testing.assert_allclose(scores, [e["score"] for e in expected], atol=atol)


@pytest.mark.parametrize(
    "options",
    [*({"resample": number, "crop_pct": 0.8} for number in range(6)), {"crop_mode": "squash"},
     {"crop_mode": "center", "crop_pct": 0.9, "image_mean": (0.5, 0.4, 0.3)}],
    ids=str,
)  # fmt: skip
def test_images_are_seen_and_named_as_here(options, saved, named, images):
    source = saved(ImageProcessor(45, **options))
    with named(source) as page:
        for path in images:
            assert_alike(page, Classifier.from_pretrained(source), path)


def test_a_large_square_is_warped(saved, named, images):
    source = saved(ImageProcessor(384), format="transformers")
    with named(source) as page:
        assert_alike(page, Classifier.from_pretrained(source), images[-1])


def test_several_labels_have_scores_of_their_own(saved, named, images):
    kind = dict(format="transformers", problem_type="multi_label_classification")
    source = saved(ImageProcessor(32), **kind)
    with named(source, "--top_k=2", "--image_size=64") as page:
        choose(page, images[0])
        found = page.evaluate(FOUND)["best"]
    expected = Classifier.from_pretrained(source)(images[0], top_k=2, size=64)[0]
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    np.testing.assert_allclose(
        [each["score"] for each in found], [each["score"] for each in expected], atol=1e-6
    )


@pytest.mark.parametrize(
    "flag, atol",
    [("--dtype=float16", 2e-4), ("--normalize", 3e-6),
     ("--quantize=int8", 5e-3)],  # its products are rounded otherwise than on this CPU
)  # fmt: skip
def test_an_exported_graph_is_taken_as_it_is(flag, atol, saved, named, images, tmp_path):
    out = tmp_path / "out"
    export.main([str(saved(ImageProcessor(48))), str(out), "--format=onnx", flag])
    (graph,) = out.glob("onnx/*.onnx")
    with named(graph) as page:
        for path in images:
            assert_alike(page, Classifier.from_pretrained(graph), path, atol=atol)


def test_the_page_shows_what_it_found(saved, named, images, tmp_path):
    source = saved(ImageProcessor(48))
    (tmp_path / "text.png").write_text("no image")
    with named(source, "--top_k=3") as page:
        choose(page, images[0])
        expected = Classifier.from_pretrained(source)(images[0], top_k=3)[0]
        rows = [[e["label"], f"{100 * e['score']:.1f} %"] for e in expected]
        shown = page.locator("#scores tr").all()
        assert [row.locator("th, td").all_inner_texts() for row in shown] == rows
        assert page.locator("#seen").evaluate("c => [c.width, c.height]") == [48, 48]
        page.set_input_files("#file", tmp_path / "text.png")
        refusal = "This browser cannot read it as an image."
        expect(page.locator("#status")).to_have_text(refusal)
        expect(page.locator("#result")).to_be_hidden()


@pytest.mark.parametrize("kind, field", [("drop", "dataTransfer"), ("paste", "clipboardData")])
def test_an_image_may_be_dropped_or_pasted(kind, field, saved, named, images):
    source = saved(ImageProcessor(48))
    give = """([bytes, kind, field]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], 'a.png', { type: 'image/png' }));
      const types = { drop: DragEvent, paste: ClipboardEvent };
      dispatchEvent(new types[kind](kind, { [field]: data, cancelable: true }));
    }"""
    with named(source) as page:
        page.evaluate(give, [list(images[-1].read_bytes()), kind, field])
        expect(page.locator("#status")).to_have_text(re.compile("Named in "))
        best = Classifier.from_pretrained(source)(images[-1])[0][0]["label"]
        assert page.locator("#scores th").first.inner_text() == best


def test_nothing_leaves_the_browser(saved, named):
    """Its own policy refuses a request that a script of it would make."""
    with named(saved(ImageProcessor(48))) as page:
        ask = "fetch('https://example.com/').then(() => 'sent', () => 'refused')"
        assert page.evaluate(ask) == "refused"
        assert "Content Security Policy" in page.said.pop(0)
        page.said.clear()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_everyone_can_use_it(scheme, width, saved, named, images):
    with named(saved(ImageProcessor(48)), scheme=scheme, width=width) as page:
        choose(page, images[-1])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page, options=RULES)
        assert not found.response["violations"], found.generate_report()
        picture(page, f"in_browser_{scheme}_{width}", full_page=True)


# transformers.js

SITE = "http://site.test/"
PIPELINE = """async (dtype) => {
  const { env, pipeline } = await import('/dist/transformers.min.js');
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: '/' });
  env.useBrowserCache = false;
  env.backends.onnx.wasm.wasmPaths = '/wasm/';
  env.backends.onnx.wasm.numThreads = 1;
  const classify = await pipeline('image-classification', 'model', { dtype, device: 'wasm' });
  return classify('/image.png', { top_k: 4 });
}"""


@pytest.mark.parametrize("dtype, flag", [("fp32", "--dtype=float32"), ("fp16", "--dtype=float16"),
                                         ("q8", "--quantize=int8")])  # fmt: skip
def test_transformers_js_takes_the_folder(dtype, flag, saved, chromium, tmp_path):
    folder = tmp_path / "site"
    source = saved(ImageProcessor(48), format="transformers")
    export.main([str(source), str(folder / "model"), "--format=onnx", flag])
    # Its canvas resizes otherwise than Pillow: a short side of 54 needs only the crop.
    Image.fromarray(noise(54, 70, 3)).save(folder / "image.png")
    package = NPM / "node_modules" / "@huggingface" / "transformers"
    (folder / "dist").symlink_to(package / "dist")
    (folder / "wasm").symlink_to(package / "node_modules" / "onnxruntime-web" / "dist")
    (folder / "index.html").write_text("<!doctype html>")
    asked = []

    def answer(route):
        asked.append(route.request.url)
        path = folder / route.request.url.removeprefix(SITE)
        route.fulfill(path=path) if path.is_file() else route.fulfill(status=404)

    page = chromium.new_page()
    page.route("**/*", answer)
    page.goto(f"{SITE}index.html")
    found = page.evaluate(PIPELINE, dtype)
    page.close()
    assert all(url.startswith((SITE, "blob:")) for url in asked), asked
    (graph,) = folder.glob("model/onnx/*.onnx")
    expected = Classifier.from_pretrained(graph)(folder / "image.png")[0]
    found, expected = ({e["label"]: e["score"] for e in each} for each in (found, expected))
    assert found == pytest.approx(expected, abs=5e-3 if dtype == "q8" else 1e-4)
