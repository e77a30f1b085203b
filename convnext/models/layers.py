"""The layers of a block, with the parameters of their counterparts in `flax.linen`.

Activations are [N, H, W, C]. Parameters are float32, and cast to the `dtype` a layer computes in.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from convnext.kernels import pointwise
from convnext.kernels.depthwise import conv_and_shortcut, depthwise_conv

# timm's trunc_normal_(std=.02), which the paper's code uses, cuts at +-2 absolute and so is a
# plain normal; Flax's truncated_normal(0.02) cuts at two deviations and has a std of 0.0176.
kernel_init = nn.initializers.normal(0.02)

# Drops the branch of whole examples, and rescales that of the others.
DropPath = partial(nn.Dropout, broadcast_dims=(1, 2, 3))


class Places:
    """Where the positions of a map lie, when the maps of a model are not simply whole images.

    They may be images of several sizes on one canvas, or the visible patches of masked images, one
    below the other. Only two layers have to know: the depthwise convolution, which looks at
    neighbours, and GRN, which sums over an image. A model without places (None) has whole images,
    as this class says it of its own.

    A subclass is a `flax.struct.dataclass`, so that its arrays pass through jit and remat. The
    sides of what it describes are multiples of the model's last stride: then no patch of the stem
    or of a downsampling layer is partly one thing and partly another. Positions that do not count
    hold anything after the first layer, in the maps that a model returns too.
    """

    # The positions over which GRN sums, bool [N, h, w, 1]; None: all of them. A subclass has them
    # as a field or a property.
    valid = None

    def spread(self, x: jax.Array) -> jax.Array:
        """Returns what the convolution sees of x [N, h, w, C], with zeros where nothing is."""
        return x

    def collect(self, x: jax.Array) -> jax.Array:
        """Returns [N, h, w, C], each position from where `spread` had put it."""
        return x

    def convolve(self, x: jax.Array, kernel: jax.Array, kernels: str = "auto") -> jax.Array:
        """Returns x convolved by a kernel [k, k, 1, C], each position with its neighbours in the
        image. kernels: see `depthwise_conv`."""
        return self.collect(depthwise_conv(self.spread(x), kernel, kernels))

    def at(self, stride: int) -> "Places":
        """Returns the places in the map of which a position is `stride` pixels of the image."""
        return self


class Patchify(nn.Module):
    """Projects patches that do not overlap: the stem and the downsampling layers.

    The parameters are those of an `nn.Conv`. Pixels at the right and bottom that do not fill a
    patch are ignored (VALID padding). The convolution is written as a matrix product, whose
    gradients are matrix products too: XLA on CPU has no fast gradient of a strided convolution.
    """

    in_dim: int
    dim: int
    size: int  # pixels, side and stride of a patch
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.project(x, *self.weights())

    @nn.compact
    def weights(self, dtype: Any = None) -> tuple[jax.Array, jax.Array]:
        """Returns kernel [size, size, in_dim, dim] and bias [dim], see `Linear.weights`."""
        kernel = self.param("kernel", kernel_init, (self.size, self.size, self.in_dim, self.dim))
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        dtype = dtype or self.dtype
        return kernel.astype(dtype), bias.astype(dtype)

    def project(self, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        """Returns x projected by these weights."""
        size, channels = self.size, self.in_dim
        height, width = x.shape[1] // size, x.shape[2] // size
        x = x[:, : height * size, : width * size].astype(self.dtype)
        x = x.reshape(-1, height, size, width, size, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, height, width, size * size * channels)
        return pointwise.dense(x, kernel.reshape(size * size * channels, self.dim)) + bias


class DepthwiseConv(nn.Module):
    """Mixes each channel over its neighbours, with the parameters of a grouped `nn.Conv`."""

    kernel_size: int = 7
    dtype: Any = jnp.float32
    kernels: str = "auto"  # see kernels.ptx

    def __call__(self, x: jax.Array, places: Places | None = None) -> jax.Array:
        return self.with_shortcut(x, places)[0]

    @nn.compact
    def with_shortcut(
        self, x: jax.Array, places: Places | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the result, and x for a shortcut past this layer: so their gradients, which meet
        here, may be added where the first is computed."""
        channels = x.shape[-1]
        shape = (self.kernel_size, self.kernel_size, 1, channels)
        kernel = self.param("kernel", kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if places is None:
            return conv_and_shortcut(x, kernel, bias, self.dtype, self.kernels)
        y = places.convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.kernels)
        return y + bias.astype(self.dtype), x


class LayerNorm(nn.Module):
    """Normalises each position over its channels; statistics are float32."""

    eps: float = 1e-6
    dtype: Any = jnp.float32  # of the result
    kernels: str = "auto"  # see kernels.ptx

    def __call__(self, x: jax.Array) -> jax.Array:
        weights = self.weights(x.shape[-1])
        return pointwise.layer_norm(x, *weights, self.eps, self.kernels).astype(self.dtype)

    def into(
        self, x: jax.Array, linear: "Linear | Patchify"
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns x normalised for a linear layer, and the kernel and bias to apply to it: where it
        is faster, scale and bias are part of these (pointwise.norm_into)."""
        scale, bias = self.weights(x.shape[-1])
        weights = linear.weights(jnp.float32)
        return pointwise.norm_into(x, scale, bias, self.eps, *weights, self.dtype, self.kernels)

    @nn.compact
    def weights(self, dim: int) -> tuple[jax.Array, jax.Array]:
        """Returns scale and bias, [dim]."""
        scale = self.param("scale", nn.initializers.ones, (dim,))
        return scale, self.param("bias", nn.initializers.zeros, (dim,))


class Linear(nn.Module):
    """A linear layer over channels (the paper's 1x1 convolution), with the parameters of an
    `nn.Dense`."""

    in_dim: int
    dim: int
    dtype: Any = jnp.float32

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.weights()
        return pointwise.dense(x, kernel) + bias

    @nn.compact
    def weights(self, dtype: Any = None) -> tuple[jax.Array, jax.Array]:
        """Returns kernel [in_dim, dim] and bias [dim], for a function of several layers; of the
        layer's dtype unless told otherwise."""
        kernel = self.param("kernel", kernel_init, (self.in_dim, self.dim))
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        dtype = dtype or self.dtype
        return kernel.astype(dtype), bias.astype(dtype)


class GRN(nn.Module):
    """Global Response Normalization (equations 1 to 3 of the V2 paper), eps 1e-6.

    Scales each channel by its norm over an image, divided by the mean of these norms over the
    channels, in float32. Parameters are [C], not [1, 1, 1, C]: by rank they are biases, so that
    nothing decays them.
    """

    @nn.compact
    def __call__(self, x: jax.Array, places: Places | None = None) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.zeros, (x.shape[-1],))
        beta = self.param("beta", nn.initializers.zeros, (x.shape[-1],))
        dtype, x = x.dtype, x.astype(jnp.float32)
        squares = jnp.square(x)
        if places is not None and places.valid is not None:
            squares = jnp.where(places.valid, squares, 0)
        squares = squares.sum(axis=(1, 2))
        # The root has no gradient at 0; as in PyTorch, the norm of a channel of zeros has 0.
        empty = squares == 0
        norms = jnp.where(empty, 0.0, jnp.sqrt(jnp.where(empty, 1.0, squares)))
        response = norms / (norms.mean(axis=-1, keepdims=True) + 1e-6)
        # [N, C] and not [N, 1, 1, C], from which XLA for GPUs takes a layout for the whole map, and
        # copies it.
        factor = jax.lax.broadcast_in_dim(1 + gamma * response, x.shape, (0, 3))
        return (x * factor + beta).astype(dtype)
