"""The forward pass of a model as a StableHLO program, which JAX runs without this project.

    from jax import export
    program = export.deserialize(bytearray(Path("out/stablehlo/model.bin").read_bytes()))
    logits = program.call(images)  # float32 [N, H, W, 3], normalised

A program that was written by one version of JAX is read by later ones for six months, and by
earlier ones that are up to a month older.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from convnext.errors import InputError, require
from convnext.export import checks
from convnext.kernels import outline
from convnext.models.convnext import ConvNeXt, smallest_side

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def program(
    model: ConvNeXt,
    params: Any,
    *,
    batch_size: int | None = None,
    image_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    weights_inside: bool = True,
) -> export.Exported:
    """Returns the program from images, float32 [N, H, W, C], to what the model returns.

    batch_size, image_size: None leaves them free. weights_inside False: the program takes
    (params, images). For ("cpu",) and a fixed size it is tuned as it is here, which is several
    times as fast; else it is the same plain operations for all platforms.

    Raises InputError for sizes that the model does not take, and unknown platforms.
    """
    unknown = set(platforms) - set(PLATFORMS)
    require(platforms and not unknown, "platforms", list(platforms), f"some of {PLATFORMS}")
    checks.check_sizes(model, batch_size, image_size)

    shape = _shape(batch_size, image_size, smallest_side(model), model.in_chans)
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    is_tuned = tuple(platforms) == ("cpu",) and None not in (batch_size, image_size)
    if is_tuned:
        require(outline.on_cpu(), "platforms", list(platforms), "those of a program that is free in"
                " its sizes, where JAX itself runs on another")  # fmt: skip

    def apply(params, images):
        return model.apply({"params": params}, images)

    def with_weights(images):
        return apply(params, images)

    made = export.export(
        jax.jit(with_weights if weights_inside else apply), platforms=list(platforms)
    )
    arguments = (images,) if weights_inside else (jax.eval_shape(lambda: params), images)
    if is_tuned:
        return made(*arguments)
    with outline.portable():
        return made(*arguments)


def _shape(batch_size, image_size, least, channels):
    """The shape of the images, with a symbol for each size that is free."""
    names = {"b": batch_size, "h": image_size, "w": image_size}
    free = [name for name, size in names.items() if size is None]
    limits = {"b": "b >= 1", "h": f"h >= {least}", "w": f"w >= {least}"}
    symbols = iter(())
    if free:
        symbols = iter(
            export.symbolic_shape(", ".join(free), constraints=[limits[name] for name in free])
        )
    batch, height, width = (next(symbols) if size is None else size for size in names.values())
    return batch, height, width, channels


def serialized(made: export.Exported, *, gradients: bool = False) -> bytes:
    """Returns the bytes of a file. gradients: of the first order, too. Raises InputError where
    flatbuffers is not installed, which JAX writes them with."""
    try:
        return bytes(made.serialize(vjp_order=int(gradients)))
    except ImportError as error:
        raise InputError(f"{error}", "after pip install flatbuffers") from error


def difference(
    contents: bytes,
    model: ConvNeXt,
    params: Any,
    *,
    batch_size: int | None = None,
    image_size: int | None = None,
) -> float:
    """Runs a file beside the model, on noise of a size that it takes. Returns the largest
    difference of the outputs over their largest value."""
    least = smallest_side(model)
    sides = (least + 7, least + 19) if image_size is None else (image_size, image_size)
    shape = (batch_size or 2, *sides, model.in_chans)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = export.deserialize(bytearray(contents)).call(images)
    expected = jax.jit(model.apply)({"params": params}, images)
    return checks.relative(found, expected)
