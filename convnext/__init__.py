"""ConvNeXt in JAX. Shapes are written with N images, H rows, W columns, C channels, K classes."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
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

# Imported when they are asked for: the model alone needs neither Pillow nor safetensors.
_MODULES = {
    "VARIANTS": "model",
    "Backbone": "model",
    "Classifier": "classifier",
    "ConvNeXt": "model",
    "ImageProcessor": "preprocessing",
    "from_pretrained": "pretrained",
    "save_pretrained": "export",
}

if not TYPE_CHECKING:  # to which a module with this function has every name

    def __getattr__(name: str):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"convnext.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
