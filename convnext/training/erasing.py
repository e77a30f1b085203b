"""Random erasing (https://arxiv.org/abs/1708.04896) on the device.

As timm's `RandomErasing` in pixel mode, with which ConvNeXt was trained: after normalisation,
before mixup. Each example draws for itself, so the result does not depend on the devices.
"""

import math

import jax
import jax.numpy as jnp

from convnext.errors import require, require_range


def erase(
    key: jax.Array,
    images: jax.Array,
    *,
    prob: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    min_aspect: float = 0.3,
) -> jax.Array:
    """Fills a box of some of the normalised images [N, H, W, C] with noise.

    With probability `prob` a box is drawn: its area uniform in `area` as a share of the image's,
    its height / width log-uniform in [min_aspect, 1 / min_aspect], its place uniform. Of ten boxes
    the first that is smaller than the image in both directions counts; if there is none, nothing is
    erased. Each value inside becomes a draw from the standard normal distribution.

    Raises InputError for what is out of range.
    """
    require(0 <= prob <= 1, "erase.prob", prob, "0 to 1")
    require_range("erase.area", area, 0, 1)
    require(0 < min_aspect <= 1, "erase.min_aspect", min_aspect, "above 0, at most 1")
    if prob == 0:
        return images
    one = lambda key, image: _erase_one(key, image, prob, area, min_aspect)  # noqa: E731
    return jax.vmap(one)(jax.random.split(key, len(images)), images)


def _erase_one(key, image, prob, area, min_aspect):
    height, width, _ = image.shape
    prob_key, area_key, aspect_key, top_key, left_key, noise_key = jax.random.split(key, 6)
    areas = jax.random.uniform(area_key, 10, minval=area[0], maxval=area[1]) * height * width
    log_aspect = math.log(min_aspect)
    aspects = jnp.exp(jax.random.uniform(aspect_key, 10, minval=log_aspect, maxval=-log_aspect))
    heights = jnp.round(jnp.sqrt(areas * aspects)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(areas / aspects)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    box_height, box_width = heights[first], widths[first]
    top = jax.random.randint(top_key, (), 0, height - box_height + 1)
    left = jax.random.randint(left_key, (), 0, width - box_width + 1)
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inside = (rows >= top) & (rows < top + box_height)
    inside &= (columns >= left) & (columns < left + box_width)
    inside &= fits.any() & jax.random.bernoulli(prob_key, prob)
    return jnp.where(inside, jax.random.normal(noise_key, image.shape, image.dtype), image)
