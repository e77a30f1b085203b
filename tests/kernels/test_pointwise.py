import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convnext.kernels import pointwise
from convnext.kernels.outline import compiling_for

RNG = np.random.default_rng(0)
ROWS, C, D = (3, 5, 7), 6, 10


def arrays(*shapes):
    return [RNG.normal(size=shape) for shape in shapes]


def erf(x):
    return np.vectorize(math.erf)(x)


def cdf(x):
    return 0.5 * (1 + erf(x / np.sqrt(2)))


def flat(x):
    return x.reshape(-1, x.shape[-1])


# In float64: value and gradients, by the formulas of calculus.


def dense(x, kernel, g):
    return x @ kernel, g @ kernel.T, flat(x).T @ flat(g)


def layer_norm(x, scale, bias, g):
    mean = x.mean(-1, keepdims=True)
    std = np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-6)
    normal = (x - mean) / std
    inner = g * scale
    # The Jacobian of each row: (1 - 1/C - normal normal^T / C) / std.
    jacobian = np.eye(C) - 1 / C - normal[..., :, None] * normal[..., None, :] / C
    dx = (jacobian @ inner[..., None])[..., 0] / std
    return normal * scale + bias, dx, flat(g * normal).sum(0), flat(g).sum(0)


def gelu(x, g):
    return x * cdf(x), g * (cdf(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


def mlp(x, kernel1, bias1, kernel2, bias2, gamma, g):
    hidden = x @ kernel1 + bias1
    activation, _ = gelu(hidden, hidden)
    inner = activation @ kernel2 + bias2
    _, dhidden = gelu(hidden, (g * gamma) @ kernel2.T)
    return (
        inner * gamma, dhidden @ kernel1.T, flat(x).T @ flat(dhidden), flat(dhidden).sum(0),
        flat(activation).T @ flat(g * gamma), flat(g * gamma).sum(0), flat(g * inner).sum(0),
    )  # fmt: skip


CASES = {
    "dense": (dense, pointwise.dense, arrays((*ROWS, C), (C, D), (*ROWS, D))),
    "layer_norm": (
        layer_norm,
        lambda x, scale, bias: pointwise.layer_norm(x, scale, bias, 1e-6),
        arrays((*ROWS, C), (C,), (C,), (*ROWS, C)),
    ),
    "gelu": (gelu, pointwise.gelu, arrays((*ROWS, C), (*ROWS, C))),
    "mlp": (mlp, pointwise.mlp, arrays((*ROWS, C), (C, D), (D,), (D, C), (C,), (C,), (*ROWS, C))),
}


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_those_of_the_definition(
    name, dtype, tolerance, on_cpu, monkeypatch
):
    monkeypatch.setattr(pointwise, "on_cpu", lambda: on_cpu)
    reference, function, inputs = CASES[name]
    inputs = [jnp.asarray(x, dtype) for x in inputs]

    @jax.jit
    def value_and_gradients(*inputs):
        y, vjp = jax.vjp(function, *inputs[:-1])
        return y, *vjp(inputs[-1])

    exact = reference(*(np.asarray(x, np.float64) for x in inputs))
    for ours, exactly in zip(value_and_gradients(*inputs), exact, strict=True):
        assert ours.dtype == dtype
        error = np.abs(np.asarray(ours, np.float64) - exactly).max() / np.abs(exactly).max()
        assert error < tolerance


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(
    "platform, of_map, is_inside",
    [("cuda", 0, True), ("cpu", 1, True), ("cpu", 2, False), ("tpu", 0, False)],
)
def test_a_norm_inside_a_linear_layer_is_the_norm_before_it(
    platform, of_map, is_inside, dtype, tolerance, monkeypatch
):
    """Inside, the gradients of all but the map are float32."""
    x, *weights, g = arrays((*ROWS, C), (C,), (C,), (C, D), (D,), (*ROWS, D))
    # CPUs that have bfloat16 add up the bias' gradient in it: of whole numbers that is exact.
    x, g = (jnp.asarray(each, dtype) for each in (x, np.round(g)))
    weights = [jnp.asarray(each, jnp.float32) for each in weights]

    def layers(x, scale, bias, kernel, kernel_bias):
        y, w, b = pointwise.norm_into(x, scale, bias, 1e-6, kernel, kernel_bias, dtype)
        assert y.dtype == w.dtype == dtype and b.dtype == ("float32" if is_inside else dtype)
        if is_inside:
            assert jnp.allclose(y.astype(jnp.float32).mean(-1), 0, atol=tolerance)
        return (y @ w + b).astype(dtype)

    monkeypatch.setattr(pointwise, "CPU_MAP_TO_KERNEL", of_map * x.size // (C * D))
    with compiling_for(platform):
        value, vjp = jax.vjp(layers, x, *weights)
        ours = [value, *vjp(g)]
    x, scale, bias, kernel, kernel_bias, g = (
        np.asarray(each, np.float64) for each in (x, *weights, g)
    )
    normal, *_ = layer_norm(x, scale, bias, x)
    y, dnormal, dkernel = dense(normal, kernel, g)
    _, *before = layer_norm(x, scale, bias, dnormal)
    exact = [y + kernel_bias, *before, dkernel, flat(g).sum(0)]
    for found, exactly in zip(ours, exact, strict=True):
        error = np.abs(np.asarray(found, np.float64) - exactly).max() / np.abs(exactly).max()
        assert error < tolerance


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 9])
def test_rows_that_go_through_by_parts_are_the_whole(rows, monkeypatch):
    x, *weights = (jnp.asarray(a, "float32") for a in CASES["mlp"][2][:-1])
    whole, _ = jax.vjp(pointwise.mlp, x, *weights)
    row_bytes = 3 * 7 * D * 4
    monkeypatch.setattr(pointwise, "HIDDEN_BYTES", rows * row_bytes)
    parts = jax.jit(lambda *inputs: pointwise.mlp(*inputs))(x, *weights)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_the_statistics_of_a_norm_are_exact():
    """The mean of squares less the square of the mean would have lost the variance."""
    x = 3000 + np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    exact = np.float64(x) - np.float64(x).mean(axis=-1, keepdims=True)
    exact /= np.sqrt(np.square(exact).mean(axis=-1, keepdims=True) + 1e-6)
    ours = pointwise.layer_norm(x, jnp.ones(64), jnp.zeros(64), 1e-6)
    np.testing.assert_allclose(ours, exact, atol=1e-3)


def test_gelu_is_not_the_approximation_and_holds_far_out():
    x = jnp.asarray([-30, -5, -0.5, 0, 0.5, 2, 30], jnp.float32)
    exact = np.float64(x) * cdf(np.float64(x))
    np.testing.assert_allclose(pointwise.gelu(x), exact, rtol=1e-6, atol=3e-7)
