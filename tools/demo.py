"""A page on this computer: drop an image, see its labels, their scores and where they are seen.

    python -m tools.demo --model=SOURCE [--top_k=5] [--port=7860]

SOURCE is whatever convnext.from_pretrained takes: a file or folder of weights, the workdir of a
run, or a Hugging Face id. The page is Gradio's: pip install gradio. Only this computer sees it,
unless --host says otherwise, and only by an address or a name of its own; the images are deleted
when the command ends, by Ctrl-C or SIGTERM.
"""

import argparse
import dataclasses
import html
import importlib.util
import ipaddress
import signal
import socket
from collections import Counter
from collections.abc import Collection
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import jax
import jax.numpy as jnp
import numpy as np

from convnext import Classifier
from convnext.errors import InputError, reported, require
from convnext.evaluation import activation
from convnext.images import decode
from convnext.training import losses
from convnext.weights import pretrained

SHOWN = 448  # pixels: a smaller image is enlarged to about this side
WHERE = "Where the model sees it"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, metavar="SOURCE", help="weights, see the README")
    parser.add_argument("--weights", help="of a run, ema or raw; default: the average")
    parser.add_argument("--top_k", type=int, default=5, help="classes to show (5)")
    parser.add_argument("--image_size", type=int, help="pixels; default: the model's")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (127.0.0.1)")
    parser.add_argument("--port", type=int, help="default: the first from 7860 up that is free")
    with reported():
        serve(**vars(parser.parse_args(argv)))


def serve(
    model: str,
    weights: str | None,
    top_k: int,
    image_size: int | None,
    host: str,
    port: int | None,
) -> None:
    """Until it is interrupted. Raises InputError before the page opens."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError(
            "the page needs gradio, which is not installed",
            'after pip install gradio, or pip install -e ".[demo]"',
        )
    require(port is None or 0 < port < 65536, "--port", port, "1 to 65535")
    viewer = Viewer(pretrained.load(model, weights=weights), top_k=top_k, image_size=image_size)
    blank = np.zeros((64, 64, 3), np.uint8)
    viewer.overlay(
        blank, next(iter(viewer.scores(blank)))
    )  # compiles; the first visitor would wait
    from starlette.middleware import Middleware  # which Gradio brings

    blocks = page(viewer, model)
    name = socket.gethostname()
    names = {host, "localhost", name, f"{name}.local", socket.getfqdn()}
    try:
        _, url, _ = blocks.launch(
            server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True,
            ssr_mode=False, run_history=False, enable_monitoring=False, footer_links=[],
            app_kwargs={"middleware": [Middleware(known_hosts, names=names)]},
        )  # fmt: skip
    except OSError as error:
        raise InputError(
            f"cannot serve at {host}, port {port or '7860 and up'}: {error}",
            "an address of this computer, and a port that is free",
        ) from error
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # as Ctrl-C: Gradio deletes the images
    print(f"{model} is at {url}, until Ctrl-C", flush=True)
    blocks.block_thread()


def known_hosts(app: Any, names: Collection[str]) -> Any:
    """An ASGI application that passes to another what asks for an address, or for one of the names.

    A page of someone else could have its own name lead to this computer (DNS rebinding), and would
    then be let read what is answered.
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
    """Whether the Host of a request, with or without a port, is an address or one of the names."""
    try:
        host = urlsplit(f"//{asked}").hostname or ""
        if host in {name.lower() for name in names}:
            return True
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Viewer:
    """An image in, the scores of classes and the map of one of them out: what the page shows.

    An image is whatever convnext.ImageProcessor takes one from. Raises InputError where the model
    is a regression, or has no head, or top_k or image_size is none.
    """

    def __init__(
        self, found: pretrained.Pretrained, *, top_k: int = 5, image_size: int | None = None
    ):
        is_classes = found.problem_type != losses.REGRESSION
        require(is_classes, "the problem type of the model", found.problem_type, "classification")
        processor = found.processor
        if image_size is not None:
            processor = dataclasses.replace(processor, size=image_size)
        count = Counter(found.labels)  # ImageNet has two cranes
        self.labels = [
            label if count[label] == 1 else f"{label} (class {index})"
            for index, label in enumerate(found.labels)
        ]
        self.classifier = Classifier(
            found.model, found.params, self.labels, processor, found.problem_type
        )
        self.top_k = top_k
        self._heat = jax.jit(partial(activation.class_activation, model=found.model))

    def scores(self, image: Any) -> dict[str, float]:
        """{label: score} of the top_k classes, best first."""
        best = self.classifier(image, top_k=self.top_k)[0]
        return {entry["label"]: entry["score"] for entry in best}

    def overlay(self, image: Any, label: str) -> np.ndarray:
        """uint8 [H, W, 3]: the part of the image that the model sees, and over it the class's map;
        an image of less than SHOWN pixels is enlarged by a whole number."""
        processor = self.classifier.processor
        index = jnp.array([self.labels.index(label)])
        heat = self._heat(self.classifier.params, processor.preprocess(image), index)[0]
        seen = processor.preprocess(image, do_rescale=False, do_normalize=False)[0]
        factor = max(SHOWN // max(seen.shape), 1)
        enlarged = seen.repeat(factor, axis=0).repeat(factor, axis=1)
        return activation.overlay(enlarged, np.asarray(heat))


def page(viewer: Viewer, title: str) -> Any:
    """The gradio.Blocks that show it."""
    import gradio as gr

    def look(path):
        if path is None:
            return None, gr.Image(None, label=WHERE)
        try:
            image = decode.decode(path)
            scores = viewer.scores(image)
            return scores, overlay_of(image, next(iter(scores)))
        except InputError as error:
            message = html.escape(f"This image cannot be used: {error}")  # it is shown as HTML
            gr.Warning(message, duration=None)
            return None, gr.Image(None, label=WHERE)

    def look_at(path, event: gr.SelectData):
        return overlay_of(decode.decode(path), event.value)

    def overlay_of(image, label):
        said = f"{WHERE}: {label}"
        return gr.Image(viewer.overlay(image, label), label=said, alt_text=said)

    # Every hour, what is a day old is deleted; the rest when the page closes.
    with gr.Blocks(
        title=f"ConvNeXt: {title}", analytics_enabled=False, delete_cache=(3600, 86400)
    ) as blocks:
        gr.HTML(f"<h1>{html.escape(title)}</h1>")
        with gr.Row():
            image = gr.Image(label="Image", height=SHOWN, type="filepath",
                             sources=["upload", "clipboard"], buttons=["fullscreen"])  # fmt: skip
            overlay = gr.Image(label=WHERE, height=SHOWN, interactive=False,
                               buttons=["download", "fullscreen"])  # fmt: skip
        scores = gr.Label(label="Scores; choose a label to see where the model sees it")
        # Gradio would open the file itself, and say nothing where it cannot.
        image.preprocess = lambda payload: payload and payload.path
        gr.on([image.upload, image.clear], look, image, [scores, overlay], api_name="look")
        scores.select(look_at, image, overlay, api_visibility="private")
    return blocks


if __name__ == "__main__":
    main()
