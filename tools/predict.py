"""Names what is in images.

    python -m tools.predict IMAGE... --model=SOURCE [--top_k=5] [--json]

SOURCE is whatever convnext.from_pretrained takes: a file or folder of weights, the workdir of a
run, or a Hugging Face id.
"""

import argparse
import json
import sys

from convnext import Classifier
from convnext.classifier import FUNCTIONS
from convnext.errors import printable, reported
from convnext.weights import pretrained


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Names what is in images.", prog="python -m tools.predict"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file")
    parser.add_argument(
        "--model", required=True, metavar="SOURCE", help="weights, see docs/weights.md"
    )
    parser.add_argument("--weights", help="of a run: best (default), best_raw, ema, raw or a step")
    parser.add_argument("--top_k", type=int, default=5, help="classes per image (5)")
    parser.add_argument("--function_to_apply", choices=FUNCTIONS, help="default: the model's")
    parser.add_argument("--image_size", type=int, help="pixels; default: the model's")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    args = parser.parse_args()
    with reported():
        weights = args.weights or pretrained.default_weights(args.model)
        loaded = pretrained.load(args.model, weights=weights, dtype=args.dtype)
        print(f"by {loaded.origin}", file=sys.stderr)
        classifier = Classifier.of(loaded)
        overrides = {} if args.image_size is None else {"size": args.image_size}
        results = classifier(
            args.images,
            top_k=args.top_k,
            function_to_apply=args.function_to_apply,
            batch_size=args.batch_size,
            **overrides,
        )
    # A label may have letters that the terminal's encoding lacks.
    sys.stdout.reconfigure(errors="backslashreplace")
    for image, classes in zip(args.images, results, strict=True):
        if args.json:
            print(json.dumps({"image": image, "classes": classes}, ensure_ascii=False))
        else:
            print(printable(image))
            for entry in classes:
                print(f"  {entry['score']:8.4f}  {printable(entry['label'])}")


if __name__ == "__main__":
    main()
