"""Classifier that turns images into labels and scores."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from convnext.errors import InputError, require
from convnext.images.processor import ImageProcessor
from convnext.kernels.outline import compiler_options
from convnext.models.convnext import ConvNeXt
from convnext.weights import pretrained
from convnext.weights.pretrained import Pretrained

FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softmax": jax.nn.softmax,
    "sigmoid": jax.nn.sigmoid,
    "none": lambda logits: logits,
}


class Classifier:
    """A model with its labels and its image processor; call it with images.

    labels: one for each class. problem_type selects the default function of the scores, as in
    transformers' pipeline: none for a regression, sigmoid for several labels or one class, else
    softmax.
    """

    def __init__(
        self,
        model: ConvNeXt,
        params: Any,
        labels: Sequence[str],
        processor: ImageProcessor,
        problem_type: str | None = None,
    ):
        if not model.num_classes or len(labels) != model.num_classes:
            raise InputError(
                f"a model of {model.num_classes or 0} classes with {len(labels)} labels",
                "a model with a head, and a label for each class",
            )
        self.model, self.params, self.labels = model, params, tuple(labels)
        self.processor, self.problem_type = processor, problem_type

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, **options: Any) -> "Classifier":
        """Reads a classifier from any source and with any option of `convnext.from_pretrained`."""
        return cls.of(pretrained.load_runnable(source, **options))

    @classmethod
    def of(cls, loaded: Pretrained) -> "Classifier":
        """Makes a classifier of what `pretrained.load` has read."""
        return cls(
            loaded.model, loaded.params, loaded.labels, loaded.processor, loaded.problem_type
        )

    def __call__(
        self,
        images: Any,
        *,
        top_k: int = 5,
        function_to_apply: str | None = None,
        batch_size: int = 32,
        **overrides: Any,
    ) -> list[list[dict[str, Any]]]:
        """Returns the top_k (at most all) classes of each image, best first, as {"label", "score"}.

        images and overrides: as in ImageProcessor.preprocess. function_to_apply: "softmax",
        "sigmoid" or "none" of the logits. None follows the problem type. A batch is padded to a
        power of two, at most batch_size, so that few sizes are compiled.
        """
        function = function_to_apply or self.default_function()
        require(function in FUNCTIONS, "function_to_apply", function, ", ".join(FUNCTIONS))
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            require(isinstance(value, int) and value >= 1, name, value, "an integer from 1 up")
        is_several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        images = list(images) if is_several else [images]
        results = []
        for start in range(0, len(images), batch_size):
            pixels = self.processor.preprocess(images[start : start + batch_size], **overrides)
            logits = self._logits(pixels, min(1 << (len(pixels) - 1).bit_length(), batch_size))
            scores = np.asarray(FUNCTIONS[function](logits))
            results += [self._top(row, top_k) for row in scores]
        return results

    def default_function(self) -> str:
        """Returns the name of the function that makes scores of logits, where none is given."""
        if self.problem_type == "regression":
            return "none"
        is_binary = self.problem_type == "multi_label_classification" or len(self.labels) == 1
        return "sigmoid" if is_binary else "softmax"

    def _logits(self, pixels, batch_size):
        filled = np.zeros((batch_size, *pixels.shape[1:]), np.float32)
        filled[: len(pixels)] = pixels
        return self._apply(self.params, filled)[: len(pixels)]

    @cached_property
    def _apply(self):
        return jax.jit(
            lambda params, images: self.model.apply({"params": params}, images),
            compiler_options=compiler_options(),
        )

    def _top(self, scores, top_k):
        best = np.argsort(-scores, kind="stable")[:top_k]
        return [{"label": self.labels[i], "score": float(scores[i])} for i in best]
