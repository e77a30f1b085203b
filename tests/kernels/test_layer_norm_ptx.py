"""The kernel of LayerNorm's gradient, by a C++ compiler on the CPU, and programs that call it."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext.kernels import layer_norm_ptx, outline, pointwise, ptx
from convnext.models.convnext import VARIANTS
from tests.helpers import emulation

EPS = 1e-6
# Rows that fill no block, one, and two and a part; of each number of chunks, whole and in part.
SHAPES = [(3, 8), (2, 5, 40), (65, 96), (2, 3, 13, 352), (7, 1024), (5, 1536), (2, 2048), (3, 2816)]


def reference(x, g, scale=1.0):
    """In float64: of x by the Jacobian of each row, (1 - 1/C - normal normal^T / C) / std; of scale
    and bias."""
    x, g = (np.asarray(each, np.float64) for each in (x, g))
    centred = x - x.mean(-1, keepdims=True)
    std = np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
    normal, scaled = centred / std, g * scale
    along = normal * (scaled * normal).mean(-1, keepdims=True)
    dx = (scaled - scaled.mean(-1, keepdims=True) - along) / std
    axes = tuple(range(x.ndim - 1))
    return dx, (g * normal).sum(axes), g.sum(axes)


def check(shape, map_dtype, branch_dtype):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) + 3).astype(map_dtype)
    g = rng.normal(size=shape).astype(branch_dtype)
    near(layer_norm_ptx.standardize_gradient(x, g, EPS), reference(x, g)[0], map_dtype)
    if layer_norm_ptx.takes(x, g.dtype, layer_norm_ptx.CHUNKS_WITH_SUMS):
        scale = rng.normal(size=shape[-1]).astype(np.float32)
        dx, dscale, dbias = layer_norm_ptx.gradients(x, g, scale, EPS)
        exact = reference(x, g, scale)
        near(dx, exact[0], map_dtype)
        near(dscale, exact[1], "float32")
        near(dbias, exact[2], "float32")


def near(found, exact, dtype):
    assert found.dtype == dtype and found.shape == exact.shape
    error = np.abs(np.asarray(found, np.float64) - exact).max() / np.abs(exact).max()
    assert error < {"float32": 2e-6, "bfloat16": 4e-3}[dtype]


@pytest.mark.slow
@emulation.needs_compiler
def test_the_kernel_computes_the_definition(monkeypatch, tmp_path):
    emulation.emulate(monkeypatch, tmp_path)
    check((2, 5, 40), "float32", "bfloat16")
    check((2, 5, 13, 96), "float32", "bfloat16")
    monkeypatch.setattr(layer_norm_ptx, "BLOCKS", 0)  # so that a block has a whole image
    check((2, 5, 13, 96), "bfloat16", "bfloat16")
    layer_norm_ptx.probe()


@emulation.needs_compiler
@pytest.mark.parametrize("lowered_for", ["cuda", "cpu"])
def test_a_norm_of_maps_has_the_gradients_of_its_formula(monkeypatch, tmp_path, lowered_for):
    """Where it was traced for a GPU and runs elsewhere, XLA takes the place of the kernel."""
    if lowered_for == "cuda":
        emulation.emulate(monkeypatch, tmp_path)
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *x, default, cuda=None: (cuda or default)(*x)
        )
    rng = np.random.default_rng(0)
    x, g = (rng.normal(size=(2, 3, 5, 24)).astype(np.float32) for _ in range(2))
    scale, bias = (rng.normal(size=24).astype(np.float32) for _ in range(2))
    with outline.compiling_for("cuda"):
        y, vjp = jax.vjp(partial(pointwise.layer_norm, eps=EPS), x, scale, bias)
        gradients = vjp(jnp.asarray(g))
    centred = x - x.mean(-1, keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS) * scale + bias
    for found, wanted in zip((y, *gradients), (exact, *reference(x, g, scale)), strict=True):
        near(found, wanted, "float32")


@emulation.needs_compiler
@pytest.mark.slow
def test_it_does_for_rows_of_all_lengths_within_its_memory(monkeypatch, tmp_path):
    emulation.emulate(monkeypatch, tmp_path, "-g", "-fsanitize=address,undefined")
    for blocks in (0, 8):
        monkeypatch.setattr(layer_norm_ptx, "BLOCKS", blocks)
        for dtypes in ptx.DTYPES:
            for shape in SHAPES:
                check(shape, *dtypes)


def test_every_variant_of_the_model_has_a_kernel_with_few_idle_threads():
    channels = {
        c for fields in VARIANTS.values() for c in (*fields["dims"], *(4 * d for d in (352, 384)))
    }
    for c in sorted(channels):
        lanes, chunks = layer_norm_ptx.lanes_and_chunks(c, layer_norm_ptx.CHUNKS)
        assert lanes * chunks * layer_norm_ptx.AT_ONCE >= c > 0.6 * lanes * chunks * 8
        x = jax.ShapeDtypeStruct((1, c), jnp.bfloat16)
        assert layer_norm_ptx.takes(x, "bfloat16") == (c <= 3072)
    of = partial(layer_norm_ptx.lanes_and_chunks, accepted=layer_norm_ptx.CHUNKS)
    assert [of(c) for c in (96, 192, 384, 768)] == [(4, 3), (8, 3), (16, 3), (32, 3)]
    assert [of(c) for c in (40, 128, 1024, 2816)] == [(4, 2), (4, 4), (32, 4), (32, 12)]


@pytest.mark.parametrize(
    "channels, map_dtype, branch_dtype, kernels",
    [(44, "bfloat16", "bfloat16", "auto"), (3080, "bfloat16", "bfloat16", "auto"),
     (96, "bfloat16", "float32", "auto"), (96, "float16", "float16", "auto"),
     (96, "bfloat16", "bfloat16", "lax")],
)  # fmt: skip
def test_what_has_no_kernel_or_must_not_have_one_takes_xlas(
    channels, map_dtype, branch_dtype, kernels
):
    def calls(channels, map_dtype, branch_dtype, kernels):
        x, g = (jax.ShapeDtypeStruct((4, channels), each) for each in (map_dtype, branch_dtype))

        def gradient(x, g):
            standardize = partial(pointwise.standardize, eps=EPS, dtype=branch_dtype)
            return jax.vjp(lambda x: standardize(x, kernels=kernels), x)[1](g)

        with outline.compiling_for("cuda"):
            lowered = jax.jit(gradient).trace(x, g).lower(lowering_platforms=("cuda",))
        return re.findall(r'name = "(standardize\w+)"', lowered.as_text())

    assert calls(96, "float32", "bfloat16", "auto") == ["standardize_gradient_3"]
    assert calls(channels, map_dtype, branch_dtype, kernels) == []


@pytest.mark.parametrize("shape, kernels, found", [
    ((8, 28, 28, 96), "auto", ["layer_norm_gradients_3"]),
    ((8, 28, 28, 96), "lax", []),
    ((8, 28, 28, 1024), "auto", []),  # more channels than there are sums for
    ((8, 96), "auto", []),
])  # fmt: skip
def test_a_norm_of_maps_takes_a_kernel_for_its_gradients(shape, kernels, found):
    def gradients(x, scale):
        norm = partial(pointwise.layer_norm, eps=EPS, kernels=kernels)
        y, vjp = jax.vjp(norm, x, scale, scale)
        return vjp(y)

    x, scale = (jax.ShapeDtypeStruct(each, jnp.float32) for each in (shape, shape[-1:]))
    with outline.compiling_for("cuda"):
        lowered = jax.jit(gradients).trace(x, scale).lower(lowering_platforms=("cuda",))
    assert re.findall(r'name = "(\w+_\d+)"', lowered.as_text()) == found


def test_eps_is_in_the_program_by_its_bits():
    x = jax.ShapeDtypeStruct((4, 96), jnp.float32)
    gradient = jax.jit(partial(layer_norm_ptx.standardize_gradient, eps=EPS))
    text = gradient.trace(x, x).lower(lowering_platforms=("cuda",)).as_text()
    assert "mov.u32 %r" in text and str(np.float32(EPS).view(np.int32)) in text
    assert "SIZE_" not in text


@pytest.mark.parametrize(
    "spec, on_a_device, sums",
    [(jax.P("data"), "2,8,3,16", "2,8,2,16"), (jax.P(None, "data"), "16,1,3,16", "16,8,2,16"),
     (jax.P(None, None, None, "data"), "16,8,3,16", "16,8,2,16")],
)  # fmt: skip
def test_each_device_computes_its_rows_and_has_all_of_them(monkeypatch, spec, on_a_device, sums):
    """A callback, into which XLA does not look either, takes the place of the kernel."""

    def launch(entry, text, operands, out, grid, block):
        return jax.pure_callback(
            lambda *_: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), out), out, *operands
        )

    monkeypatch.setattr(ptx, "launch", launch)
    monkeypatch.setattr(layer_norm_ptx, "parts_of_an_image", lambda images, rows: 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    laid_out = jax.sharding.NamedSharding(mesh, spec)
    replicated = jax.sharding.NamedSharding(mesh, jax.P())
    program = jax.jit(
        partial(layer_norm_ptx.standardize_gradient, eps=EPS),
        in_shardings=laid_out,
        out_shardings=laid_out,
    )
    x = jax.ShapeDtypeStruct((16, 8, 3, 16), jnp.float32)
    text = program.lower(x, x).compile().as_text()
    assert ("all-gather" in text) == (on_a_device == "16,8,3,16")
    assert re.findall(r"f32\[([\d,]+)\]\S* custom-call.*callback", text) == [on_a_device]

    program = jax.jit(
        partial(layer_norm_ptx.gradients, eps=EPS),
        in_shardings=(laid_out, laid_out, replicated),
        out_shardings=(laid_out, replicated, replicated),
    )
    text = program.lower(x, x, jax.ShapeDtypeStruct((16,), jnp.float32)).compile().as_text()
    by_image = on_a_device == "2,8,3,16"
    assert ("all-gather" in text) != by_image and text.count(" all-reduce(") == by_image
    ((dx, found),) = re.findall(
        r"f32\[([\d,]+)\]\S* f32\[([\d,]+)\]\S* custom-call.*callback", text
    )
    assert (dx, found) == (on_a_device if by_image else "16,8,3,16", sums)


def test_a_row_of_sums_has_as_many_rows_as_the_others_and_blocks_fill_an_h100(monkeypatch):
    of = layer_norm_ptx.parts_of_an_image
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert [of(256, 56**2), of(1, 7), of(8192, 56**2)] == [14, 7, 1]
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert of(8 * 256, 56**2) == 14
