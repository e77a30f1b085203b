"""Measures models and layers on the device at hand, beside PyTorch where it is asked to.

    python -m dev.benchmark model --variant=tiny --batch_size=8 --dtype=float32 --peer=timm
    python -m dev.benchmark layers --variant=tiny --batch_size=8 --dtype=float32
    python -m dev.benchmark tpu --variant=tiny --batch_size=16 --dtype=bfloat16
    python -m dev.benchmark gpu --variant=tiny --batch_size=256 --dtype=bfloat16
    python -m dev.benchmark scaling --devices 8 64 256 --variant tiny base xlarge --fsdp 1 8
    python -m dev.benchmark pretraining --variant v2_atto v2_tiny --batch_size=8
    python -m dev.benchmark data --peer=timm
    python -m dev.benchmark workers --batch_size=4096 --workers 1 8

Each cell is printed, and with --json appended to a file, as soon as it is measured. Times are
milliseconds: least, median and greatest. Of packages it needs jax, flax, optax and numpy, and
`data` and `workers` those of the data's side; the peer runs in a process, and if need be an
environment, of its own.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax

from convnext.errors import reported, require
from convnext.kernels.ptx import KERNELS
from convnext.models.convnext import VARIANTS, ConvNeXt
from dev.benchmarks import gpu, layers, models, pretraining, scaling, tpu

MODES = ("inference", "training")
DTYPES = ("float32", "bfloat16")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m dev.benchmark",
        description=__doc__.split("\n", 1)[0],
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--variant", default="tiny", choices=VARIANTS, metavar="NAME")
    shared.add_argument("--config", help="a config's model instead (needs ml_collections)")
    shared.add_argument("--batch_size", type=int, nargs="+", default=[8], metavar="N")
    shared.add_argument("--image_size", type=int, default=224, metavar="PIXELS")
    shared.add_argument("--dtype", default="float32", choices=DTYPES)
    shared.add_argument("--residual_dtype", default="float32", choices=DTYPES)
    shared.add_argument("--json", type=Path, help="file that each cell is appended to")
    one = commands.add_parser("model", parents=[shared], help="inference and training of a model")
    one.add_argument("--mode", nargs="+", default=MODES, choices=MODES)
    one.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    one.add_argument("--peer", choices=("timm", "transformers"), help="PyTorch's model beside it")
    one.add_argument("--peer_python", default=sys.executable, help="interpreter with PyTorch")
    one.add_argument("--rounds", type=int, default=5, help="turns of the two")
    one.add_argument("--page", type=Path, help="fail where a ratio is below 0.9 of this page's")
    one.set_defaults(command=partial(_benchmark_model, models.benchmark))
    other = commands.add_parser("layers", parents=[shared], help="each layer of each stage")
    other.add_argument(
        "--record", action="store_true", help="choose by it: convnext/kernels/timings.json"
    )
    other.set_defaults(command=partial(_benchmark_model, layers.benchmark))
    ahead = commands.add_parser("tpu", parents=[shared], help="what a TPU's compiler says, without")
    ahead.add_argument("--topology", default="v5e:2x4", help="kind and arrangement of the chips")
    ahead.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    ahead.add_argument("--layers", action="store_true", help="the depthwise layers, not the model")
    ahead.set_defaults(command=partial(_benchmark_model, tpu.benchmark))
    planned = commands.add_parser(
        "gpu", parents=[shared], help="what a GPU's compiler says, without"
    )
    planned.add_argument("--mode", nargs="+", default=MODES, choices=MODES)
    planned.add_argument("--target", type=Path, default=gpu.TARGET, help="description of the GPU")
    planned.add_argument("--kernels", default="auto", choices=KERNELS, help="lax: without our own")
    planned.add_argument(
        "--remat", action="store_true", help="recompute blocks in the backward pass"
    )
    planned.add_argument("--hlo", type=Path, help="file for the compiled program's text")
    planned.add_argument(
        "--option", nargs="+", default=[], metavar="NAME=VALUE", help="compiler options"
    )
    planned.set_defaults(command=partial(_benchmark_model, gpu.benchmark))
    large = commands.add_parser("scaling", help="what an update moves between devices, without")
    large.add_argument(
        "--variant", nargs="+", default=("tiny", "base", "xlarge"), choices=VARIANTS, metavar="NAME"
    )
    large.add_argument("--devices", type=int, nargs="+", default=(8, 64, 256), metavar="N")
    large.add_argument("--topology", nargs="+", help="of TPU chips instead, such as v5e:8x8")
    large.add_argument("--estimate", action="store_true", help="memory without a TPU's compiler")
    large.add_argument("--fsdp", type=int, nargs="+", default=(1, 8), metavar="N")
    large.add_argument("--batch_size", type=int, default=4096, metavar="N", help="of all devices")
    large.add_argument("--group_size", type=int, default=128, metavar="N", help="of mixed images")
    large.add_argument("--image_size", type=int, default=224, metavar="PIXELS")
    large.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    large.add_argument("--residual_dtype", default="float32", choices=DTYPES)
    large.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    large.add_argument("--json", type=Path, help="file that each cell is appended to")
    large.set_defaults(command=_benchmark_scaling)
    masked = commands.add_parser("pretraining", help="steps of FCMAE, beside what they replace")
    masked.add_argument(
        "--variant", nargs="+", default=("v2_atto", "v2_tiny"), choices=VARIANTS, metavar="NAME"
    )
    masked.add_argument("--batch_size", type=int, nargs="+", default=[8], metavar="N")
    masked.add_argument("--image_size", type=int, default=224, metavar="PIXELS")
    masked.add_argument("--dtype", default="float32", choices=DTYPES)
    masked.add_argument("--rounds", type=int, default=15, help="turns")
    masked.add_argument("--json", type=Path, help="file that each cell is appended to")
    masked.set_defaults(command=pretraining.benchmark)
    host = commands.add_parser("data", help="JPEG files to batches, on the host")
    host.add_argument("--images", type=int, default=400, metavar="N", help="files to make")
    host.add_argument("--image_size", type=int, default=224, metavar="PIXELS")
    host.add_argument("--rounds", type=int, default=5, help="turns of the two")
    host.add_argument("--peer", choices=("timm",), help="timm's transforms beside it")
    host.add_argument("--peer_python", default=sys.executable, help="interpreter with timm")
    host.add_argument("--json", type=Path, help="file for the figures, as one object")
    host.set_defaults(command=_benchmark_data)
    held = commands.add_parser("workers", help="memory of the processes that make batches")
    held.add_argument("--batch_size", type=int, default=4096, metavar="N")
    held.add_argument("--image_size", type=int, default=224, metavar="PIXELS")
    held.add_argument("--workers", type=int, nargs="+", default=(1, 8), metavar="N")
    held.add_argument("--json", type=Path, help="file that each cell is appended to")
    held.set_defaults(command=_benchmark_workers)
    arguments = parser.parse_args(argv)
    with reported():
        arguments.command(arguments)


def _benchmark_model(benchmark, arguments):
    model, name = _model(arguments)
    benchmark(model, name, arguments)


def _benchmark_scaling(arguments):
    # Read when the first computation starts, and not after.
    jax.config.update("jax_num_cpu_devices", max(arguments.devices))
    options = dict(
        dtype=arguments.dtype,
        residual_dtype=arguments.residual_dtype,
        remat=arguments.remat,
        drop_path_rate=0.1,
    )
    variants = {name: ConvNeXt(**VARIANTS[name], **options) for name in arguments.variant}
    scaling.benchmark(variants, arguments)


def _benchmark_data(arguments):
    """Apart, as it needs the packages of the data's side."""
    from dev.benchmarks import data

    require(
        arguments.images >= data.BATCH_SIZE,
        "--images",
        arguments.images,
        f"{data.BATCH_SIZE} and more",
    )
    data.benchmark(arguments)


def _benchmark_workers(arguments):
    from dev.benchmarks import worker_memory

    require(min(arguments.workers) > 0, "--workers", arguments.workers, "1 and more")
    worker_memory.benchmark(arguments)


def _model(arguments):
    if arguments.config:
        path = Path(arguments.config)
        require(path.is_file(), "--config", arguments.config, "a file such as configs/digits.py")
        module = importlib.import_module(".".join(path.with_suffix("").parts))
        fields, name = dict(module.get_config().model), path.stem
        fields["num_classes"] = fields["num_classes"] or 1000
    else:
        fields, name = dict(VARIANTS[arguments.variant]), arguments.variant
    fields.update(
        dtype=arguments.dtype,
        residual_dtype=arguments.residual_dtype,
        remat=getattr(arguments, "remat", False),
        kernels=getattr(arguments, "kernels", "auto"),
    )
    return ConvNeXt(**{"drop_path_rate": 0.1, **fields}), name


if __name__ == "__main__":
    main()
