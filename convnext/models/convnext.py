"""ConvNeXt (https://arxiv.org/abs/2201.03545) and ConvNeXt V2 (https://arxiv.org/abs/2301.00808).

Layers and hyper-parameters have the names of the papers' code, facebookresearch/ConvNeXt and
ConvNeXt-V2, or timm's where only timm has them. Activations are [N, H, W, C]; parameters are
float32 whatever `dtype` the model computes in.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import KW_ONLY, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from convnext.errors import InputError, require
from convnext.kernels import pointwise
from convnext.kernels.outline import compiling_for
from convnext.kernels.ptx import KERNELS
from convnext.models.layers import (
    GRN,
    DepthwiseConv,
    DropPath,
    LayerNorm,
    Linear,
    Patchify,
    Places,
    kernel_init,
)


def _variant(depths: tuple[int, ...], dim: int, **options: Any) -> dict[str, Any]:
    """Fields of a model whose stages have twice the channels of the one before."""
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

PRECISIONS = ("default", "high", "highest")  # of JAX
# In float16 the variance in the norms of the last stage overflows (docs/troubleshooting.md).
DTYPES = ("float32", "bfloat16")


class Trunk(nn.Module):
    """The stem and the stages: what `ConvNeXt` and `Backbone` have in common."""

    depths: Sequence[int]  # blocks in each stage; a model of one stage is isotropic
    dims: Sequence[int]  # channels of each stage
    _: KW_ONLY  # so that num_classes is ConvNeXt's third argument
    in_chans: int = 3  # channels of an image
    patch_size: int = 4  # pixels, side and stride of the stem's convolution
    stem_norm: bool = True
    use_grn: bool = False  # Global Response Normalization: V2, which has no LayerScale
    drop_path_rate: float = 0.0  # of the last block; rises linearly from 0 at the first
    layer_scale_init_value: float | None = 1e-6  # None leaves LayerScale out
    norm_eps: float = 1e-6
    remat: bool = False  # recompute each block in the backward pass, to save memory
    dtype: Any = jnp.float32  # of the computation; statistics of norms and logits are float32
    # The sums along the blocks are of this, where it is wider than dtype. The official code adds up
    # in float32 under torch.autocast where gamma or the stem's norm make it so, else in float16
    # with its 11 bits; a block with gamma 1e-6 changes none of the 8 bits of a bfloat16.
    residual_dtype: Any = jnp.float32
    kernels: str = "auto"  # "lax": without those for NVIDIA GPUs, see kernels/README.md
    # Of float32 products in training. "default" is the device's: TF32 on NVIDIA's, which PyTorch
    # has to be asked for, and one pass in bfloat16 on a TPU. "highest" is float32.
    train_precision: str = "default"

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps, in the order of their computation: "stem", "stage1", "stage2", ..."""
        return ("stem", *(f"stage{i + 1}" for i in range(len(self.depths))))

    @property
    def map_dtype(self) -> jnp.dtype:
        """dtype of the sums along the blocks, and so of the maps."""
        return jnp.promote_types(self.dtype, self.residual_dtype)

    def _maps(self, x, train, places=None):
        """Returns the outputs of the stem and of each stage."""
        self._check_images(x)
        drop_path_rates = iter(np.linspace(0, self.drop_path_rate, sum(self.depths)).tolist())
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block

        stem_conv = Patchify(
            self.in_chans, self.dims[0], self.patch_size, self.dtype, name="stem_conv"
        )
        x = stem_conv(x)
        x = x.astype(self.map_dtype)
        if self.stem_norm:
            x = LayerNorm(self.norm_eps, self.map_dtype, self.kernels, name="stem_norm")(x)
        maps = [x]
        for i, (depth, dim) in enumerate(zip(self.depths, self.dims, strict=True)):
            if i > 0:
                name = f"downsample_{i}"
                norm = LayerNorm(self.norm_eps, self.dtype, self.kernels, name=f"{name}_norm")
                conv = Patchify(self.dims[i - 1], dim, 2, self.dtype, name=f"{name}_conv")
                x = conv.project(*norm.into(x, conv)).astype(self.map_dtype)
            stage_places = None if places is None else places.at(self.patch_size * 2**i)
            for j in range(depth):
                x = block(
                    dim=dim,
                    use_grn=self.use_grn,
                    drop_path_rate=next(drop_path_rates),
                    layer_scale_init_value=self.layer_scale_init_value,
                    norm_eps=self.norm_eps,
                    dtype=self.dtype,
                    kernels=self.kernels,
                    name=f"stage_{i}_block_{j}",
                )(x, train, stage_places)
            maps.append(x)
        return maps

    def _precision(self, train):
        """Context in which the products of a float32 model are float32, in training those of
        train_precision, unless JAX was told otherwise."""
        self.check()
        asked = jax.config.jax_default_matmul_precision
        if asked is None and jnp.dtype(self.dtype) == jnp.float32:
            asked = self.train_precision if train else "highest"
        return jax.default_matmul_precision(asked)

    @nn.nowrap
    def check(self) -> None:
        """Raises InputError for fields that are out of range."""
        depths, dims = tuple(self.depths), tuple(self.dims)
        ok = len(depths) == len(dims) > 0 and all(map(_is_size, depths + dims))
        accepted = "a number for each stage, such as (3, 3, 9, 3), (96, 192, 384, 768)"
        require(ok, "model.depths, model.dims", (depths, dims), accepted)
        require(_is_size(self.in_chans), "model.in_chans", self.in_chans, "1 and more")
        require(_is_size(self.patch_size), "model.patch_size", self.patch_size, "1 and more")
        rate, eps, gamma = self.drop_path_rate, self.norm_eps, self.layer_scale_init_value
        require(0 <= rate < 1, "model.drop_path_rate", rate, "from 0 to below 1")
        require(0 < eps < math.inf, "model.norm_eps", eps, "above 0")
        ok = gamma is None or 0 <= gamma < math.inf
        require(ok, "model.layer_scale_init_value", gamma, "0 and more, or None for no LayerScale")
        for name in ("dtype", "residual_dtype"):
            given = getattr(self, name)
            require(_is_dtype(given), f"model.{name}", given, " or ".join(DTYPES))
        require(self.kernels in KERNELS, "model.kernels", self.kernels, " or ".join(KERNELS))
        given, accepted = self.train_precision, " or ".join(PRECISIONS)
        require(given in PRECISIONS, "model.train_precision", given, accepted)

    def _check_images(self, x):
        stride = smallest_side(self)
        if x.ndim != 4 or x.shape[-1] != self.in_chans:
            raise InputError(
                f"images are {list(x.shape)}", f"[N, H, W, {self.in_chans}], channels last"
            )
        if any(side < stride for side in x.shape[1:3]):  # each alone: a side may be a symbol
            raise InputError(
                f"image is {x.shape[1]}x{x.shape[2]} pixels",
                f"sides of at least {stride}, "
                f"the stem's {self.patch_size} doubled by each further stage",
            )


