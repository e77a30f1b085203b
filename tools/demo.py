"""Serves a page on this computer: drop an image, see its labels, scores and where they are seen.

    python -m tools.demo --model=SOURCE [--top_k=5] [--port=7860]
    python -m tools.demo --model=SOURCE --browser=OUT [--top_k=5]

SOURCE is whatever convnext.from_pretrained takes: a file or folder of weights, the workdir of a
run, or a Hugging Face id. The page is Gradio's: pip install gradio. Only this computer can open it,
unless --host is given, and only by an address or a name of this computer. Ctrl-C or SIGTERM ends
the command and deletes the images.

With --browser the page is written into the folder OUT instead, with the model in it: it runs where
it is opened, from a disk or from any host of files, and no image leaves the browser. SOURCE may
then be a folder of tools.export, or an .onnx file in it, too. This needs the package
onnxruntime-web of npm.
"""

import dataclasses
import html
import importlib.util
import ipaddress
import signal
import socket
from collections import Counter
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jax
import jax.numpy as jnp
import numpy as np

from convnext import Classifier, commands
from convnext.errors import InputError, reported, require
from convnext.evaluation import activation
from convnext.images import decode
from convnext.runs import programs
from convnext.training import losses
from convnext.weights import pretrained

SHOWN = 448  # pixels: a smaller image is enlarged to about this side
WHERE = "Where the model sees it"


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("demo", __doc__)
    parser.add_argument(
        "--model", required=True, metavar="SOURCE", help="weights, see docs/weights.md"
    )
    parser.add_argument("--weights", help="of a run: best (default), best_raw, ema, raw or a step")
    parser.add_argument("--top_k", type=int, default=5, help="classes to show (5)")
    parser.add_argument("--image_size", type=int, help="pixels; default: the model's")
    parser.add_argument("--browser", type=Path, metavar="OUT", help="folder of a page to write")
    parser.add_argument("--host", help="address to serve at (127.0.0.1)")
    parser.add_argument("--port", type=int, help="default: the first from 7860 up that is free")
    with reported(), programs.kept():
        args = vars(parser.parse_args(argv))
        out = args.pop("browser")
        if out is None:
            serve(**args)
        else:
            from tools.reporting import browser

            for name in ("host", "port"):
                given = args.pop(name)
                require(given is None, f"--{name}", given, "of a page that is served: no --browser")
            browser.write(out, args.pop("model"), **args)


