"""Converts weights from one project's format into another's.

    python -m tools.convert SOURCE OUT
        --format=transformers|timm|official|torchvision|tensorflow|keras

SOURCE is whatever convnext.from_pretrained takes: a file or folder of weights, the workdir of a
run, or a Hugging Face id. OUT is a folder.
"""

from convnext import commands, save_pretrained
from convnext.errors import reported, require
from convnext.weights import pretrained
from convnext.weights.save import EXPORT_FORMATS


def main(argv: list[str] | None = None) -> None:
    parser = commands.parser("convert", __doc__)
    parser.add_argument("source", metavar="SOURCE", help="weights, see docs/weights.md")
    parser.add_argument("out", metavar="OUT", help="a folder")
    parser.add_argument("--format", required=True, help=", ".join(EXPORT_FORMATS))
    parser.add_argument("--weights", help="of a run: best (default), best_raw, ema, raw or a step")
    parser.add_argument(
        "--num_classes", type=int, help="of a new head; 0: no head; default: keep the head"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hugging Face repository")
    args = parser.parse_args(argv)
    with reported():
        accepted = (
            f"{', '.join(EXPORT_FORMATS)}; python -m tools.export writes programs, such as onnx"
        )
        require(args.format in EXPORT_FORMATS, "--format", args.format, accepted)
        source = pretrained.load(
            args.source,
            weights=args.weights or pretrained.default_weights(args.source),
            num_classes=args.num_classes,
            revision=args.revision,
        )
        save_pretrained(
            args.out,
            source.model,
            source.params,
            format=args.format,
            labels=source.labels,
            processor=source.processor,
            problem_type=source.problem_type,
        )
    print(f"{args.out} holds {source.origin} in the format of {args.format}")


if __name__ == "__main__":
    main()
