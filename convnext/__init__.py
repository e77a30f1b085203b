"""ConvNeXt in JAX. Shapes are written with N images, H rows, W columns, C channels, K classes."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from convnext.classifier import Classifier
    from convnext.images.processor import ImageProcessor
    from convnext.models.convnext import VARIANTS, Backbone, ConvNeXt
    from convnext.weights.pretrained import from_pretrained
    from convnext.weights.save import save_pretrained

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
    "VARIANTS": "models.convnext",
    "Backbone": "models.convnext",
    "Classifier": "classifier",
    "ConvNeXt": "models.convnext",
    "ImageProcessor": "images.processor",
    "from_pretrained": "weights.pretrained",
    "save_pretrained": "weights.save",
}

if not TYPE_CHECKING:  # to which a module with this function has every name

    def __getattr__(name: str):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"convnext.{_MODULES[name]}")
        return globals().setdefault(name, getattr(module, name))  # where pdoc looks for it


def __dir__() -> list[str]:
    return __all__
