"""Serves a model: an image in, its labels and scores out, as JSON.

    python -m tools.export runs/finetune out --format=onnx
    python -m examples.serve --model=out
    curl --data-binary @cat.jpg http://127.0.0.1:8000

MODEL is an export, or whatever convnext.from_pretrained takes.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from convnext import Classifier
from convnext.errors import InputError, reported

LARGEST = 20_000_000  # bytes of a request


def server(classifier: Classifier, port: int) -> ThreadingHTTPServer:
    """Makes a server on this computer; port 0 takes one that is free."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                size = int(self.headers.get("Content-Length", 0))
                if not 0 < size <= LARGEST:
                    raise InputError(f"{size:,} bytes", f"an image of 1 to {LARGEST:,} bytes")
                status, answer = 200, classifier(self.rfile.read(size))[0]
            except ValueError as error:  # an InputError is one
                status, answer = 400, {"error": str(error)}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.serve", allow_abbrev=False)
    parser.add_argument("--model", required=True, metavar="MODEL")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args(argv)
    with reported():
        serving = server(Classifier.from_pretrained(args.model), args.port)
        address = f"http://127.0.0.1:{serving.server_port}"
        print(f"{args.model} is at {address}, until Ctrl-C", flush=True)
        serving.serve_forever()


if __name__ == "__main__":
    main()
