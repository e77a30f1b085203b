"""ConvNeXt (https://arxiv.org/abs/2201.03545) and ConvNeXt V2 (https://arxiv.org/abs/2301.00808) in
Flax Linen.

Layers and hyper-parameters have the names of the papers' code, facebookresearch/ConvNeXt and
ConvNeXt-V2; what only timm has, timm's. Activations are [N, H, W, C]; parameters are float32
whatever `dtype` the model computes in.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convnext.errors import InputError, require
from convnext.kernels import pointwise
from convnext.kernels.depthwise import depthwise_conv


def _variant(depths: tuple[int, ...], dim: int, **options: Any) -> dict[str, Any]:
    """Stages of which each has twice the channels of the one before."""
    return dict(depths=depths, dims=tuple(dim * 2**i for i in range(len(depths))), **options)


_ISOTROPIC = dict(patch_size=16, stem_norm=False)
_V2 = dict(use_grn=True, layer_scale_init_value=None)

# Table 9 of the paper, and the README of ConvNeXt-V2. The isotropic models are of section 3.3;
# S and B have no LayerScale, L has it (its training command leaves the default of 1e-6). atto to
# nano of V1, tiny_hnf, large_mlp and xxlarge are timm's.
VARIANTS: dict[str, dict[str, Any]] = {
    "atto": _variant((2, 2, 6, 2), 40),
    "femto": _variant((2, 2, 6, 2), 48),
    "pico": _variant((2, 2, 6, 2), 64),
    "nano": _variant((2, 2, 8, 2), 80),
    "tiny": _variant((3, 3, 9, 3), 96),
    "tiny_hnf": _variant((3, 3, 9, 3), 96, head_norm_first=True),
    "small": _variant((3, 3, 27, 3), 96),
    "base": _variant((3, 3, 27, 3), 128),
    "large": _variant((3, 3, 27, 3), 192),
    "large_mlp": _variant((3, 3, 27, 3), 192, head_hidden_size=1536),
    "xlarge": _variant((3, 3, 27, 3), 256),
    "xxlarge": _variant((3, 4, 30, 3), 384, norm_eps=1e-5, final_norm_eps=1e-5),
    "isotropic_small": _variant((18,), 384, **_ISOTROPIC, layer_scale_init_value=None),
    "isotropic_base": _variant((18,), 768, **_ISOTROPIC, layer_scale_init_value=None),
    "isotropic_large": _variant((36,), 1024, **_ISOTROPIC),
    "v2_atto": _variant((2, 2, 6, 2), 40, **_V2),
    "v2_femto": _variant((2, 2, 6, 2), 48, **_V2),
    "v2_pico": _variant((2, 2, 6, 2), 64, **_V2),
    "v2_nano": _variant((2, 2, 8, 2), 80, **_V2),
    "v2_tiny": _variant((3, 3, 9, 3), 96, **_V2),
    "v2_base": _variant((3, 3, 27, 3), 128, **_V2),
    "v2_large": _variant((3, 3, 27, 3), 192, **_V2),
    "v2_huge": _variant((3, 3, 27, 3), 352, **_V2),
}

# timm's trunc_normal_(std=.02), which the paper's code uses, cuts at +-2 absolute and so is a
# plain normal; Flax's truncated_normal(0.02) cuts at two deviations and has a std of 0.0176.
kernel_init = nn.initializers.normal(0.02)


class ConvNeXt(nn.Module):
    """Images [N, H, W, 3], normalised, to float32 logits [N, num_classes].

    With num_classes None or 0: what the head would have got, float32, the pooled and normalised
    features [N, dims[-1]] or the hidden layer [N, head_hidden_size]. A model of one stage is
    isotropic. Drop path draws from the rng stream "dropout".

    Raises InputError where an image has another number of channels, or a side smaller than the
    model's total stride.
    """

    depths: Sequence[int]  # blocks in each stage
    dims: Sequence[int]  # channels of each stage
    num_classes: int | None = 1000
    in_chans: int = 3  # channels of an image
    patch_size: int = 4  # pixels, side and stride of the stem's convolution
    stem_norm: bool = True
    use_grn: bool = False  # Global Response Normalization: V2, which has no LayerScale
    drop_path_rate: float = 0.0  # of the last block; rises linearly from 0 at the first
    layer_scale_init_value: float | None = 1e-6  # None leaves LayerScale out
    norm_eps: float = 1e-6
    final_norm_eps: float = 1e-6  # of the last norm; transformers has 1e-12
    head_norm_first: bool = False  # the last norm before pooling instead of after
    head_hidden_size: int | None = None  # None: the head is one linear layer
    head_init_scale: float = 1.0  # factor on the head's initial weights
    remat: bool = False  # recompute each block in the backward pass, to save memory
    dtype: Any = jnp.float32  # of the computation; statistics of norms and logits are float32
    # Of the sums along the blocks, if wider than dtype. The official code adds up in float32 under
    # torch.autocast where gamma or the stem's norm make it so, else in float16 with its 11 bits; of
    # bfloat16's 8 bits a block with gamma 1e-6 changes none.
    residual_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, with_features: bool = False) -> Any:
        with self._products(train):
            maps = self._maps(x, train)
            norm_name = "norm_pre" if self.head_norm_first else "norm"
            norm = LayerNorm(self.final_norm_eps, name=norm_name)
            x = maps[-1].astype(jnp.float32)
            x = norm(x).mean(axis=(1, 2)) if self.head_norm_first else norm(x.mean(axis=(1, 2)))
            features = dict(zip(self.map_names, maps, strict=True))
            features.update(last_hidden_state=maps[-1], pooler_output=x)
            if self.head_hidden_size:
                x = nn.Dense(self.head_hidden_size, kernel_init=kernel_init, name="pre_logits")(x)
                x = nn.gelu(x, approximate=False)
            if self.num_classes:
                head_init = nn.initializers.normal(0.02 * self.head_init_scale)
                x = nn.Dense(self.num_classes, kernel_init=head_init, name="head")(x)
        return (x, features) if with_features else x

    def features(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """What the model computes on the way, for `model.apply(..., method="features")`.

        By the names of transformers: "stem" and "stage1", "stage2", ... [N, h, w, C of the stage],
        of map_dtype; "last_hidden_state", the last of them, before any norm; "pooler_output"
        [N, dims[-1]], float32, after pooling and norm.
        """
        return self(x, train, with_features=True)[1]

    @property
    def map_names(self) -> tuple[str, ...]:
        """Of the maps that `features` returns, in the order of their computation."""
        return ("stem", *(f"stage{i + 1}" for i in range(len(self.depths))))

    @property
    def map_dtype(self) -> jnp.dtype:
        """Of the sums along the blocks, and so of the maps that `features` returns."""
        return jnp.promote_types(self.dtype, self.residual_dtype)

    def _products(self, train):
        """The context of the computation. float32 is computed as such, but for training and where
        JAX was told otherwise: by itself it would do with TF32 on a GPU, with bfloat16 on a TPU."""
        for name in ("dtype", "residual_dtype"):
            accepted = "float32, bfloat16 or float16"
            require(_is_float(getattr(self, name)), f"model.{name}", getattr(self, name), accepted)
        asked = jax.config.jax_default_matmul_precision
        in_full = asked is None and not train and jnp.dtype(self.dtype) == jnp.float32
        return jax.default_matmul_precision("highest" if in_full else asked)

    def _maps(self, x, train):
        """Outputs of the stem and of each stage."""
        self._check(x)
        drop_path_rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist())
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block

        x = Patchify(self.dims[0], self.patch_size, dtype=self.dtype, name="stem_conv")(x)
        x = x.astype(self.map_dtype)
        if self.stem_norm:
            x = LayerNorm(self.norm_eps, self.map_dtype, name="stem_norm")(x)
        maps = [x]
        for i, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            if i > 0:
                x = LayerNorm(self.norm_eps, self.dtype, name=f"downsample_{i}_norm")(x)
                x = Patchify(dim, 2, dtype=self.dtype, name=f"downsample_{i}_conv")(x)
                x = x.astype(self.map_dtype)
            for j in range(depth):
                x = block(
                    dim=dim,
                    use_grn=self.use_grn,
                    drop_path_rate=next(drop_path_rates),
                    layer_scale_init_value=self.layer_scale_init_value,
                    norm_eps=self.norm_eps,
                    dtype=self.dtype,
                    name=f"stage_{i}_block_{j}",
                )(x, train)
            maps.append(x)
        return maps

    def _check(self, x):
        rate = self.drop_path_rate
        require(0 <= rate < 1, "drop_path_rate", rate, "from 0 to below 1")
        stride = self.patch_size * 2 ** (len(self.depths) - 1)
        if x.ndim != 4 or x.shape[-1] != self.in_chans:
            raise InputError(
                f"images are {list(x.shape)}", f"[N, H, W, {self.in_chans}], channels last"
            )
        if min(x.shape[1:3]) < stride:
            raise InputError(
                f"image is {x.shape[1]}x{x.shape[2]} pixels",
                f"sides of at least {stride}, "
                f"the stem's {self.patch_size} doubled by each further stage",
            )


class Backbone(ConvNeXt):
    """Images [N, H, W, 3] to feature maps [N, h, w, C] by name, without a head.

    The maps are of map_dtype. For detection and segmentation: with out_norms each passes through a
    LayerNorm of its own, `norm_<name>`, as there, whose result is of dtype. The other
    parameters are those of ConvNeXt, without `norm` and `head`.

    Raises InputError where out_features names a map that the model does not have.
    """

    out_features: Sequence[str] | None = None  # of map_names; None: every stage
    out_norms: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        with self._products(train):
            maps = self._selected(self._maps(x, train))
        if not self.out_norms:
            return maps
        norms = {name: LayerNorm(self.norm_eps, self.dtype, name=f"norm_{name}") for name in maps}
        return {name: norms[name](x) for name, x in maps.items()}

    def features(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The same: a Backbone has no further outputs."""
        return self(x, train)

    @property
    def channels(self) -> dict[str, int]:
        """Of each map that is returned."""
        return self._selected((self.dims[0], *self.dims))

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each map that is returned."""
        stages = (self.patch_size * 2**i for i in range(len(self.depths)))
        return self._selected((self.patch_size, *stages))

    def _selected(self, values):
        """By name, of one value for each map."""
        names = self.map_names[1:] if self.out_features is None else self.out_features
        if not names or not set(names) <= set(self.map_names):
            raise InputError(
                f"out_features is {tuple(self.out_features)}",
                f"some of {', '.join(self.map_names)}",
            )
        by_name = zip(self.map_names, values, strict=True)
        return {name: value for name, value in by_name if name in names}


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
        x = x.reshape(-1, height, size, width, size, channels).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, height, width, size * size * channels)
        kernel = kernel.reshape(size * size * channels, self.dim)
        return pointwise.dense(x, kernel.astype(self.dtype)) + bias.astype(self.dtype)


class Block(nn.Module):
    """Residual block: 7x7 depthwise conv, LayerNorm, 4x pointwise MLP (Figure 4).

    V2 has GRN inside the MLP, and no LayerScale.
    """

    dim: int
    use_grn: bool = False
    drop_path_rate: float = 0.0  # probability that an example skips the block
    layer_scale_init_value: float | None = 1e-6  # None leaves LayerScale out
    norm_eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        shortcut = x
        x = DepthwiseConv(dtype=self.dtype, name="dwconv")(x)
        x = LayerNorm(self.norm_eps, self.dtype, name="norm")(x)
        kernel1, bias1 = Linear(4 * self.dim, name="pwconv1")(self.dim)
        kernel2, bias2 = Linear(self.dim, name="pwconv2")(4 * self.dim)
        gamma = jnp.ones(self.dim)
        if self.layer_scale_init_value is not None:
            gamma_init = nn.initializers.constant(self.layer_scale_init_value)
            gamma = self.param("gamma", gamma_init, (self.dim,))
        kernel1, bias1, kernel2, bias2, gamma = (
            weights.astype(self.dtype) for weights in (kernel1, bias1, kernel2, bias2, gamma)
        )
        if self.use_grn:
            x = GRN(name="grn")(pointwise.gelu(pointwise.dense(x, kernel1) + bias1))
            x = (pointwise.dense(x, kernel2) + bias2) * gamma
        else:
            x = pointwise.mlp(x, kernel1, bias1, kernel2, bias2, gamma)
        drop_path = nn.Dropout(self.drop_path_rate, broadcast_dims=(1, 2, 3), name="drop_path")
        return shortcut + drop_path(x.astype(shortcut.dtype), deterministic=not train)


class LayerNorm(nn.Module):
    """Over channels; the parameters are float32, as are the statistics."""

    eps: float = 1e-6
    dtype: Any = jnp.float32  # of the result

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return pointwise.layer_norm(x, scale, bias, self.eps).astype(self.dtype)


class Linear(nn.Module):
    """The parameters of an `nn.Dense`: kernel [in_dim, dim] and bias [dim]."""

    dim: int

    @nn.compact
    def __call__(self, in_dim: int) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", kernel_init, (in_dim, self.dim))
        return kernel, self.param("bias", nn.initializers.zeros, (self.dim,))


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


class GRN(nn.Module):
    """Global Response Normalization (equations 1 to 3 of the V2 paper), eps 1e-6.

    Each channel is scaled by its norm over H and W, divided by the mean of these norms over the
    channels, in float32. Parameters are [C], not [1, 1, 1, C]: by rank they are biases, so that
    nothing decays them.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gamma = self.param("gamma", nn.initializers.zeros, (x.shape[-1],))
        beta = self.param("beta", nn.initializers.zeros, (x.shape[-1],))
        dtype, x = x.dtype, x.astype(jnp.float32)
        squares = jnp.square(x).sum(axis=(1, 2), keepdims=True)
        # The root has no gradient at 0; as in PyTorch, the norm of a channel of zeros has 0.
        empty = squares == 0
        norms = jnp.where(empty, 0.0, jnp.sqrt(jnp.where(empty, 1.0, squares)))
        response = norms / (norms.mean(axis=-1, keepdims=True) + 1e-6)
        return (x * (1 + gamma * response) + beta).astype(dtype)


def _is_float(dtype):
    try:
        return jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:  # no dtype at all
        return False


def smallest_image(model: ConvNeXt) -> jax.Array:
    """Zeros [1, s, s, C], of the smallest side that the model takes."""
    side = model.patch_size * 2 ** max(len(model.depths) - 1, 0)
    return jnp.zeros((1, side, side, model.in_chans))


def abstract_params(model: ConvNeXt) -> Any:
    """Shapes and dtypes of the model's parameters, without making them."""
    init = lambda key: model.init(key, smallest_image(model))["params"]  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0))
