import jax
import jax.numpy as jnp
import numpy as np

from convnext.models.layers import GRN, DepthwiseConv
from tests.helpers.places import Padded, Tall


def test_grn_of_a_map_of_zeros_has_a_finite_gradient():
    grn = GRN()
    params = {"gamma": jnp.full((3,), 0.5), "beta": jnp.full((3,), 0.1)}

    def total(x):
        return (grn.apply({"params": params}, x) * jnp.arange(3)).sum()

    x = jnp.ones((2, 4, 4, 3)).at[..., 1].set(0).at[1].set(0)  # one channel, one image
    gradient = jax.grad(total)(x)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[1], jnp.broadcast_to(jnp.arange(3.0), (4, 4, 3)))


def test_grn_scales_by_the_norm_over_its_mean_and_keeps_the_input():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    gamma, beta = np.float32([0.5, -1, 2, 0]), np.float32([0.1, 0.2, 0, -0.3])
    norms = np.sqrt(np.square(np.float64(x)).sum(axis=(1, 2), keepdims=True))
    expected = x + gamma * x * norms / (norms.mean(axis=-1, keepdims=True) + 1e-6) + beta
    params = {"gamma": gamma, "beta": beta}
    np.testing.assert_allclose(GRN().apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)
    fresh = GRN().init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(GRN().apply({"params": fresh}, x), x)


def test_grn_of_bfloat16_computes_in_float32():
    x = jax.random.normal(jax.random.key(2), (2, 5, 5, 4)).astype(jnp.bfloat16)
    params = {"gamma": jnp.linspace(-1, 1, 4), "beta": jnp.linspace(0, 1, 4)}
    expected = GRN().apply({"params": params}, x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(GRN().apply({"params": params}, x), expected)


def test_grn_has_nothing_by_which_a_compiler_could_lay_out_its_map_anew():
    x = jnp.ones((2, 5, 7, 3))
    params = {"gamma": jnp.ones(3), "beta": jnp.ones(3)}
    gradient = jax.grad(lambda x: GRN().apply({"params": params}, x).sum())
    program = jax.jit(gradient).lower(x).as_text()
    assert "tensor<2x5x7x3xf32>" in program and "tensor<2x1x1x3xf32>" not in program


def test_grn_sums_over_the_positions_that_count():
    sizes = np.array([[4, 6], [5, 2]])
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    params = {"gamma": jnp.linspace(-1, 1, 3), "beta": jnp.linspace(0, 1, 3)}
    scaled = GRN().apply({"params": params}, x, Padded(sizes, (5, 7)))
    for image, result, (height, width) in zip(x, scaled, sizes, strict=True):
        alone = GRN().apply({"params": params}, image[None, :height, :width])[0]
        np.testing.assert_allclose(result[:height, :width], alone, rtol=1e-6, atol=1e-6)


def test_the_convolution_sees_what_is_spread_and_returns_what_is_collected():
    x = np.random.default_rng(0).normal(size=(2, 12, 4, 3)).astype(np.float32)
    places = Tall(np.array([[3, 0, 2], [1, 2, 3]]), grid=(2, 2), side=4)
    conv = DepthwiseConv()
    variables = conv.init(jax.random.key(0), x)
    image = np.zeros((2, 8, 8, 3), np.float32)
    image[0, 4:, 4:], image[0, :4, :4], image[0, 4:, :4] = np.split(x[0], 3)
    image[1, :4, 4:], image[1, 4:, :4], image[1, 4:, 4:] = np.split(x[1], 3)
    whole = conv.apply(variables, image)
    expected = np.stack([
        np.concatenate([whole[0, 4:, 4:], whole[0, :4, :4], whole[0, 4:, :4]]),
        np.concatenate([whole[1, :4, 4:], whole[1, 4:, :4], whole[1, 4:, 4:]]),
    ])  # fmt: skip
    np.testing.assert_allclose(conv.apply(variables, x, places), expected, rtol=1e-5, atol=1e-6)
