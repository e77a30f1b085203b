"""Writes a model as a program that runs without this project: ONNX, StableHLO for JAX, or LiteRT.

    python -m tools.export SOURCE OUT --format=onnx|stablehlo|litert
        [--image_size=224|dynamic] [--batch_size=1|dynamic]
        [--dtype=float16] [--quantize=int8] [--normalize]

SOURCE is whatever convnext.from_pretrained takes: a file or folder of weights, the workdir of a
run, or a Hugging Face id. OUT is a folder, laid out as transformers.js and optimum expect it:
config.json, preprocessor_config.json, onnx/model.onnx; model_fp16.onnx and model_quantized.onnx
beside that; or stablehlo/model.bin; or litert/model_1x224.tflite. Batch and sides are free, where
they are not given; LiteRT has one of each. What was written is run beside the model, and the
difference printed. tools.convert writes weights.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path

from convnext import commands
from convnext.errors import InputError, needed, reported, require
from convnext.files import text
from convnext.weights import model_config, pretrained
from convnext.weights.save import EXPORT_FORMATS

FORMATS = ("onnx", "stablehlo", "litert")
DYNAMIC = "dynamic"
NAMES = {"float32": "model", "float16": "model_fp16", "int8": "model_quantized"}


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("export", __doc__)
    parser.add_argument("source", metavar="SOURCE", help="weights, see docs/weights.md")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder")
    parser.add_argument("--format", required=True, help=", ".join(FORMATS))
    parser.add_argument("--weights", help="of a run: best (default), best_raw, ema, raw or a step")
    parser.add_argument("--image_size", type=_size, help="pixels; default: dynamic, any")
    parser.add_argument("--batch_size", type=_size, help="images; default: dynamic, any")
    parser.add_argument("--dtype", default="float32", help="float32 or float16 (%(default)s)")
    parser.add_argument("--quantize", choices=["int8"], help="the weights of linear layers")
    parser.add_argument("--normalize", action="store_true", help="takes pixels from 0 to 255")
    args = parser.parse_args(argv)
    with reported():
        if args.format in EXPORT_FORMATS:
            of_weights = f"python -m tools.convert writes {args.format}'s weights"
            accepted = f"{', '.join(FORMATS)}; {of_weights}"
            raise InputError(f"--format is {args.format!r}", accepted)
        require(args.format in FORMATS, "--format", args.format, ", ".join(FORMATS))
        is_one = args.quantize is None or args.dtype == "float32"
        require(is_one, "--quantize with --dtype", args.dtype, "one of the two")
        write(args)


def _size(text):
    return text if text == DYNAMIC else int(text)


def write(args) -> None:
    """Writes the folder, and prints what it holds."""
    weights = args.weights or pretrained.default_weights(args.source)
    found = pretrained.load(args.source, weights=weights)
    processor = dataclasses.replace(found.processor, crop_rounding="floor")
    if args.format == "litert":
        args.batch_size, args.image_size = args.batch_size or 1, args.image_size or processor.size
    if args.image_size not in (None, DYNAMIC):
        processor = dataclasses.replace(processor, size=args.image_size)
    normalizes = args.normalize
    prepared = dataclasses.replace(
        processor, do_normalize=not normalizes, do_rescale=not normalizes
    )
    texts = {
        "config.json": model_config.transformers_config(
            found.model, found.labels or None, processor.size, found.problem_type
        ),
        "preprocessor_config.json": prepared.to_config(),
    }
    _check_folder(args.out, texts)
    contents, check = WRITERS[args.format](args, found, processor)
    path = args.out / _name(args)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, values in texts.items():
        text.replace(args.out / name, text.of_json(values))
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(contents)
    temporary.replace(path)
    print(f"{path} holds {found.origin}: {len(contents):,} bytes")
    print(f"its outputs differ from those here by {check():.1e} of the largest")


def _onnx(args, found, processor):
    """The bytes of the file, and what compares it."""
    onnx, _ = (needed(name, "the format onnx") for name in ("onnx", "onnxruntime"))
    from convnext.export import onnx as export

    mean_and_std = (processor.image_mean, processor.image_std) if args.normalize else None
    proto = export.model_proto(
        found.model,
        found.params,
        **_sizes(args),
        dtype=args.dtype,
        normalize=mean_and_std,
        conv_mlp=not args.quantize,
    )
    onnx.checker.check_model(proto, full_check=True)
    if args.quantize:
        proto = export.quantized(proto)
    check = partial(export.difference, proto, found.model, found.params, mean_and_std)
    return proto.SerializeToString(), check


def _stablehlo(args, found, processor):
    _refuse_what_onnx_has(args)
    from convnext.export import stablehlo

    program = stablehlo.program(found.model, found.params, **_sizes(args))
    contents = stablehlo.serialized(program)
    check = partial(stablehlo.difference, contents, found.model, found.params, **_sizes(args))
    return contents, check


def _litert(args, found, processor):
    _refuse_what_onnx_has(args)
    from convnext.export import litert

    contents = litert.flatbuffer(found.model, found.params, **_sizes(args))
    return contents, partial(litert.difference, contents, found.model, found.params, **_sizes(args))


WRITERS = {"onnx": _onnx, "stablehlo": _stablehlo, "litert": _litert}


def _sizes(args):
    """Of the writers, to which None is any."""
    asked = dict(batch_size=args.batch_size, image_size=args.image_size)
    return {name: None if size == DYNAMIC else size for name, size in asked.items()}


def _refuse_what_onnx_has(args):
    for name in ("dtype", "quantize", "normalize"):
        given = getattr(args, name)
        is_plain = given in ("float32", None, False)
        require(is_plain, f"--{name} of {args.format}", given, "--format=onnx, which has it")


def _name(args):
    if args.format == "onnx":
        return f"onnx/{NAMES[args.quantize or args.dtype]}.onnx"
    if args.format == "litert":
        return f"litert/model_{args.batch_size}x{args.image_size}.tflite"
    return "stablehlo/model.bin"


def _check_folder(out, texts):
    """Refuses a folder of another export."""
    for name, values in texts.items():
        if (out / name).exists() and text.read_json(out / name) != json.loads(json.dumps(values)):
            raise InputError(f"{out} holds another export: its {name} differs", "a new folder")


if __name__ == "__main__":
    main()
