"""Augmentation of small images on the device: what images/augment.py does on the host, of a batch.

Each operation is within one grey level of the host's. What is drawn for an image is a function of
its key alone, and so depends on neither the batch nor the devices.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convnext.kernels.outline import outline

ORDERS = np.array(list(itertools.permutations(range(3))))  # in which three operations are applied
GREY = (19595, 38470, 7471)  # ITU-R 601, of 65536, as Pillow's
SHARPNESS = -1.0  # of the bicubic filter, as that of Pillow's transforms


def not_here(
    *,
    crop_scale: tuple[float, float] | None,
    crop_padding: int | None,
    randaugment: Mapping[str, Any],
    three_augment: bool,
    **_: Any,
) -> str | None:
    """Says which of the fields of config.augment asks for what the device does not have."""
    if randaugment["num_ops"]:
        return f"augment.randaugment.num_ops is {randaugment['num_ops']}"
    if three_augment:
        return "augment.three_augment is True"
    if crop_padding is None and crop_scale is not None:
        return f"augment.crop_scale is {crop_scale}"
    return None


def keys_of(seed: int, epochs: jax.Array, indices: jax.Array) -> jax.Array:
    """The keys of the images of a batch, by epoch [N] and number in the data [N]."""
    key = jax.random.key(seed)
    one = lambda epoch, index: jax.random.fold_in(jax.random.fold_in(key, epoch), index)  # noqa: E731
    return jax.vmap(one)(epochs, indices)


def augment(keys: jax.Array, images: jax.Array, **fields: Any) -> jax.Array:
    """Applies what `images.augment.train_transform` does, to images [N, H, W, 3] of levels 0 to 255
    that have their size already. Returns levels in float32, which are not rounded.

    keys [N]. The fields are those of config.augment, once `not_here` has found none.
    """
    drawn = draw(keys, **fields)
    x = images.astype(jnp.float32)
    if fields["crop_padding"]:
        x = crop(x, drawn["top"], drawn["left"], padding=fields["crop_padding"])
    if fields["flip_prob"]:
        x = flip(x, drawn["is_flipped"])
    if fields["color_jitter"]:
        x = jitter(x, *(drawn[name] for name in ("order", "brightness", "contrast", "color")))
    if fields["gamma"]:
        x = power(x, drawn["exponent"])
    affine_fields = ("affine_degrees", "affine_translate", "affine_shear", "affine_scale")
    if tuple(fields[name] for name in affine_fields) != (0, 0, 0, (1, 1)):
        names = ("angle", "slant", "zoom_x", "zoom_y", "shift_x", "shift_y")
        x = affine(x, **{name: drawn[name] for name in names})
    return x


def draw(
    keys: jax.Array,
    *,
    crop_padding: int | None,
    flip_prob: float,
    color_jitter: float,
    gamma: float,
    affine_degrees: float,
    affine_translate: float,
    affine_scale: tuple[float, float],
    affine_shear: float,
    **_: Any,
) -> dict[str, jax.Array]:
    """Draws the arguments of the operations for the image of each key."""
    u = iter(jax.vmap(lambda key: jax.random.uniform(key, 14))(keys).T)

    def between(low, high):
        return low + next(u) * (high - low)

    def below(count):
        return jnp.floor(next(u) * count).astype(jnp.int32)

    angle, slant = math.radians(affine_degrees), math.radians(affine_shear)
    factors = max(0.0, 1 - color_jitter), 1 + color_jitter
    return dict(
        top=below(2 * (crop_padding or 0) + 1),
        left=below(2 * (crop_padding or 0) + 1),
        is_flipped=next(u) < flip_prob,
        order=jnp.asarray(ORDERS)[below(len(ORDERS))],
        brightness=between(*factors),
        contrast=between(*factors),
        color=between(*factors),
        exponent=jnp.exp(between(-gamma, gamma)),
        angle=between(-angle, angle),
        slant=jnp.tan(between(-slant, slant)),
        zoom_x=between(*affine_scale),
        zoom_y=between(*affine_scale),
        shift_x=between(-affine_translate, affine_translate),
        shift_y=between(-affine_translate, affine_translate),
    )


def crop(x: jax.Array, top: jax.Array, left: jax.Array, *, padding: int) -> jax.Array:
    """Frames each image with black pixels, and cuts out its size from row `top` [N] and column
    `left` [N] on."""
    framed = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    one = lambda image, *corner: jax.lax.dynamic_slice(image, (*corner, 0), x.shape[1:])  # noqa: E731
    return jax.vmap(one)(framed, top, left)


def flip(x: jax.Array, where: jax.Array) -> jax.Array:
    """Mirrors left to right the images `where` [N] is true."""
    return jnp.where(_each(where), x[:, :, ::-1], x)


def jitter(
    x: jax.Array, order: jax.Array, brightness: jax.Array, contrast: jax.Array, color: jax.Array
) -> jax.Array:
    """Changes brightness, contrast and saturation by factors [N], in the order of each image, an
    [N, 3] of numbers of these."""
    factors = jnp.stack([brightness, contrast, color])
    for which in order.T:
        grey = jnp.floor((x * jnp.array(GREY)).sum(-1, keepdims=True) / 65536 + 0.5)
        mean = jnp.floor(grey.mean((1, 2), keepdims=True) + 0.5)
        to = jnp.select([_each(which) == 0, _each(which) == 1], [jnp.zeros(()), mean], grey)
        factor = _each(jnp.take_along_axis(factors, which[None], axis=0)[0])
        x = jnp.clip(to + factor * (x - to), 0, 255)
    return x


def power(x: jax.Array, exponent: jax.Array) -> jax.Array:
    """Raises levels, as fractions of 255, to exponent [N]."""
    return 255 * (x / 255) ** _each(exponent)


def affine(
    x: jax.Array,
    *,
    angle: jax.Array,
    slant: jax.Array,
    zoom_x: jax.Array,
    zoom_y: jax.Array,
    shift_x: jax.Array,
    shift_y: jax.Array,
) -> jax.Array:
    """Zooms about the centre, shears, rotates by radians, and shifts by shares of the sides; all
    [N]. Bicubic; the outside is black. See `images.augment.random_affine`."""
    _, height, width, _ = x.shape
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = (cos + slant * sin) / zoom_x, (sin - slant * cos) / zoom_x
    c, d = -sin / zoom_y, cos / zoom_y
    centre_x, centre_y = width * (0.5 + shift_x), height * (0.5 + shift_y)
    # Where the centres of the new pixels lie in the old image, from the new place of its centre.
    right = jnp.arange(width)[None, None, :] + 0.5 - centre_x[:, None, None]
    down = jnp.arange(height)[None, :, None] + 0.5 - centre_y[:, None, None]
    a, b, c, d = (each[:, None, None] for each in (a, b, c, d))
    return bicubic(x, width / 2 + a * right + b * down, height / 2 + c * right + d * down)


@outline  # a reader would compute it anew, in another order
def bicubic(x: jax.Array, columns: jax.Array, rows: jax.Array) -> jax.Array:
    """The levels of each image at places [N, H, W], in pixels from its corner; 0 outside of it.
    Pixels beside the image are those of its edge, as in Pillow."""
    n, height, width, channels = x.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    (left, across), (top, along) = (_taps(each) for each in (columns, rows))
    flat = x.reshape(n, height * width, channels)
    total = jnp.zeros(())
    for i, weight_of_row in enumerate(along):
        row = jnp.clip(top + i, 0, height - 1) * width
        for j, weight in enumerate(across):
            place = row + jnp.clip(left + j, 0, width - 1)
            pixels = jnp.take_along_axis(flat, place.reshape(n, -1, 1), axis=1)
            total += (weight_of_row * weight)[..., None] * pixels.reshape(x.shape)
    return jnp.where(inside[..., None], jnp.clip(total, 0, 255), 0)


def _taps(places):
    """The first of four pixels around each place, and the weights of the four."""
    first = jnp.floor(places - 0.5)
    t, s = places - 0.5 - first, SHARPNESS
    weights = (
        ((s * t - 2 * s) * t + s) * t,
        ((s + 2) * t - (s + 3)) * t * t + 1,
        ((-(s + 2) * t + (2 * s + 3)) * t - s) * t,
        (s - s * t) * t * t,
    )
    return first.astype(jnp.int32) - 1, weights


def _each(x):
    """x [N], against a batch of images."""
    return x[:, None, None, None]
