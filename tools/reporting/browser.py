"""Page that names images in a browser, rendered from browser.html.jinja: a folder of files."""

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
from markupsafe import Markup

from convnext import Classifier
from convnext.errors import InputError, needed, require
from convnext.files import text
from convnext.images import resample
from convnext.weights import onnx_graph, pretrained
from tools.reporting import page

PACKAGE = Path("node_modules", "onnxruntime-web")
INSTALL = "npm install onnxruntime-web@1.30.0"  # the version that was run
LIBRARY, PROGRAM = "ort.wasm.min.js", "ort-wasm-simd-threaded"  # in its folder dist
SCRIPTS = (LIBRARY, "runtime.js", "model.js", "page.js")
MAX_BYTES = 300 * 10**6  # of a model: a text in Chromium has 512 million characters at most


def write(
    out: Path,
    source: str,
    *,
    weights: str | None = None,
    top_k: int = 5,
    image_size: int | None = None,
) -> None:
    """Writes index.html and its scripts, which ask for nothing else. A model is written as an ONNX
    graph; one that was exported is taken as it is.

    Raises InputError, before anything is written, if there is no such package of npm, or for a
    model that names no classes, is too large, or does not take image_size.
    """
    require(top_k >= 1, "--top_k", top_k, "an integer from 1 up")
    version, runtime = _runtime(_package())
    if onnx_graph.find(source) is None:
        weights = weights or pretrained.default_weights(source)
    loaded = pretrained.load_runnable(source, weights=weights)
    classifier = Classifier.of(loaded)
    function = classifier.default_function()
    require(function != "none", "the problem type", loaded.problem_type, "that of a classifier")
    processor = loaded.processor
    if image_size is not None:
        processor = dataclasses.replace(processor, size=image_size)
    graph = _graph(source, loaded, processor)
    accepted = f"{MAX_BYTES} at most: tools.export --quantize=int8"
    require(len(graph) <= MAX_BYTES, "the size of the graph in bytes", len(graph), accepted)
    scripts = runtime | {
        "model.js": f'const MODEL = "{base64.b64encode(graph).decode()}";\n',
        "page.js": (page.FOLDER / "browser.js").read_text(encoding="utf-8"),
    }
    template = page.environment_of_pages().get_template("browser.html.jinja")
    rendered = template.render(
        css=Markup((page.FOLDER / "report.css").read_text(encoding="utf-8")),
        name=Path(source).name or source,
        scripts=SCRIPTS,
        version=version,
        page={
            "labels": loaded.labels,
            "function": function,
            "top_k": top_k,
            "processor": dataclasses.asdict(processor),
            "rows_first": resample.PILLOW >= 13,  # see resample.bicubic
        },
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, script in scripts.items():
            text.replace(out / name, script)
        text.replace(out / "index.html", rendered)
    except OSError as error:
        raise InputError(f"--browser is {out}: {error.strerror}", "a folder to write") from error
    total = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out / 'index.html'} names images by {loaded.origin}: open it ({total:,} bytes in all)")


def _package():
    """The folder of onnxruntime-web, where npm installs it."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / PACKAGE / "package.json").is_file():
            return folder / PACKAGE
    raise InputError("the page needs onnxruntime-web, which is not installed", f"after {INSTALL}")


def _runtime(package):
    """Returns the version of onnxruntime-web and its scripts, its program for WebAssembly as
    text."""
    dist, version = package / "dist", text.read_json(package / "package.json")["version"]
    try:
        library = (dist / LIBRARY).read_text(encoding="utf-8")
        glue = (dist / f"{PROGRAM}.mjs").read_text(encoding="utf-8")
        program = base64.b64encode((dist / f"{PROGRAM}.wasm").read_bytes()).decode()
    except OSError as error:
        problem = f"onnxruntime-web {version} has no {error.filename}"
        raise InputError(problem, f"after {INSTALL}") from error
    licence = library[: library.index("*/") + 2]
    parts = f'glue: {json.dumps(glue)}, wasm: "{program}"'
    return version, {LIBRARY: library, "runtime.js": f"{licence}\nconst RUNTIME = {{ {parts} }};\n"}


def _graph(source, loaded, processor):
    """Returns the bytes of the ONNX graph of a model."""
    path = onnx_graph.find(source)
    if path is None:
        needed("onnx", "a page of weights")
        from convnext.export import onnx as export

        return export.model_proto(loaded.model, loaded.params).SerializeToString()
    loaded.model.apply({}, np.zeros((1, processor.size, processor.size, 3), np.float32))
    return path.read_bytes()
