"""ConvNeXt in JAX. Shapes are written with N images, H rows, W columns, C channels, K classes."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from convnext.classifier import Classifier
    from convnext.images.processor import ImageProcessor
    from convnext.models.convnext import VARIANTS, Backbone, ConvNeXt
    from convnext.transformers.config import ConvNextConfig, ConvNextV2Config
    from convnext.transformers.images import ConvNextFeatureExtractor, ConvNextImageProcessor
    from convnext.transformers.models import (
        AutoImageProcessor,
        AutoModelForImageClassification,
        ConvNextForImageClassification,
        ConvNextModel,
        ConvNextV2ForImageClassification,
        ConvNextV2Model,
        pipeline,
    )
    from convnext.weights.pretrained import from_pretrained
    from convnext.weights.save import save_pretrained

__all__ = [
    "VARIANTS",
    "AutoImageProcessor",
    "AutoModelForImageClassification",
    "Backbone",
    "Classifier",
    "ConvNeXt",
    "ConvNextConfig",
    "ConvNextFeatureExtractor",
    "ConvNextForImageClassification",
    "ConvNextImageProcessor",
    "ConvNextModel",
    "ConvNextV2Config",
    "ConvNextV2ForImageClassification",
    "ConvNextV2Model",
    "ImageProcessor",
    "from_pretrained",
    "pipeline",
    "save_pretrained",
]

# Imported when they are asked for: the model alone needs neither Pillow nor safetensors.
_MODULES = {
    "VARIANTS": "models.convnext",
    "AutoImageProcessor": "transformers.models",
    "AutoModelForImageClassification": "transformers.models",
    "Backbone": "models.convnext",
    "Classifier": "classifier",
    "ConvNeXt": "models.convnext",
    "ConvNextConfig": "transformers.config",
    "ConvNextFeatureExtractor": "transformers.images",
    "ConvNextForImageClassification": "transformers.models",
    "ConvNextImageProcessor": "transformers.images",
    "ConvNextModel": "transformers.models",
    "ConvNextV2Config": "transformers.config",
    "ConvNextV2ForImageClassification": "transformers.models",
    "ConvNextV2Model": "transformers.models",
    "ImageProcessor": "images.processor",
    "from_pretrained": "weights.pretrained",
    "pipeline": "transformers.models",
    "save_pretrained": "weights.save",
}

if not TYPE_CHECKING:  # to which a module with this function has every name

    def __getattr__(name: str):
        if name.startswith("TFConvNext"):
            raise ImportError(
                f"{name} is a class of TensorFlow in transformers 4.x, up to 4.57; "
                'convnext.save_pretrained(..., format="tensorflow") writes what it loads'
            )
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"convnext.{_MODULES[name]}")
        return globals().setdefault(name, getattr(module, name))  # where pdoc looks for it


def __dir__() -> list[str]:
    return __all__
