"""FCMAE over whole images, masked: what the encoder of visible patches is compared with.

The masked positions are computed and are zeros for every depthwise convolution, and GRN leaves them
out: the dense formula that equals the sparse convolutions of the official code.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from convnext.models.convnext import smallest_side
from convnext.models.fcmae import FCMAE, LastBlock, Masks, targets, unpatched
from convnext.models.layers import Places


@flax.struct.dataclass
class Unmasked(Places):
    """Places of maps of whole images, in which the visible patches alone count."""

    masks: Masks
    size: int = flax.struct.field(pytree_node=False)  # of a patch, pixels of the image
    side: int = flax.struct.field(pytree_node=False)  # of a patch, positions of the map

    @property
    def valid(self) -> jax.Array:
        """The positions of visible patches."""
        patches = ~self.masks.is_masked[..., None, None, None]
        shape = (*patches.shape[:2], self.side, self.side, 1)
        return unpatched(jnp.broadcast_to(patches, shape), self.masks.grid)

    def spread(self, x: jax.Array) -> jax.Array:
        """Returns x with zeros where patches are masked."""
        return jnp.where(self.valid, x, 0)

    def at(self, stride: int) -> "Unmasked":
        """Returns the places in the map of which a position is `stride` pixels of the image."""
        return self.replace(side=self.size // stride)


class DenseFCMAE(FCMAE):
    """FCMAE whose encoder computes every patch."""

    places = Unmasked

    def _encoded(self, images, masks, train):
        size = smallest_side(self)
        x = self._maps(images, train, self.places(masks, size, size))[-1]
        return masks.visible(x.reshape(len(images), -1, self.dims[-1]))


class WholeFCMAE(DenseFCMAE):
    """The same, whose decoder predicts every patch, too: [N, L, values], in the image's order."""

    def __call__(self, images: jax.Array, masks: Masks, train: bool = False) -> jax.Array:
        def whole(computed, args, keywords, context):
            if isinstance(context.module, LastBlock):
                args = (args[0], every_patch(masks))
            return computed(*args, **keywords)

        with nn.intercept_methods(whole):
            return super().__call__(images, masks, train)


def every_patch(masks: Masks) -> Masks:
    """Masks all patches, in the image's order."""
    order = jnp.broadcast_to(jnp.arange(masks.order.shape[1]), masks.order.shape)
    return Masks(order, order, 0, masks.grid)


def loss(predicted: jax.Array, images: jax.Array, masks: Masks, size: int) -> jax.Array:
    """The mean over masked patches of what WholeFCMAE predicts."""
    target = targets(images, every_patch(masks), size)
    each = jnp.square(predicted - target).mean(-1)
    return (each * masks.is_masked).sum() / masks.is_masked.sum()
