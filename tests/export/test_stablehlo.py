import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from convnext.export import stablehlo
from convnext.models.convnext import VARIANTS, ConvNeXt
from tests.helpers.inputs import refused

pytest.importorskip("flatbuffers")


def made(variant="atto", **fields):
    fields = {**VARIANTS[variant], "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), **fields}
    model = ConvNeXt(**fields, num_classes=5)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(
        lambda leaf: leaf + rng.normal(scale=0.2, size=leaf.shape).astype(np.float32), params
    )


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def assert_close(found, expected):
    assert np.abs(found - expected).max() < 3e-6 * np.abs(expected).max()


@pytest.mark.parametrize("variant", ["atto", pytest.param("v2_atto", marks=pytest.mark.slow)])
def test_one_program_takes_any_batch_and_size_on_every_platform(variant):
    model, params = made(variant)
    program = stablehlo.program(model, params)
    assert program.platforms == ("cpu", "cuda", "tpu")
    again = jax_export.deserialize(bytearray(stablehlo.serialized(program)))
    for shape in ((2, 71, 100, 3), (1, 32, 33, 3)):
        expected = model.apply({"params": params}, images(*shape))
        assert_close(again.call(images(*shape)), expected)
    with pytest.raises(ValueError, match="refining shapes|constraint"):
        again.call(images(1, 31, 40, 3))


@pytest.mark.slow
def test_the_weights_may_lie_beside_it():
    model, params = made()
    whole = stablehlo.serialized(stablehlo.program(model, params))
    program = stablehlo.program(model, params, weights_inside=False)
    alone = stablehlo.serialized(program)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert len(whole) > size > len(alone)
    x = images(2, 40, 40, 3)
    again = jax_export.deserialize(bytearray(alone))
    assert_close(again.call(params, x), model.apply({"params": params}, x))


def test_of_a_fixed_size_for_a_cpu_it_is_what_is_compiled_here():
    model, params = made()
    fixed = dict(batch_size=2, image_size=40, platforms=("cpu",))
    program = stablehlo.program(model, params, **fixed)
    x = images(2, 40, 40, 3)
    assert_close(program.call(x), model.apply({"params": params}, x))
    assert "inlineable" in program.mlir_module()
    assert "inlineable" not in stablehlo.program(model, params).mlir_module()


@pytest.mark.slow
def test_gradients_are_in_it_where_they_are_asked_for():
    model, params = made()
    x = images(2, 40, 40, 3)
    program = stablehlo.program(model, params, weights_inside=False)
    written = stablehlo.serialized(program, gradients=True)
    again = jax_export.deserialize(bytearray(written))
    found = jax.grad(lambda p: again.call(p, x).sum())(params)
    expected = jax.grad(lambda p: model.apply({"params": p}, x).sum())(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, expected
    )
    bare = jax_export.deserialize(bytearray(stablehlo.serialized(program)))
    with pytest.raises(ValueError, match="VJP|vjp|gradient"):
        jax.grad(lambda p: bare.call(p, x).sum())(params)


@pytest.mark.slow
def test_it_runs_without_this_project(tmp_path):
    model, params = made()
    (tmp_path / "model.bin").write_bytes(stablehlo.serialized(stablehlo.program(model, params)))
    x = images(2, 40, 40, 3)
    np.save(tmp_path / "images.npy", x)
    code = (
        "import sys, numpy, jax; sys.modules.update(flax=None, convnext=None)\n"
        "from jax import export\n"
        "program = export.deserialize(bytearray(open('model.bin', 'rb').read()))\n"
        "numpy.save('logits.npy', program.call(numpy.load('images.npy')))"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path)
    assert_close(np.load(tmp_path / "logits.npy"), model.apply({"params": params}, x))


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(platforms=("gpu",)), "platforms is .'gpu'.; accepted: some of .'cpu', 'cuda'"),
        (dict(batch_size=0), "batch_size is 0; accepted: 1 and more, or None"),
        (dict(image_size=16), "image_size is 16; accepted: 32 and more, or None"),
    ],
)
def test_what_makes_no_program_is_refused(options, message):
    refused(message, stablehlo.program, *made(), **options)
