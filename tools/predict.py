"""Names what is in images.

    python -m tools.predict IMAGE... --model=SOURCE [--top_k=5] [--json | --csv] [--out=FILE]

IMAGE is a file, a folder with all that lies below it, a pattern such as 'photos/*.jpg', or an
address of the web. SOURCE is whatever convnext.from_pretrained takes: a file or folder of weights,
the workdir of a run, RUN@best, RUN@1000, or a Hugging Face id. An image that cannot be read is
named at the end, and the others are predicted.
"""

import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from convnext import Classifier, commands
from convnext.classifier import FUNCTIONS
from convnext.data import listing
from convnext.errors import InputError, printable, reported, require
from convnext.files import text
from convnext.runs import programs
from convnext.weights import pretrained
from tools import named_images


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("predict", __doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--model", required=True, metavar="SOURCE", help="weights, see docs/weights.md"
    )
    parser.add_argument("--weights", help="of a run: best (default), best_raw, ema, raw or a step")
    parser.add_argument("--top_k", type=int, default=5, help="classes per image (5)")
    parser.add_argument("--function_to_apply", choices=FUNCTIONS, help="default: the model's")
    parser.add_argument("--image_size", type=int, help="pixels; default: the model's")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time (32)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON object a line for each image")
    form.add_argument("--csv", action="store_true", help="image, label, score, label_2 ...")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write, not the terminal")
    args = parser.parse_args(argv)
    with reported(), programs.kept():
        require(args.batch_size >= 1, "--batch_size", args.batch_size, "1 and more")
        names, skipped = named_images.find(args.images)
        if skipped:
            _say(f"skipped    {listing.what_is_skipped(skipped)}")
        weights = args.weights or pretrained.default_weights(args.model)
        loaded = pretrained.load_runnable(args.model, weights=weights, dtype=args.dtype)
        _say(f"weights    {loaded.origin}")
        options = dict(top_k=args.top_k, function_to_apply=args.function_to_apply)
        if args.image_size is not None:
            options["size"] = args.image_size
        bad: list[InputError] = []
        found = predictions(Classifier.of(loaded), names, bad, args.batch_size, **options)
        lines = _lines(found, _as_json if args.json else _as_csv if args.csv else _as_text)
        if args.csv:
            lines = itertools.chain([_header(min(args.top_k, len(loaded.labels)))], lines)
        if args.out:
            _write(args.out, lines)
        else:
            # A label may have letters that the terminal's encoding lacks.
            sys.stdout.reconfigure(errors="backslashreplace")
            for line in lines:
                print(line, flush=True)
        if len(names) == len(bad) == 1:
            raise bad[0]
        for error in bad:
            _say(error)
        if bad:
            raise InputError(f"{len(bad):,} of {len(names):,} images could not be read, see above")


def predictions(
    classifier: Classifier, names: list[str], bad: list[InputError], batch_size: int, **options
) -> Iterator[tuple[str, list[dict]]]:
    """Yields each name with its classes, best first. What is wrong with an image that cannot be
    read is added to `bad`."""
    size = min(batch_size, 1 << (len(names) - 1).bit_length())  # one for all, so one is compiled
    images = named_images.read(names, bad)
    while batch := list(itertools.islice(images, size)):
        pixels = [image for _, image in batch]
        pixels += pixels[-1:] * (size - len(pixels))
        results = classifier(pixels, batch_size=size, **options)
        yield from zip((name for name, _ in batch), results[: len(batch)], strict=True)


def _lines(found: Iterator, form: Callable[[str, list[dict]], str]) -> Iterator[str]:
    return (form(name, classes) for name, classes in found)


def _as_text(name, classes):
    rows = [f"  {each['score']:8.4f}  {printable(each['label'])}" for each in classes]
    return "\n".join([printable(name), *rows])


def _as_json(name, classes):
    return json.dumps({"image": name, "classes": classes}, ensure_ascii=False)


def _as_csv(name, classes):
    return _row([name, *(value for each in classes for value in (each["label"], each["score"]))])


def _header(count):
    numbered = [f"{name}_{place}" for place in range(2, count + 1) for name in ("label", "score")]
    return _row(["image", "label", "score", *numbered])


def _row(values):
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()


def _write(path, lines):
    try:
        text.replace(path, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise InputError(
            f"--out is {path}, which cannot be written: {error.strerror}", "a file"
        ) from error


def _say(line):
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