def serve(
    model: str,
    weights: str | None,
    top_k: int,
    image_size: int | None,
    host: str | None,
    port: int | None,
) -> None:
    """Serves the page until it is interrupted. Raises InputError before the page opens."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            "the page needs gradio, which is not installed",
            'after pip install gradio, or pip install -e ".[demo]"',
        )
    host = host or "127.0.0.1"
    require(port is None or 0 < port < 65536, "--port", port, "1 to 65535")
    loaded = pretrained.load(model, weights=weights or pretrained.default_weights(model))
    print(f"weights    {loaded.origin}", flush=True)
    viewer = Viewer(loaded, top_k=top_k, image_size=image_size)
    blank = np.zeros((64, 64, 3), np.uint8)
    best = next(iter(viewer.scores(blank)))
    viewer.overlay(blank, best)  # compiles, so that the first visitor does not wait
    from starlette.middleware import Middleware  # comes with Gradio

    blocks = page(viewer, model)
    name = socket.gethostname()
    names = {host, "localhost", name, f"{name}.local", socket.getfqdn()}
    private = dict(share=False, ssr_mode=False, run_history=False, enable_monitoring=False)
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            app_kwargs={"middleware": [Middleware(known_hosts, names=names)]},
            **private,
        )
    except OSError as error:
        raise InputError(
            f"cannot serve at {host}, port {port or '7860 and up'}: {error}",
            "an address of this computer, and a port that is free",
        ) from error
    # Gradio deletes the images after Ctrl-C, so SIGTERM acts as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"{model} is at {url}, until Ctrl-C", flush=True)
    blocks.block_thread()


def known_hosts(app: Any, names: Collection[str]) -> Any:
    """Wraps an ASGI application so that it only answers requests to an address or to these names.

    Otherwise another site could let its own name lead to this computer (DNS rebinding), and the
    browser would let that site read the answers.
    """

    async def answer(scope, receive, send):
        asked = dict(scope.get("headers", ())).get(b"host", b"").decode("latin-1")
        if scope["type"] == "lifespan" or is_known(asked, names):
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            text = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 400, "headers": text})
            body = b"ask by an address or a name of this computer"
            await send({"type": "http.response.body", "body": body})

    return answer


def is_known(asked: str, names: Collection[str]) -> bool:
    """Returns whether a request's Host, with or without a port, is an address or a known name."""
    try:
        host = urlsplit(f"//{asked}").hostname or ""
        if host in {name.lower() for name in names}:
            return True
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Viewer:
    """Model behind the page: returns the class scores of an image, and the map of a class.

    An image is anything that convnext.ImageProcessor accepts. Raises InputError if the model is a
    regression or has no head, or if top_k or image_size is out of range.
    """

    def __init__(
        self, source: pretrained.Pretrained, *, top_k: int = 5, image_size: int | None = None
    ):
        is_classes = source.problem_type != losses.REGRESSION
        require(is_classes, "the problem type of the model", source.problem_type, "classification")
        processor = source.processor
        if image_size is not None:
            processor = dataclasses.replace(processor, size=image_size)
        count = Counter(source.labels)  # ImageNet has two classes named "crane"
        self.labels = [
            label if count[label] == 1 else f"{label} (class {index})"
            for index, label in enumerate(source.labels)
        ]
        self.classifier = Classifier(
            source.model, source.params, self.labels, processor, source.problem_type
        )
        self.top_k = top_k
        self._heat = jax.jit(partial(activation.class_activation, model=source.model))

    def scores(self, image: Any) -> dict[str, float]:
        """Returns {label: score} of the top_k classes, best first."""
        best = self.classifier(image, top_k=self.top_k)[0]
        return {entry["label"]: entry["score"] for entry in best}

    def overlay(self, image: Any, label: str) -> np.ndarray:
        """Returns uint8 [H, W, 3]: the part of the image that the model sees, with the class's map
        over it. An image smaller than SHOWN pixels is enlarged by a whole number."""
        processor = self.classifier.processor
        index = jnp.array([self.labels.index(label)])
        heat = self._heat(self.classifier.params, processor.preprocess(image), index)[0]
        seen = processor.preprocess(image, do_rescale=False, do_normalize=False)[0]
        factor = max(SHOWN // max(seen.shape), 1)
        enlarged = seen.repeat(factor, axis=0).repeat(factor, axis=1)
        return activation.overlay(enlarged, np.asarray(heat))


def page(viewer: Viewer, title: str) -> Any:
    """Returns the gradio.Blocks of the page."""
    import gradio as gr

    def look(path):
        if path is None:
            return None, gr.Image(None, label=WHERE)
        try:
            image = decode.decode(path)
            scores = viewer.scores(image)
            return scores, overlay_of(image, next(iter(scores)))
        except InputError as error:
            message = html.escape(f"This image cannot be used: {error}")  # Gradio renders HTML
            gr.Warning(message, duration=None)
            return None, gr.Image(None, label=WHERE)

    def look_at(path, event: gr.SelectData):
        return overlay_of(decode.decode(path), event.value)

    def overlay_of(image, label):
        caption = f"{WHERE}: {label}"
        return gr.Image(viewer.overlay(image, label), label=caption, alt_text=caption)

    # Every hour, images that are a day old are deleted; the rest when the page closes.
    with gr.Blocks(
        title=f"ConvNeXt: {title}", analytics_enabled=False, delete_cache=(3600, 86400)
    ) as blocks:
        gr.HTML(f"<h1>{html.escape(title)}</h1>")
        with gr.Row():
            sources, buttons = ["upload", "clipboard"], ["fullscreen"]
            image = gr.Image(
                label="Image", height=SHOWN, type="filepath", sources=sources, buttons=buttons
            )
            buttons = ["download", "fullscreen"]
            overlay = gr.Image(label=WHERE, height=SHOWN, interactive=False, buttons=buttons)
        scores = gr.Label(label="Scores; choose a label to see where the model sees it")
        # Gradio would open the file itself, and not report an error.
        image.preprocess = lambda payload: payload and payload.path
        gr.on([image.upload, image.clear], look, image, [scores, overlay], api_name="look")
        scores.select(look_at, image, overlay, api_visibility="private")
    return blocks


if __name__ == "__main__":
    main()
