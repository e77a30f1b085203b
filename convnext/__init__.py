"""ConvNeXt in JAX. Shapes are written with N images, H rows, W columns, C channels, K classes."""

from convnext.classifier import Classifier
from convnext.export import save_pretrained
from convnext.model import VARIANTS, Backbone, ConvNeXt
from convnext.preprocessing import ImageProcessor
from convnext.pretrained import from_pretrained

__all__ = [
    "VARIANTS",
    "Backbone",
    "Classifier",
    "ConvNeXt",
    "ImageProcessor",
    "from_pretrained",
    "save_pretrained",
]
