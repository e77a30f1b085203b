"""The forward pass of a model as a LiteRT (TensorFlow Lite) file, from its StableHLO program.

Its converter pins other versions of packages than this project has: it goes into an environment of
its own, with this library (pip install litert-converter ai-edge-litert). A file has one batch size
and one image size, since the runtime is ten times as slow where they are free.
"""

from typing import Any

import jax
import numpy as np

from convnext.errors import InputError, require
from convnext.export import checks, stablehlo
from convnext.models.convnext import ConvNeXt

SIGNATURE, INPUT, OUTPUT = "serving_default", "images", "logits"


def flatbuffer(
    model: ConvNeXt, params: Any, *, batch_size: int | None, image_size: int | None
) -> bytes:
    """Returns the file from images, float32 [batch_size, image_size, image_size, C], normalised, to
    logits. Raises InputError without sizes, and where the converter is not installed."""
    for name, size in (("batch_size", batch_size), ("image_size", image_size)):
        require(size is not None, name, size, "a number: a LiteRT file has one size")
    try:
        from litert_converter import converter_api_ext as converter
        from litert_converter.mlir import ir, passmanager
    except ModuleNotFoundError as error:
        accepted = "after pip install litert-converter ai-edge-litert, in an environment of its own"
        raise InputError(f"no {error.name}", accepted) from error
    sizes = dict(batch_size=batch_size, image_size=image_size)
    # For a platform that has no calls of its own in the program, so that all is plain operations.
    program = stablehlo.program(model, params, platforms=("tpu",), **sizes)
    with ir.Context() as context, ir.Location.unknown():
        converter.prepare_mlir_context(context)
        module = ir.Module.parse(program.mlir_module())
        converter.set_signature(module.operation, SIGNATURE, [INPUT], [OUTPUT])
        converter.run_convert_to_tfl_passes(
            module, passmanager.PassManager(), converter.ConvertToTFLConfig()
        )
        return converter.export_flatbuffer_to_bytes(module.operation)


def difference(
    contents: bytes, model: ConvNeXt, params: Any, *, batch_size: int, image_size: int
) -> float:
    """Runs a file by LiteRT beside the model, on noise. Returns the largest difference of the
    outputs over their largest value."""
    from ai_edge_litert import interpreter

    shape = (batch_size, image_size, image_size, model.in_chans)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    runner = interpreter.Interpreter(model_content=contents).get_signature_runner(SIGNATURE)
    found = runner(**{INPUT: images})[OUTPUT]
    return checks.relative(found, jax.jit(model.apply)({"params": params}, images))
