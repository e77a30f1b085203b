"""A folder of `tools.export`, or an .onnx file in it, as a model of onnxruntime."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convnext.errors import InputError, needed, require

NAME = Path("onnx", "model.onnx")


def find(source: str | os.PathLike) -> Path | None:
    """Returns the graph that a source names: itself, or the one in a folder without weights."""
    path = Path(source).expanduser()
    if path.suffix == ".onnx":
        return path
    is_export = (path / NAME).is_file() and not (path / "model.safetensors").exists()
    return path / NAME if is_export else None


class Graph:
    """What a ConvNeXt is to a Classifier and to evaluations: `apply` and `num_classes`.

    Raises InputError where the file or onnxruntime is not there, and for a graph that does not take
    pixel_values [N, C, H, W] alone and give logits [N, K].
    """

    def __init__(self, path: Path):
        onnxruntime = needed("onnxruntime", path)
        require(path.is_file(), "the graph", str(path), "a file that is there")
        try:
            self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:  # of onnxruntime, which has no base class for them
            raise InputError(f"{path}: {error}", "an ONNX file") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [each.name for each in (*inputs, *outputs)]
        accepted = "those of a classifier, ['pixel_values', 'logits']"
        is_classifier = names == ["pixel_values", "logits"]
        require(is_classifier, f"what goes in and out of {path}", names, accepted)
        batch, self.in_chans, *self._sides = inputs[0].shape
        self.num_classes: int = outputs[0].shape[1]
        self._batch = batch if isinstance(batch, int) else None

    def apply(self, variables: Any, images: jax.Array, train: bool = False) -> jax.Array:
        """Returns float32 logits [N, K] of normalised images [N, H, W, C]. Of the rest it reads
        nothing. Raises InputError for sides other than those of a graph that has its own."""
        given = images.shape[1:3]
        are_taken = all(
            free == side or isinstance(free, str)
            for free, side in zip(self._sides, given, strict=True)
        )
        require(are_taken, "height and width of the images", given, f"{self._sides}, as exported")
        shape = jax.ShapeDtypeStruct((images.shape[0], self.num_classes), jnp.float32)
        return jax.pure_callback(self._run, shape, images)

    def _run(self, images):
        pixels = np.moveaxis(np.asarray(images, np.float32), -1, 1)
        step = self._batch or len(pixels)
        logits = []
        for start in range(0, len(pixels), step):
            part = pixels[start : start + step]
            filled = np.zeros((step, *part.shape[1:]), np.float32)
            filled[: len(part)] = part
            logits.append(self._session.run(None, {"pixel_values": filled})[0][: len(part)])
        return np.concatenate(logits)
