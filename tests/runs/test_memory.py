from functools import partial

import jax
import jax.numpy as jnp
import pytest

from convnext import VARIANTS, ConvNeXt, sharding
from convnext.runs import memory
from convnext.training import optimizer, steps

# Temporary memory in GB of a training step on 8 chips in bfloat16, residual_dtype too, as the TPU
# compiler plans it (docs/performance.md); by variant, remat, images of 224 pixels a chip, and fsdp.
PLANNED = {
    ("tiny", False, 16, 1): 0.633, ("tiny", True, 16, 1): 0.238, ("tiny", False, 128, 1): 5.081,
    ("base", False, 16, 1): 1.426, ("base", True, 16, 1): 0.485,
    ("xlarge", False, 16, 1): 2.324, ("xlarge", True, 16, 1): 1.206,
    ("v2_tiny", False, 16, 1): 0.917, ("v2_tiny", True, 16, 1): 0.275,
    ("tiny", False, 16, 8): 0.7747, ("xlarge", False, 16, 8): 3.725,
}  # fmt: skip


IN_BFLOAT16 = dict(dtype=jnp.bfloat16, residual_dtype=jnp.bfloat16)


def abstract_state(params, ema_decays=()):
    tx = optimizer.adamw(lambda step: 1e-3)
    return jax.eval_shape(partial(steps.start, tx=tx, ema_decays=ema_decays), params)


@pytest.mark.parametrize("name, remat, rows, fsdp", PLANNED)
def test_the_estimate_is_near_what_a_compiler_plans(params_of, name, remat, rows, fsdp):
    state = abstract_state(params_of(ConvNeXt(**VARIANTS[name])))
    parts = memory.estimate(
        state, sharding.of_state(state, sharding.make_mesh(fsdp=fsdp)), image_size=224, rows=rows,
        rows_at_once=rows, model=ConvNeXt(**VARIANTS[name], remat=remat, **IN_BFLOAT16),
    )  # fmt: skip
    temporary, state_bytes = 1e9 * PLANNED[name, remat, rows, fsdp], parts.pop("state")
    assert 0.85 < sum(parts.values()) / temporary < 1.7
    assert 0.85 < (state_bytes + sum(parts.values())) / (state_bytes + temporary) < 1.2


def test_the_state_is_counted_exactly_and_split_over_fsdp(params_of):
    """Parameters, two moments and an average in float32, and five counters in int32."""
    model = ConvNeXt(**VARIANTS["tiny"])
    state = abstract_state(params_of(model), ema_decays=(0.9999,))
    size = 4 * 28_589_128
    for fsdp, divisor in ((1, 1), (8, 8)):
        split = sharding.of_state(state, sharding.make_mesh(fsdp=fsdp))
        parts = memory.estimate(state, split, model=model, image_size=224, rows=1, rows_at_once=1)
        assert parts["state"] == 4 * size // divisor + 5 * 4
        assert parts["gradients"] == size and parts.get("gathered", 0) == (size if fsdp > 1 else 0)


def test_a_part_of_the_batch_keeps_activations_but_all_images_are_there(params_of):
    model = ConvNeXt(**VARIANTS["tiny"])
    state = abstract_state(params_of(model))
    split = sharding.of_state(state, sharding.make_mesh())
    size = partial(memory.estimate, state, split, model=model, image_size=224, rows=64)
    whole, part = size(rows_at_once=64), size(rows_at_once=16)
    assert whole["images"] == part["images"] == 64 * 224 * 224 * 3 * (1 + 4)
    assert whole["activations"] == 4 * part["activations"]
    assert whole["state"] == part["state"]


def test_a_block_keeps_seven_maps_and_with_remat_one():
    keep = dict(depths=(2,), dims=(8,), patch_size=4)
    image, maps = 16 * 16 * 3, 4 * 4 * 8
    kept = lambda **fields: memory.activations(ConvNeXt(**keep, **fields), 16)  # noqa: E731
    assert kept() == 4 * (2 * image + 2 * 7 * maps)
    assert kept(use_grn=True) == 4 * (2 * image + 2 * 11 * maps)
    assert kept(remat=True) == 4 * (2 * image + (2 + 7) * maps)
    assert kept(**IN_BFLOAT16) == kept(dtype=jnp.bfloat16) == 2 * (2 * image + 2 * 7 * maps)
    # Between the blocks are sums in float32.
    assert kept(**IN_BFLOAT16, remat=True) == 2 * (2 * image + (2 + 7) * maps)
    assert kept(dtype=jnp.bfloat16, remat=True) == 2 * (2 * image + (2 * 2 + 7) * maps)


def test_a_compiled_function_is_counted_without_what_it_donates():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)

    def parts(**options):
        jitted = jax.jit(lambda x, y: (x + y, x * y), **options)
        return memory.planned(jitted.lower(x, x).compile())

    assert (parts()["arguments"], parts()["temporary"]) == (8000, 0)
    # The tuple of two results has pointers of its own.
    assert 8000 <= parts()["results"] < 8100
    assert parts()["results"] - parts(donate_argnums=0)["results"] == 4000