class Backbone(Trunk):
    """Images [N, H, W, 3] to feature maps [N, h, w, C] by name, without a head.

    The maps are of map_dtype. For detection and segmentation: with out_norms each passes through a
    LayerNorm of its own, `norm_<name>`, as in the papers' code, whose result is of dtype. The other
    parameters are those of ConvNeXt, without `norm` and `head`.

    places: where the positions of the maps lie if these are not whole images, see `layers.Places`.

    Raises InputError where out_features names a map that the model does not have.
    """

    out_features: Sequence[str] | None = None  # of map_names; None: every stage
    out_norms: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, places: Places | None = None
    ) -> dict[str, jax.Array]:
        with self._precision(train):
            maps = self._selected(self._maps(x, train, places))
        if not self.out_norms:
            return maps
        norm = partial(LayerNorm, self.norm_eps, self.dtype, self.kernels)
        norms = {name: norm(name=f"norm_{name}") for name in maps}
        return {name: norms[name](x) for name, x in maps.items()}

    def features(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Returns the maps: a Backbone computes nothing else on the way."""
        return self(x, train)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each map that is returned."""
        return self._selected((self.dims[0], *self.dims))

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per pixel of each map that is returned."""
        stages = (self.patch_size * 2**i for i in range(len(self.depths)))
        return self._selected((self.patch_size, *stages))

    def _selected(self, values):
        """Picks those of out_features from one value for each map, by name."""
        names = self.map_names[1:] if self.out_features is None else self.out_features
        if not names or not set(names) <= set(self.map_names):
            raise InputError(
                f"out_features is {tuple(self.out_features)}",
                f"some of {', '.join(self.map_names)}",
            )
        by_name = zip(self.map_names, values, strict=True)
        return {name: value for name, value in by_name if name in names}


class ConvNeXt(Trunk):
    """Images [N, H, W, 3], normalised, to float32 logits [N, num_classes].

    With num_classes None or 0 the output is what the head would have got, float32: the pooled and
    normalised features [N, dims[-1]] or the hidden layer [N, head_hidden_size]. Drop path draws
    from the rng stream "dropout". The fields that are not of the head are those of `Trunk`.

    Raises InputError where an image has another number of channels, or a side smaller than the
    model's total stride.
    """

    num_classes: int | None = 1000
    final_norm_eps: float = 1e-6  # of the last norm; transformers has 1e-12
    head_norm_first: bool = False  # the last norm before pooling instead of after
    head_hidden_size: int | None = None  # None: the head is one linear layer
    head_init_scale: float = 1.0  # factor on the head's initial weights

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.logits_and_features(x, train)[0]

    def features(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Returns what the model computes on the way, for `model.apply(..., method="features")`.

        The names are those of transformers: "stem" and "stage1", "stage2", ...
        [N, h, w, C of the stage], of map_dtype; "last_hidden_state", the last of them, before any
        norm; "pooler_output" [N, dims[-1]], float32, after pooling and norm.
        """
        return self.logits_and_features(x, train)[1]

    @nn.nowrap
    def backbone(self, **options: Any) -> Backbone:
        """Returns a Backbone of the same stem and stages, which takes the same parameters.

        options: `out_features` and `out_norms`.
        """
        names = {field.name for field in fields(Trunk)} - {"parent", "name"}
        return Backbone(**{name: getattr(self, name) for name in names}, **options)

    @nn.nowrap
    def check(self) -> None:
        """Raises InputError for fields that are out of range, those of the head among them."""
        super().check()
        eps, scale, hidden = self.final_norm_eps, self.head_init_scale, self.head_hidden_size
        require(0 < eps < math.inf, "model.final_norm_eps", eps, "above 0")
        ok = hidden is None or _is_size(hidden)
        require(ok, "model.head_hidden_size", hidden, "1 and more, or None for one linear layer")
        require(0 <= scale < math.inf, "model.head_init_scale", scale, "0 and more")

    @nn.compact
    def logits_and_features(
        self, x: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns what a call and what `features` returns, of one pass."""
        with self._precision(train):
            maps = self._maps(x, train)
            norm_name = "norm_pre" if self.head_norm_first else "norm"
            norm = LayerNorm(self.final_norm_eps, kernels=self.kernels, name=norm_name)
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
        return x, features


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
    kernels: str = "auto"

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, places: Places | None = None
    ) -> jax.Array:
        pwconv1 = Linear(self.dim, 4 * self.dim, self.dtype, name="pwconv1")
        pwconv2 = Linear(4 * self.dim, self.dim, self.dtype, name="pwconv2")
        gamma = None
        if self.layer_scale_init_value is not None:
            gamma_init = nn.initializers.constant(self.layer_scale_init_value)
            gamma = self.param("gamma", gamma_init, (self.dim,)).astype(self.dtype)

        dwconv = DepthwiseConv(dtype=self.dtype, kernels=self.kernels, name="dwconv")
        x, shortcut = dwconv.with_shortcut(x, places)
        norm = LayerNorm(self.norm_eps, self.dtype, self.kernels, name="norm")
        x, kernel1, bias1 = norm.into(x, pwconv1)
        if self.use_grn:
            x = pointwise.linear_gelu(x, kernel1, bias1)
            x = GRN(name="grn")(x, places)
            x = pwconv2(x)
            if gamma is not None:
                x = gamma * x
        else:  # the same lines but GRN's, in one function: see kernels/README.md
            x = pointwise.mlp(x, kernel1, bias1, *pwconv2.weights(), gamma)
        x = x.astype(shortcut.dtype)
        x = DropPath(self.drop_path_rate, name="drop_path")(x, deterministic=not train)
        return shortcut + x


def _is_size(number):
    return isinstance(number, numbers.Integral) and number >= 1


def _is_dtype(given):
    try:
        return jnp.dtype(given).name in DTYPES
    except TypeError:  # no dtype at all
        return False


def macs(model: Trunk, image_size: int) -> int:
    """Multiply-accumulates of one square image's forward pass, in convolutions and linear layers.

    The papers call this FLOPs.
    """
    side, channels, total = image_size, model.in_chans, 0
    for i, (depth, dim) in enumerate(zip(model.depths, model.dims, strict=True)):
        patch = 2 if i else model.patch_size
        side //= patch
        patchify = patch**2 * channels * dim
        block = 7**2 * dim + 2 * 4 * dim**2
        total += side**2 * (patchify + depth * block)
        channels = dim
    if isinstance(model, ConvNeXt):
        for width in (model.head_hidden_size, model.num_classes):
            if width:
                total += channels * width
                channels = width
    return total


def activations(model: ConvNeXt, image_size: int) -> int:
    """Bytes that the layers keep of an image for the backward pass.

    A block with C channels keeps 7 C numbers a position: what its convolution reads, the result,
    the same normalised, and the hidden layer; V2 keeps another 4 C after its GRN. With remat each
    block keeps what it reads, which is of map_dtype, and one block all of it. A stage begins with a
    map that is kept before and after its norm. The head is not counted.
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


def smallest_side(model: Trunk) -> int:
    """Pixels of the smallest side that the model takes: its total stride."""
    return model.patch_size * 2 ** max(len(model.depths) - 1, 0)


def smallest_image(model: Trunk) -> jax.Array:
    """Zeros [1, s, s, C], of the smallest side that the model takes."""
    side = smallest_side(model)
    return jnp.zeros((1, side, side, model.in_chans))


def abstract_params(model: Trunk) -> Any:
    """Shapes and dtypes of the model's parameters, without making them."""
    init = lambda key: model.init(key, smallest_image(model))["params"]  # noqa: E731
    with compiling_for("tpu"):  # the plain formulas, which are traced in half the time
        return jax.eval_shape(init, jax.random.key(0))
