"""What the writers of programs ask of sizes, and how they compare outputs."""

from typing import Any

import numpy as np

from convnext.errors import require
from convnext.models.convnext import Trunk, smallest_side


def check_sizes(model: Trunk, batch_size: int | None, image_size: int | None) -> None:
    """Raises InputError for sizes that the model does not take; None is any."""
    require(batch_size is None or batch_size >= 1, "batch_size", batch_size, "1 and more, or None")
    least = smallest_side(model)
    is_size = image_size is None or image_size >= least
    require(is_size, "image_size", image_size, f"{least} and more, or None")


def relative(found: Any, expected: Any) -> float:
    """The largest difference of two arrays over the largest value of the second."""
    expected = np.asarray(expected, np.float32)
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())
