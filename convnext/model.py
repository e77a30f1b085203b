"""ConvNeXt, from "A ConvNet for the 2020s" (https://arxiv.org/abs/2201.03545), in Flax Linen.

Layers and hyper-parameters have the names of the paper's code, facebookresearch/ConvNeXt.
Activations are [N, H, W, C]; parameters are float32 whatever `dtype` the model computes in.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convnext.depthwise import depthwise_conv
from convnext.errors import InputError

# Table 9 of the paper; the isotropic models are those of section 3.3. Isotropic S and B have no
# LayerScale, isotropic L has it (its training command leaves the default of 1e-6).
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": dict(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768)),
    "small": dict(depths=(3, 3, 27, 3), dims=(96, 192, 384, 768)),
    "base": dict(depths=(3, 3, 27, 3), dims=(128, 256, 512, 1024)),
    "large": dict(depths=(3, 3, 27, 3), dims=(192, 384, 768, 1536)),
    "xlarge": dict(depths=(3, 3, 27, 3), dims=(256, 512, 1024, 2048)),
    "isotropic_small": dict(
        depths=(18,), dims=(384,), patch_size=16, stem_norm=False, layer_scale_init_value=None
    ),
    "isotropic_base": dict(
        depths=(18,), dims=(768,), patch_size=16, stem_norm=False, layer_scale_init_value=None
    ),
    "isotropic_large": dict(depths=(36,), dims=(1024,), patch_size=16, stem_norm=False),
}

# timm's trunc_normal_(std=.02), which the paper's code uses, cuts at +-2 absolute and so is a
# plain normal; Flax's truncated_normal(0.02) cuts at two deviations and has a std of 0.0176.
kernel_init = nn.initializers.normal(0.02)


class ConvNeXt(nn.Module):
    """Images [N, H, W, 3], normalised, to float32 logits [N, num_classes].

    With num_classes None or 0: the pooled and normalised features [N, dims[-1]], float32.
    A model of one stage is isotropic. Drop path draws from the rng stream "dropout".

    Raises InputError where an image side is smaller than the model's total stride.
    """

    depths: Sequence[int]  # blocks in each stage
    dims: Sequence[int]  # channels of each stage
    num_classes: int | None = 1000
    patch_size: int = 4  # pixels, side and stride of the stem's convolution
    stem_norm: bool = True
    drop_path_rate: float = 0.0  # of the last block; rises linearly from 0 at the first
    layer_scale_init_value: float | None = 1e-6  # None leaves LayerScale out
    head_init_scale: float = 1.0  # factor on the head's initial weights
    remat: bool = False  # recompute each block in the backward pass, to save memory
    dtype: Any = jnp.float32  # of the computation; statistics of norms and logits are float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        stride = self.patch_size * 2 ** (len(self.depths) - 1)
        if min(x.shape[1:3]) < stride:
            raise InputError(
                f"image is {x.shape[1]}x{x.shape[2]} pixels; accepted: sides of at least {stride}, "
                f"the stem's {self.patch_size} doubled by each further stage"
            )
        drop_path_rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist())
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block

        x = Patchify(self.dims[0], self.patch_size, dtype=self.dtype, name="stem_conv")(x)
        if self.stem_norm:
            x = layer_norm("stem_norm", self.dtype)(x)
        for i, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            if i > 0:
                x = layer_norm(f"downsample_{i}_norm", self.dtype)(x)
                x = Patchify(dim, 2, dtype=self.dtype, name=f"downsample_{i}_conv")(x)
            for j in range(depth):
                x = block(
                    dim=dim,
                    drop_path_rate=next(drop_path_rates),
                    layer_scale_init_value=self.layer_scale_init_value,
                    dtype=self.dtype,
                    name=f"stage_{i}_block_{j}",
                )(x, train)

        x = x.astype(jnp.float32).mean(axis=(1, 2))
        x = layer_norm("norm", jnp.float32)(x)
        if not self.num_classes:
            return x
        head_init = nn.initializers.normal(0.02 * self.head_init_scale)
        return nn.Dense(self.num_classes, kernel_init=head_init, name="head")(x)


class Patchify(nn.Module):
    """Non-overlapping patches, projected: stem and downsampling, with the parameters of `nn.Conv`.

    Pixels at the right and bottom that do not fill a patch are left out (VALID padding). Written
    as a matrix product, whose gradients are matrix products too: XLA on CPU has no fast gradient
    of a strided convolution.
    """

    dim: int
    size: int  # pixels, side and stride of a patch
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, channels = self.size, x.shape[-1]
        kernel = self.param("kernel", kernel_init, (size, size, channels, self.dim))
        bias = self.param("bias", nn.initializers.zeros, (self.dim,))
        height, width = x.shape[1] // size, x.shape[2] // size
        x = x[:, : height * size, : width * size].astype(self.dtype)
        x = x.reshape(-1, height, size, width, size, channels)
        x = jnp.einsum("nhiwjc,ijcd->nhwd", x, kernel.astype(self.dtype))
        return x + bias.astype(self.dtype)


class Block(nn.Module):
    """Residual block: 7x7 depthwise conv, LayerNorm, 4x pointwise MLP (Figure 4)."""

    dim: int
    drop_path_rate: float = 0.0  # probability that an example skips the block
    layer_scale_init_value: float | None = 1e-6  # None leaves LayerScale out
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        shortcut = x
        x = DepthwiseConv(dtype=self.dtype, name="dwconv")(x)
        x = layer_norm("norm", self.dtype)(x)
        x = nn.Dense(4 * self.dim, kernel_init=kernel_init, dtype=self.dtype, name="pwconv1")(x)
        x = nn.gelu(x, approximate=False)
        x = nn.Dense(self.dim, kernel_init=kernel_init, dtype=self.dtype, name="pwconv2")(x)
        if self.layer_scale_init_value is not None:
            gamma_init = nn.initializers.constant(self.layer_scale_init_value)
            x *= self.param("gamma", gamma_init, (self.dim,)).astype(self.dtype)
        drop_path = nn.Dropout(self.drop_path_rate, broadcast_dims=(1, 2, 3), name="drop_path")
        return shortcut + drop_path(x, deterministic=not train)


class DepthwiseConv(nn.Module):
    """The block's spatial mixing, with the parameters of a grouped `nn.Conv`."""

    kernel_size: int = 7
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        shape = (self.kernel_size, self.kernel_size, 1, channels)
        kernel = self.param("kernel", kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        return x + bias.astype(self.dtype)


def layer_norm(name: str, dtype: Any) -> nn.LayerNorm:
    """Over channels, eps 1e-6, with exact statistics (the fast variance loses digits)."""
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)
