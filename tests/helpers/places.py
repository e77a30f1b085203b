"""Two makers of `layers.Places`: images on one canvas, and patches one below the other."""

import jax
import jax.numpy as jnp
from flax import struct

from convnext.models.layers import Places


@struct.dataclass
class Padded(Places):
    """Images at the top left of one canvas. sizes: int [N, 2], height and width of each in pixels.

    They are multiples of the model's last stride, as is the canvas.
    """

    sizes: jax.Array
    canvas: tuple[int, int] = struct.field(pytree_node=False)  # pixels
    stride: int = struct.field(pytree_node=False, default=1)

    def at(self, stride):
        return self.replace(stride=stride)

    @property
    def valid(self):
        heights, widths = (self.sizes // self.stride).T[:, :, None, None, None]
        rows, columns = (jnp.arange(side // self.stride) for side in self.canvas)
        return (rows[:, None, None] < heights) & (columns[:, None] < widths)

    def spread(self, x):
        return jnp.where(self.valid, x, 0)


@struct.dataclass
class Tall(Places):
    """Some patches of each image, one below the other: pixels [N, V * side, side, C].

    ids: int [N, V], the number in the image of each patch; grid: how many rows and columns of
    patches an image has. The others are zeros.
    """

    ids: jax.Array
    grid: tuple[int, int] = struct.field(pytree_node=False)
    side: int = struct.field(pytree_node=False)  # of a patch, pixels
    stride: int = struct.field(pytree_node=False, default=1)

    def at(self, stride):
        return self.replace(stride=stride)

    def spread(self, x):
        (rows, columns), side = self.grid, self.side // self.stride
        n, visible = self.ids.shape
        patches = jnp.zeros((n, rows * columns, side, side, x.shape[-1]), x.dtype)
        patches = patches.at[jnp.arange(n)[:, None], self.ids].set(
            x.reshape(n, visible, *patches.shape[2:])
        )
        image = patches.reshape(n, rows, columns, side, side, -1).swapaxes(2, 3)
        return image.reshape(n, rows * side, columns * side, -1)

    def collect(self, x):
        (rows, columns), side = self.grid, self.side // self.stride
        n = len(x)
        patches = x.reshape(n, rows, side, columns, side, -1).swapaxes(2, 3)
        patches = patches.reshape(n, rows * columns, side, side, -1)
        patches = jnp.take_along_axis(patches, self.ids[..., None, None, None], axis=1)
        return patches.reshape(n, -1, side, x.shape[-1])
