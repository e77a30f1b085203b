"""RandAugment (https://arxiv.org/abs/1909.13719)."""

import math
from dataclasses import dataclass

import numpy as np

from convnext.errors import InputError, require
from convnext.images import operations

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color",
    "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY",
)  # fmt: skip


@dataclass(frozen=True)
class RandAugment:
    """RandAugment as in timm. The defaults are its "rand-m9-mstd0.5-inc1", which ConvNeXt was
    trained with.

    Each of num_ops operations is drawn from all, and applied with probability `prob`. Its magnitude
    is normally distributed with mean `magnitude` and deviation magnitude_std, clipped to 0 to 10.
    With `increasing` a greater magnitude always changes the image more. Raises InputError for a
    value out of range.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    increasing: bool = True
    prob: float = 0.5
    fill: tuple[int, int, int] = (124, 116, 104)  # the mean of ImageNet, RGB

    def __post_init__(self):
        require(self.num_ops >= 0, "augment.randaugment.num_ops", self.num_ops, "0 and more")
        magnitude, std = self.magnitude, self.magnitude_std
        require(0 <= magnitude <= 10, "augment.randaugment.magnitude", magnitude, "0 to 10")
        require(0 <= std < math.inf, "augment.randaugment.magnitude_std", std, "0 and more")
        require(0 <= self.prob <= 1, "augment.randaugment.prob", self.prob, "0 to 1")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        for op, magnitude, sign in self.draw(rng):
            image = self.apply(op, image, magnitude, sign)
        return image

    def draw(self, rng: np.random.Generator) -> list[tuple[str, float, int]]:
        """Draws the operations to apply, each with its magnitude and a sign of 1 or -1."""
        drawn = []
        for index in rng.integers(len(OPERATIONS), size=self.num_ops):
            if rng.random() < self.prob:
                magnitude = rng.normal(self.magnitude, self.magnitude_std)
                sign = 1 if rng.random() < 0.5 else -1
                drawn.append((OPERATIONS[index], min(max(magnitude, 0.0), 10.0), sign))
        return drawn

    def apply(self, op: str, image: np.ndarray, magnitude: float, sign: int) -> np.ndarray:
        """Applies one of OPERATIONS. The ranges are timm's."""
        level = magnitude / 10
        factor = 1 + 0.9 * level * sign if self.increasing else 0.1 + 1.8 * level
        match op:
            case "AutoContrast":
                return operations.auto_contrast(image)
            case "Equalize":
                return operations.equalize(image)
            case "Invert":
                return operations.invert(image)
            case "Rotate":
                return operations.rotate(image, 30 * level * sign, self.fill)
            case "Posterize":
                bits = int(4 * level)
                return operations.posterize(image, 4 - bits if self.increasing else bits)
            case "Solarize":
                threshold = int(256 * level)
                return operations.solarize(image, 256 - threshold if self.increasing else threshold)
            case "SolarizeAdd":
                return operations.solarize_add(image, int(110 * level))
            case "Color":
                return operations.color(image, factor)
            case "Contrast":
                return operations.contrast(image, factor)
            case "Brightness":
                return operations.brightness(image, factor)
            case "Sharpness":
                return operations.sharpness(image, factor)
            case "ShearX":
                return operations.shear_x(image, 0.3 * level * sign, self.fill)
            case "ShearY":
                return operations.shear_y(image, 0.3 * level * sign, self.fill)
            case "TranslateX":
                return operations.translate_x(image, 0.45 * level * sign, self.fill)
            case "TranslateY":
                return operations.translate_y(image, 0.45 * level * sign, self.fill)
        raise InputError(f"the operation is {op!r}", ", ".join(OPERATIONS))
