"""FCMAE, the masked autoencoder of ConvNeXt V2 (https://arxiv.org/abs/2301.00808): visible patches
of an image in, the pixels of the others out.

The official code computes the encoder by sparse convolutions, for which a masked position does not
exist. Here the visible patches of an image lie one below the other, and are all that is computed:
only the depthwise convolution needs to know where they are (`Visible`).
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from convnext.errors import InputError, require
from convnext.kernels import depthwise, outline, pointwise
from convnext.models import convnext
from convnext.models.convnext import Block, Trunk, smallest_side
from convnext.models.layers import GRN, DepthwiseConv, LayerNorm, Linear, Places, kernel_init

EPS = 1e-6  # of the variance of a target's patch


class Masks(flax.struct.PyTreeNode):
    """Which patches of each image are visible: the first `num_visible` of an order.

    The patches of an image are numbered row by row; order and ranks are each other's inverse.
    """

    order: jax.Array  # int32 [N, L]: the patches
    ranks: jax.Array  # int32 [N, L]: of each patch, its place in the order
    num_visible: int = flax.struct.field(pytree_node=False)
    grid: tuple[int, int] = flax.struct.field(pytree_node=False)  # patches in a column, in a row

    @property
    def is_masked(self) -> jax.Array:
        """bool [N, L]."""
        return self.ranks >= self.num_visible

    def visible(self, patches: jax.Array) -> jax.Array:
        """Picks the visible ones of patches [N, L, ...]: [N, V, ...]."""
        return _pick(patches, self.order, self.ranks, 0, self.num_visible)

    def masked(self, patches: jax.Array) -> jax.Array:
        """Picks the masked ones of patches [N, L, ...]: [N, L - V, ...]."""
        return _pick(patches, self.order, self.ranks, self.num_visible, self.order.shape[1])

    def place_masked(self, masked: jax.Array) -> jax.Array:
        """Puts masked patches [N, L - V, ...] where they belong, zeros elsewhere: [N, L, ...]."""
        return _place(masked, self.order, self.ranks, self.num_visible, self.order.shape[1])

    def place_visible(self, visible: jax.Array) -> jax.Array:
        """Puts visible patches [N, V, ...] where they belong, zeros elsewhere: [N, L, ...]."""
        return _place(visible, self.order, self.ranks, 0, self.num_visible)

    def around(self) -> jax.Array:
        """Returns the places in the order, int32 [N, 9, V], of the patches around each visible one,
        row by row, itself the fifth; V for what is masked or outside."""
        height, width = self.grid
        patches = self.order[:, : self.num_visible]
        found = []
        for down, right in itertools.product((-1, 0, 1), repeat=2):
            row, column = patches // width + down, patches % width + right
            is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            place = jnp.where(is_inside, row * width + column, 0)
            rank = jnp.take_along_axis(self.ranks, place, axis=1)
            is_seen = is_inside & (rank < self.num_visible)
            found.append(jnp.where(is_seen, rank, self.num_visible))
        return jnp.stack(found, axis=1)


def draw(key: jax.Array, count: int, *, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Draws the order of the patches of so many images, each order as likely as any other. Returns
    order and ranks, int32 [count, L]."""
    order = jnp.argsort(jax.random.uniform(key, (count, grid[0] * grid[1])), axis=1)
    return order, jnp.argsort(order, axis=1)


# Both functions are gathers, and so are their gradients: each is the other's transpose, which JAX
# does not know, and would write as a scatter.


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _pick(patches, order, ranks, first, last):
    """Those of [N, L, ...] that are from `first` to before `last` in the order."""
    return _take(patches, order[:, first:last])


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _place(picked, order, ranks, first, last):
    """What was picked at its place in [N, L, ...]."""
    is_picked = (ranks >= first) & (ranks < last)
    # Beyond the last one, where nothing is: this gives zeros.
    return _take(picked, jnp.where(is_picked, ranks - first, last - first))


def _take(x, indices):
    indices = indices.reshape(*indices.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, indices, axis=1, mode="fill", fill_value=0)


def _pick_forward(patches, order, ranks, first, last):
    return _pick(patches, order, ranks, first, last), (order, ranks)


def _pick_backward(first, last, where, gradient):
    return _place(gradient, *where, first, last), None, None


def _place_forward(picked, order, ranks, first, last):
    return _place(picked, order, ranks, first, last), (order, ranks)


