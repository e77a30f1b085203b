"""ConvNeXt in JAX. Shapes are written with N images, H rows, W columns, C channels, K classes."""

from convnext.model import VARIANTS, ConvNeXt

__all__ = ["VARIANTS", "ConvNeXt"]
