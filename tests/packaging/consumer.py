"""What a user of the package writes, as mypy --strict must see it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np

import convnext
from convnext import VARIANTS, Backbone, Classifier, ConvNeXt, ImageProcessor

assert_type(convnext.__version__, str)
assert_type(VARIANTS, dict[str, dict[str, Any]])

model = ConvNeXt(depths=(1, 1), dims=(8, 16), num_classes=10, dtype=jnp.bfloat16)
assert_type(model, ConvNeXt)
assert_type(model.depths, Sequence[int])
assert_type(model.num_classes, int | None)

backbone = Backbone(**VARIANTS["tiny"], out_features=("stage2",), out_norms=True)
assert_type(backbone(jnp.zeros((1, 64, 64, 3))), dict[str, jax.Array])
assert_type(backbone.channels, dict[str, int])

pretrained = convnext.from_pretrained("out", num_classes=10, key=jax.random.key(0))
assert_type(pretrained, tuple[ConvNeXt, Any])
assert_type(convnext.save_pretrained("out", *pretrained, format="timm"), None)

processor = ImageProcessor(size=384)
pixels: np.ndarray[Any, np.dtype[Any]] = processor.preprocess(Path("cat.jpg"))

classifier = Classifier.from_pretrained("out")
assert_type(classifier("cat.jpg", top_k=1), list[list[dict[str, Any]]])

# Each is an error, and mypy says where one is not: [unused-ignore].
ConvNeXt(depths=(1,), dims=(8,), drop_path=0.1)  # type: ignore[call-arg]
convnext.from_pretrained("out", classes=10)  # type: ignore[call-arg]
convnext.from_pretrain("out")  # type: ignore[attr-defined]
