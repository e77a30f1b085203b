"""Small test sets in ImageNet's layout, and weights for its classes."""

import jax
import jax.numpy as jnp

from convnext import ConvNeXt, ImageProcessor, save_pretrained
from convnext.data import imagenet
from tests.helpers import test_set_folders


def write_weights(folder):
    """Random weights for ImageNet-1k at 32 pixels, in timm's format; returns the folder."""
    model = ConvNeXt(
        depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), head_init_scale=50.0, layer_scale_init_value=1.0
    )
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    processor = ImageProcessor(size=32, crop_pct=0.9)
    save_pretrained(folder, model, params, format="timm", processor=processor)
    return folder


def write(root):
    """The validation set and ImageNet-A, of an image a class; returns the root."""
    test_set_folders.write(root / "val", imagenet.synsets("1k"), "ILSVRC2012_val_{:08d}.JPEG")
    test_set_folders.write(root / "imagenet-a", imagenet.synsets("a"))
    return root
