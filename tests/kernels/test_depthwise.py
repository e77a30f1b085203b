import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext.kernels import depthwise
from tests.helpers.depthwise import reference

SIZES = [(1, 1), (2, 5), (9, 13)]  # of the map; smaller and larger than the kernel


@pytest.mark.parametrize("implementation", depthwise.implementations())
@pytest.mark.parametrize("k", [3, 5, 7])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_value_and_gradients_are_those_of_the_definition(implementation, k, size, dtype, tolerance):
    rng = np.random.default_rng(k)
    x, g = (jnp.asarray(rng.normal(size=(2, *size, 3)), dtype) for _ in range(2))
    kernel = jnp.asarray(rng.normal(size=(k, k, 1, 3)), dtype)

    functions = depthwise.IMPLEMENTATIONS[implementation]

    @jax.jit
    def value_and_gradients(x, kernel, g):
        return (
            functions["forward"](x, kernel),
            functions["input_gradient"](g, kernel),
            functions["kernel_gradient"](x, kernel, g),
        )

    for ours, exact in zip(value_and_gradients(x, kernel, g), reference(x, kernel, g), strict=True):
        assert ours.dtype == dtype
        assert relative_error(ours, exact) < tolerance


def test_a_row_may_take_several_turns_of_the_kernel_gradients_loop():
    test_value_and_gradients_are_those_of_the_definition(
        "shifted_sum", 7, (2, depthwise.COLUMNS + 11), "float32", 1e-5
    )


def relative_error(ours, exact):
    return np.abs(np.asarray(ours, np.float64) - exact).max() / np.abs(exact).max()


def test_the_convolution_has_these_gradients():
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=(2, 9, 13, 3)), "float32") for _ in range(2))
    kernel = jnp.asarray(rng.normal(size=(7, 7, 1, 3)), "float32")

    @jax.jit
    def value_and_gradients(x, kernel, g):
        y, vjp = jax.vjp(depthwise.depthwise_conv, x, kernel)
        return y, *vjp(g)

    for ours, exact in zip(value_and_gradients(x, kernel, g), reference(x, kernel, g), strict=True):
        assert relative_error(ours, exact) < 1e-5


@pytest.mark.parametrize("shape", [(4, 4, 1, 3), (3, 5, 1, 3), (7, 7, 3, 3), (7, 7, 1, 1)])
def test_a_kernel_that_is_not_depthwise_is_refused(shape):
    with pytest.raises(ValueError, match=r"accepted: \(k, k, 1, 3\) with k odd"):
        depthwise.depthwise_conv(jnp.zeros((1, 9, 9, 3)), jnp.zeros(shape))


@pytest.mark.parametrize("side", [8, 20])
def test_a_sharded_batch_needs_one_all_reduce_after_the_loop_and_none_in_it(side):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    replicated = jax.sharding.NamedSharding(mesh, jax.P())

    def kernel_gradient(x, kernel):
        return jax.grad(lambda k: depthwise.depthwise_conv(x, k).sum())(kernel)

    program = jax.jit(kernel_gradient, in_shardings=(rows, replicated), out_shardings=replicated)
    x = jax.ShapeDtypeStruct((16, side, side, 4), "float32")
    kernel = jax.ShapeDtypeStruct((7, 7, 1, 4), "float32")
    hlo = program.lower(x, kernel).compile().as_text()
    assert hlo.count(" all-reduce(") == 1
    assert "all-gather" not in hlo and "all-to-all" not in hlo
    bodies = re.findall(r"body=(%[\w.]+)", hlo)
    in_loops = [part for part in hlo.split("\n\n") if part.startswith(tuple(bodies))]
    assert len(in_loops) == len(bodies) > 0 and "all-reduce(" not in "".join(in_loops)
