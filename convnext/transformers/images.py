"""The image processor of ConvNeXt."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp
import numpy as np

from convnext.errors import require
from convnext.images import decode
from convnext.images.processor import ImageProcessor
from convnext.transformers import config
from convnext.weights import locate

NAME = "preprocessor_config.json"
TENSORS = (None, "np", "jax")  # of return_tensors


class BatchFeature(dict):
    """Inputs of a model by name, also as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class ConvNextImageProcessor:
    """Images of any kind to pixel_values, as transformers' Pillow backend does to the bit.

    size is that of the result, {"shortest_edge": 384} or an integer: below 384 the image is resized
    to size / crop_pct and the centre cut out, from there on it is warped. The defaults are
    transformers'; a published model has its own, which `from_pretrained` reads.
    """

    def __init__(
        self,
        do_resize: bool = True,
        size: int | Mapping[str, int] | None = None,
        crop_pct: float | None = None,
        resample: int = 3,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        **others: Any,
    ):
        self.do_resize, self.size = do_resize, _shortest_edge(384 if size is None else size)
        self.crop_pct = 224 / 256 if crop_pct is None else crop_pct
        self.resample, self.do_rescale, self.rescale_factor = resample, do_rescale, rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = _of_channels(0.5 if image_mean is None else image_mean)
        self.image_std = _of_channels(0.5 if image_std is None else image_std)
        others.pop("image_processor_type", None)
        others.pop("feature_extractor_type", None)
        vars(self).update(others)
        self.ours()

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """`preprocess`."""
        return self.preprocess(images, **options)

    def preprocess(
        self,
        images: Any,
        do_resize: bool | None = None,
        size: int | Mapping[str, int] | None = None,
        crop_pct: float | None = None,
        resample: int | None = None,
        do_rescale: bool | None = None,
        rescale_factor: float | None = None,
        do_normalize: bool | None = None,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        return_tensors: str | None = None,
        data_format: str = "channels_first",
        input_data_format: str | None = None,
    ) -> BatchFeature:
        """Returns {"pixel_values": float32 [N, C, H, W]}: an array of numpy or JAX for
        return_tensors "np" or "jax", else a list of N arrays.

        images: as in `ImageProcessor.preprocess`, or arrays of floats from 0 to 255. What is None
        is as the processor has it. Raises InputError for what is no image, and for tensors of other
        libraries.
        """
        accepted = "None, 'np' or 'jax': numpy and JAX arrays"
        require(return_tensors in TENSORS, "return_tensors", return_tensors, accepted)
        given = {name: value for name, value in locals().items() if name in _FIELDS}
        processor = self.ours(**{name: v for name, v in given.items() if v is not None})
        pixels = processor.preprocess(
            _levels(images), data_format=data_format, input_data_format=input_data_format
        )
        if return_tensors is None:
            return BatchFeature(pixel_values=list(pixels))
        return BatchFeature(pixel_values=jnp.asarray(pixels) if return_tensors == "jax" else pixels)

    def ours(self, **changes: Any) -> ImageProcessor:
        """Returns the ImageProcessor that does it, with other values of some fields."""
        fields = {name: getattr(self, name) for name in _FIELDS} | changes
        fields["size"] = _shortest_edge(fields["size"])["shortest_edge"]
        for name in ("image_mean", "image_std"):
            fields[name] = tuple(_of_channels(fields[name]))
        return ImageProcessor(**fields, crop_rounding="floor")

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike, *, revision: str | None = None, **changes: Any
    ) -> Self:
        """Reads the processor of a file, of a folder or of a Hugging Face id."""
        path = Path(source).expanduser()
        if not path.is_file():
            path = locate.beside(source, NAME, revision) or path
        return cls.from_dict(ImageProcessor.from_pretrained(path).to_config(), **changes)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], **changes: Any) -> Self:
        """Makes a processor of the content of a preprocessor_config.json."""
        known = {**fields, **changes}
        for name in ("crop_mode", "crop_rounding"):  # of this project's files
            known.pop(name, None)
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, as preprocessor_config.json has them."""
        return {"image_processor_type": "ConvNextImageProcessor", **vars(self)}

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes preprocessor_config.json."""
        config.write(folder, NAME, self.to_dict())


_FIELDS = ("do_resize", "size", "crop_pct", "resample", "do_rescale", "rescale_factor",
           "do_normalize", "image_mean", "image_std")  # fmt: skip


class ConvNextFeatureExtractor(ConvNextImageProcessor):
    """ConvNextImageProcessor by its earlier name, which transformers 5 no longer has."""

    def __init__(self, *args: Any, **options: Any):
        warnings.warn(
            "ConvNextFeatureExtractor is called ConvNextImageProcessor now, and is gone from "
            "transformers 5",
            FutureWarning,
            stacklevel=2,
        )
        super().__init__(*args, **options)


def _shortest_edge(size):
    """Raises InputError for a size that transformers' processor does not take."""
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    accepted = 'an integer, or {"shortest_edge": an integer}'
    require(isinstance(edge, int) and not isinstance(edge, bool), "size", size, accepted)
    return {"shortest_edge": edge}


def _of_channels(values):
    """A number for each channel."""
    return list(values) if isinstance(values, Sequence | np.ndarray) else [values] * 3


def _levels(images):
    """Images, of which those of floats that are the numbers of uint8 are made that."""
    if isinstance(images, list | tuple):
        return [_levels(image) for image in images]
    if not decode.is_array(images):
        return images
    pixels = np.asarray(images)
    if pixels.dtype.kind != "f" or not pixels.size:
        return pixels
    is_levels = pixels.min() >= 0 and pixels.max() <= 255 and np.array_equal(pixels, pixels.round())
    return pixels.astype(np.uint8) if is_levels else pixels
