"""What a training step needs of each device's memory, known before it runs."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convnext.models.convnext import ConvNeXt


def describe(
    train_step: Callable,
    state: Any,
    state_sharding: Any,
    *,
    model: ConvNeXt,
    mesh: jax.sharding.Mesh,
    image_size: int,
    batch_size: int,
    label: np.ndarray,
    accumulation_steps: int = 1,
) -> str:
    """A line for a dry run, of the jitted train_step(state, batch); the state may be abstract.

    An accelerator's compiler says what it plans, after the time that compiling takes. On CPU it is
    an estimate, for whatever devices there will be as many of.
    """
    if jax.default_backend() == "cpu":
        how = "analytic estimate"
        rows = batch_size // mesh.size
        parts = estimate(state, state_sharding, model=model, image_size=image_size, rows=rows,
                         rows_at_once=rows // accumulation_steps)  # fmt: skip
    else:
        how = "compiled"
        images = (batch_size, image_size, image_size, model.in_chans)
        labels = (batch_size, *np.shape(label))
        batch = {
            "image": jax.ShapeDtypeStruct(images, np.uint8),
            "label": jax.ShapeDtypeStruct(labels, np.asarray(label).dtype),
        }
        parts = planned(train_step.lower(state, batch).compile())
    told = ", ".join(f"{name} {size / 1e9:.4g}" for name, size in parts.items())
    return f"memory     {sum(parts.values()) / 1e9:.4g} GB a device ({how}): {told}"


def planned(program: jax.stages.Compiled) -> dict[str, int]:
    """Bytes of each device that the compiler plans for a program. "results" are those that do not
    take the place of a donated argument."""
    plan = program.memory_analysis()
    return {
        "arguments": plan.argument_size_in_bytes,
        "results": plan.output_size_in_bytes - plan.alias_size_in_bytes,
        "temporary": plan.temp_size_in_bytes,
        "program": plan.generated_code_size_in_bytes,
    }


def estimate(
    state: Any,
    state_sharding: Any,
    *,
    model: ConvNeXt,
    image_size: int,
    rows: int,
    rows_at_once: int,
) -> dict[str, int]:
    """Bytes of each device in a training step on `rows` images of the batch, of which rows_at_once
    pass through the model together. "gathered" are parameters that are stored in parts.

    As if all of it were there at one time, and no parameter frozen. In bfloat16, residual_dtype
    too, on 16 images of 224 pixels, the sum is 1.01 to 1.20 of what the TPU compiler plans for
    tiny, base, xlarge and V2 tiny, with and without remat, and for tiny 0.87 on 128 images and 1.11
    on 512, which just fit; with fsdp = 8 it is 0.92 for tiny and 1.14 for xlarge
    (docs/performance.md). Less the state it is 0.87 to 1.65, the most for xlarge with remat.
    """
    whole = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    in_parts = of_a_device(state.params, state_sharding.params) < 4 * whole
    pixels = rows * image_size**2 * model.in_chans
    return {
        "state": of_a_device(state, state_sharding),
        **({"gathered": whole * jnp.dtype(model.dtype).itemsize} if in_parts else {}),
        "gradients": 4 * whole,  # until they are reduced
        "images": pixels * (1 + 4),  # as they come, and normalised
        "activations": rows_at_once * activations(model, image_size),
    }


def of_a_device(tree: Any, shardings: Any) -> int:
    """Bytes of a tree of arrays, which may be abstract, on each device."""
    sizes = jax.tree.map(
        lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, tree, shardings
    )
    return sum(jax.tree.leaves(sizes))


def activations(model: ConvNeXt, image_size: int) -> int:
    """Bytes that the layers keep of an image for the backward pass.

    Of a block with C channels, 7 C numbers a position: what its convolution reads, the result, the
    same normalised, and the hidden layer, of which V2 keeps another 4 C after its GRN. With remat
    what each block reads, which is of map_dtype, and all of one block. Of what a stage begins with,
    the map before and after its norm. The head is left out.
    """
    side, channels, read, widest, between = image_size, model.in_chans, 0, 0, 0
    for i, (depth, dim) in enumerate(zip(model.depths, model.dims, strict=True)):
        between += 2 * side**2 * channels
        side //= 2 if i else model.patch_size
        read += depth * side**2 * dim
        widest = max(widest, side**2 * dim)
        channels = dim
    kept = 11 if model.use_grn else 7
    itemsize, map_itemsize = jnp.dtype(model.dtype).itemsize, model.map_dtype.itemsize
    if model.remat:
        return itemsize * (between + kept * widest) + map_itemsize * read
    return itemsize * (between + kept * read)