def _place_backward(first, last, where, gradient):
    return _pick(gradient, *where, first, last), None, None


_pick.defvjp(_pick_forward, _pick_backward)
_place.defvjp(_place_forward, _place_backward)


@flax.struct.dataclass
class Visible(Places):
    """Places of maps [N, V * side, side, C], of the visible patches one below the other."""

    masks: Masks
    size: int = flax.struct.field(pytree_node=False)  # of a patch, pixels of the image
    side: int = flax.struct.field(pytree_node=False)  # of a patch, positions of the map

    def spread(self, x: jax.Array) -> jax.Array:
        """Returns the map of the whole image, with zeros where patches are masked."""
        patches = x.reshape(len(x), -1, self.side, self.side, x.shape[-1])
        return unpatched(self.masks.place_visible(patches), self.masks.grid)

    def collect(self, x: jax.Array) -> jax.Array:
        """Returns the visible patches of the map of the whole image."""
        visible = self.masks.visible(patched(x, self.side))
        return visible.reshape(len(x), -1, self.side, x.shape[-1])

    def convolve(self, x: jax.Array, kernel: jax.Array, kernels: str = "auto") -> jax.Array:
        """Returns x convolved. On a CPU, where a patch is as wide as a kernel reaches, each is
        convolved with its neighbours around it; else the map of the whole image is."""
        if outline.on_cpu() and self.side >= kernel.shape[0] // 2:
            return _convolved_tiles(x, kernel, self.masks.around(), self.side)
        return super().convolve(x, kernel, kernels)

    def at(self, stride: int) -> "Visible":
        """Returns the places in the map of which a position is `stride` pixels of the image."""
        return self.replace(side=self.size // stride)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _convolved_tiles(x, kernel, around, side):
    tiles = _tiles(x, around, side, kernel.shape[0] // 2)
    return depthwise.tile_sum(tiles, kernel).reshape(x.shape)


def _convolved_tiles_forward(x, kernel, around, side):
    return _convolved_tiles(x, kernel, around, side), (x, kernel, around)


def _convolved_tiles_backward(side, residuals, gradient):
    """What is masked neither sees nor is seen, so that the gradient of x is made as the result is,
    by the flipped kernel."""
    x, kernel, around = residuals
    tiles = _tiles(x, around, side, kernel.shape[0] // 2)
    patches = gradient.reshape(-1, side, side, gradient.shape[-1])
    of_kernel = depthwise.tile_kernel_gradient(tiles, kernel, patches)
    return _convolved_tiles(gradient, kernel[::-1, ::-1], around, side), of_kernel, None


_convolved_tiles.defvjp(_convolved_tiles_forward, _convolved_tiles_backward)


def _tiles(x, around, side, reach):
    """The visible patches with the positions around them, [N * V, side + 2 * reach, ..., C]."""
    count, _, _, channels = x.shape
    patches = x.reshape(count, -1, side, side, channels)
    parts = slice(side - reach, side), slice(0, side), slice(0, reach)
    rows = []
    for row in range(3):
        pieces = (patches[:, :, parts[row], parts[column]] for column in range(3))
        placed = [_take(piece, around[:, 3 * row + i]) for i, piece in enumerate(pieces)]
        rows.append(jnp.concatenate(placed, axis=3))
    width = side + 2 * reach
    return jnp.concatenate(rows, axis=2).reshape(-1, width, width, channels)


def patched(x: jax.Array, side: int) -> jax.Array:
    """Cuts [N, H, W, C] into patches [N, L, side, side, C], row by row."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(count, -1, side, side, channels)


def unpatched(patches: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Joins patches [N, L, side, side, C] to [N, H, W, C]."""
    count, _, side, _, channels = patches.shape
    x = patches.reshape(count, *grid, side, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(count, grid[0] * side, grid[1] * side, channels)


class FCMAE(Trunk):
    """Images [N, H, W, C], normalised, and their masks to the pixels of the masked patches,
    [N, L - V, P * P * C] for a patch of P pixels a side: row by row, channel fastest.

    The encoder has the parameters of a ConvNeXt without norm and head, the decoder those of the
    official code: `proj`, `mask_token`, `decoder_block_<i>`, `pred`. The fields that are not of the
    decoder are those of `Trunk`; V2's are use_grn True and layer_scale_init_value None.
    """

    decoder_dim: int = 512
    decoder_depth: int = 1  # blocks
    mask_ratio: float = 0.6  # share of the patches that is masked

    def __call__(self, images: jax.Array, masks: Masks, train: bool = False) -> jax.Array:
        return self.prediction_and_features(images, masks, train)[0]

    def features(self, images: jax.Array, masks: Masks, train: bool = False) -> jax.Array:
        """Returns what the encoder makes of the visible patches, [N, V, dims[-1]], of map_dtype."""
        return self.prediction_and_features(images, masks, train)[1]

    @nn.compact
    def prediction_and_features(
        self, images: jax.Array, masks: Masks, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Returns what a call and what `features` returns, of one pass."""
        with self._precision(train):
            encoded = self._encoded(images, masks, train)
            x = encoded.astype(self.dtype)
            x = Linear(self.dims[-1], self.decoder_dim, self.dtype, name="proj")(x)
            token = self.param("mask_token", kernel_init, (self.decoder_dim,)).astype(x.dtype)
            x = jnp.where(masks.is_masked[..., None], token, masks.place_visible(x))
            x = x.reshape(len(x), *masks.grid, self.decoder_dim).astype(self.map_dtype)
            options = dict(dim=self.decoder_dim, norm_eps=self.norm_eps, dtype=self.dtype)
            options |= dict(kernels=self.kernels)
            *blocks, last = (f"decoder_block_{i}" for i in range(self.decoder_depth))
            for name in blocks:
                block = Block(**options, use_grn=True, layer_scale_init_value=None, name=name)
                x = block(x, train)
            x = LastBlock(**options, name=last)(x, masks).astype(self.dtype)
            values = smallest_side(self) ** 2 * self.in_chans
            pred = Linear(self.decoder_dim, values, self.dtype, name="pred")
            return pred(x).astype(jnp.float32), encoded

    def _encoded(self, images, masks, train):
        """The features of the visible patches, [N, V, C]."""
        size = smallest_side(self)
        visible = masks.visible(patched(images, size))
        tall = visible.reshape(len(images), -1, size, self.in_chans)
        x = self._maps(tall, train, Visible(masks, size, size))[-1]
        return x.reshape(len(images), masks.num_visible, self.dims[-1])

    @nn.nowrap
    def check(self) -> None:
        """Raises InputError for fields that are out of range, those of the decoder among them."""
        super().check()
        for name in ("decoder_dim", "decoder_depth"):
            given = getattr(self, name)
            require(isinstance(given, int) and given >= 1, f"model.{name}", given, "1 and more")
        require(0 < self.mask_ratio < 1, "model.mask_ratio", self.mask_ratio, "above 0, below 1")


class LastBlock(nn.Module):
    """The last block of the decoder, a `convnext.Block` of V2: [N, h, w, C] to the masked patches
    [N, L - V, C]. The loss reads no others, and only GRN looks at all of them."""

    dim: int
    norm_eps: float
    dtype: Any
    kernels: str

    @nn.compact
    def __call__(self, x: jax.Array, masks: Masks) -> jax.Array:
        pwconv1 = Linear(self.dim, 4 * self.dim, self.dtype, name="pwconv1")
        pwconv2 = Linear(4 * self.dim, self.dim, self.dtype, name="pwconv2")
        dwconv = DepthwiseConv(dtype=self.dtype, kernels=self.kernels, name="dwconv")
        y, shortcut = dwconv.with_shortcut(x)
        y, kernel, bias = LayerNorm(self.norm_eps, self.dtype, self.kernels, name="norm").into(
            y, pwconv1
        )
        y = GRN(name="grn")(pointwise.linear_gelu(y, kernel, bias))
        y, shortcut = (
            masks.masked(each.reshape(len(x), -1, each.shape[-1])) for each in (y, shortcut)
        )
        return shortcut + pwconv2(y).astype(shortcut.dtype)


def targets(images: jax.Array, masks: Masks, size: int, *, norm_pix: bool = True) -> jax.Array:
    """Returns what is to be predicted of images [N, H, W, C], float32 [N, L - V, size * size * C].

    norm_pix: each patch, all of its channels together, with mean 0 and deviation 1, the unbiased
    one (norm_pix_loss of the official code).
    """
    patches = masks.masked(patched(images.astype(jnp.float32), size))
    patches = patches.reshape(*patches.shape[:2], -1)
    return normalized(patches) if norm_pix else patches


def normalized(patches: jax.Array) -> jax.Array:
    """Returns patches [..., values] with mean 0 and deviation 1."""
    mean, variance = patches.mean(-1, keepdims=True), patches.var(-1, ddof=1, keepdims=True)
    return (patches - mean) / jnp.sqrt(variance + EPS)


def losses(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean squared error of each image, [N], over its masked patches; float32."""
    return jnp.square(predicted.astype(jnp.float32) - target).mean(axis=(1, 2))


def macs(model: FCMAE, grid: tuple[int, int], num_visible: int) -> int:
    """Multiply-accumulates of an image's forward pass, in convolutions and linear layers: of the
    visible patches, but for the depthwise convolutions, which go over the map."""
    patches = grid[0] * grid[1]
    side, channels, total = smallest_side(model), model.in_chans, 0
    for i, (depth, dim) in enumerate(zip(model.depths, model.dims, strict=True)):
        patch = 2 if i else model.patch_size
        side //= patch
        linear = patch**2 * channels * dim + depth * 8 * dim**2
        total += side**2 * (num_visible * linear + patches * depth * 49 * dim)
        channels = dim
    dim, masked = model.decoder_dim, patches - num_visible
    values = smallest_side(model) ** 2 * model.in_chans
    blocks = model.decoder_depth * (49 * dim + 8 * dim**2)
    total += num_visible * channels * dim + patches * blocks
    return total - num_visible * 4 * dim**2 + masked * dim * values


def activations(model: FCMAE, grid: tuple[int, int], num_visible: int) -> int:
    """Bytes that the layers keep of an image for the backward pass: as `convnext.activations` of
    the visible patches, of the map that each depthwise convolution reads, and of the decoder's
    blocks, target and prediction."""
    patches, size = grid[0] * grid[1], smallest_side(model)
    encoder = num_visible * convnext.activations(model, size)
    itemsize = jnp.dtype(model.dtype).itemsize
    kept = 0
    for i, (depth, dim) in enumerate(zip(model.depths, model.dims, strict=True)):
        kept += depth * dim * (size // (model.patch_size * 2**i)) ** 2
    values = size**2 * model.in_chans
    decoder = patches * model.decoder_depth * 11 * model.decoder_dim * itemsize
    return encoder + itemsize * patches * kept + decoder + 8 * (patches - num_visible) * values


def init(
    key: jax.Array, *, model: FCMAE, grid: tuple[int, int], num_visible: int
) -> dict[str, Any]:
    """Draws the variables of a model."""
    size = smallest_side(model)
    images = jnp.zeros((1, grid[0] * size, grid[1] * size, model.in_chans))
    return model.init(key, images, Masks(*draw(key, 1, grid=grid), num_visible, grid))


def abstract_params(model: FCMAE) -> Any:
    """Shapes and dtypes of the model's parameters, without making them."""
    with outline.compiling_for("tpu"):  # the plain formulas, which are traced in half the time
        make = partial(init, model=model, grid=(1, 2), num_visible=1)
        return jax.eval_shape(make, jax.random.key(0))["params"]


def is_of_decoder(name: str) -> bool:
    """Whether a parameter, or a module at the top, is of the decoder and not of the encoder."""
    return name.startswith(("proj", "mask_token", "decoder_block_", "pred"))


def grid_of(model: FCMAE, sides: Sequence[int]) -> tuple[int, int]:
    """Returns how many patches an image of this height and width has in a column and in a row.
    Raises InputError where a side is no multiple of the model's stride."""
    size = smallest_side(model)
    ok = all(side % size == 0 and side > 0 for side in sides)
    require(ok, "height and width of the images", tuple(sides), f"multiples of {size}")
    height, width = (side // size for side in sides)
    return height, width


def num_visible(model: FCMAE, grid: tuple[int, int]) -> int:
    """Returns how many patches of an image stay visible, rounded down as the official code does.
    Raises InputError where none does, or where none is masked."""
    patches = grid[0] * grid[1]
    visible = int(patches * (1 - model.mask_ratio))
    if not 0 < visible < patches:
        raise InputError(
            f"model.mask_ratio is {model.mask_ratio}, which leaves {visible} of the {patches} "
            f"patches of an image visible",
            "a ratio, and an image, of which some are and some are not",
        )
    return visible
