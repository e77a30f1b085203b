"""Surfaces that are told by their statistics: `textures`, `fabrics` and those of `world`.

Each function takes coordinates u and v, float32 [H, W] whose unit is one period of the pattern,
and returns a field of 0 to 1.
"""

import cv2
import numpy as np

from dev.drawing import ground


def coordinates(
    rng: np.random.Generator, shape: tuple[int, int], periods: tuple[float, float], warp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns u and v at any angle: so many periods on the shorter side, least and most; seen
    at a slant, and bent by noise of `warp` periods."""
    height, width = shape
    scale = np.exp(rng.uniform(*np.log(periods))) / min(shape)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = x - width / 2, y - height / 2
    tilt = rng.uniform(-0.25, 0.25, 2) / min(shape) * 2
    depth = 1 + tilt[0] * x + tilt[1] * y
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    ratio = np.exp(rng.uniform(-0.2, 0.2))
    u = (cos * x - sin * y) / depth * scale * ratio + rng.uniform(0, 50)
    v = (sin * x + cos * y) / depth * scale / ratio + rng.uniform(0, 50)
    if warp:
        bend = [ground.noise(rng, shape, cells=2, octaves=2) - 0.5 for _ in range(2)]
        u, v = u + 2 * warp * bend[0], v + 2 * warp * bend[1]
    return u.astype(np.float32), v.astype(np.float32)


def colored(rng: np.random.Generator, field: np.ndarray, difficulty: float) -> np.ndarray:
    """Returns the field in two colours, with dirt and relief."""
    shape = field.shape
    first = ground.color(rng)
    second = ground.apart(rng, first, 0.3 - 0.22 * difficulty)
    image = ground.blend(field, first, second)
    dirt = ground.noise(rng, shape, cells=rng.uniform(2, 20))
    image = ground.blend(dirt * rng.uniform(0, 0.15 + 0.5 * difficulty), image, ground.color(rng))
    if rng.random() < 0.5:  # light from a side makes heights visible
        relief = cv2.Sobel(field, -1, 1, 0, ksize=3) * rng.uniform(-0.2, 0.2)
        image = np.clip(image * (1 + relief)[..., None], 0, 255).astype(np.uint8)
    return image


def step(x: np.ndarray, softness: float = 0.08) -> np.ndarray:
    """0 below 0 and 1 above, over so much of a period."""
    return np.clip(x / softness + 0.5, 0, 1)


def wave(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.cos(2 * np.pi * x)


def fold(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number, 0 to 0.5."""
    return np.abs(x - np.round(x))


def chance(*cells: np.ndarray, salt: int = 0) -> np.ndarray:
    """A number of 0 to 1 for each whole-numbered cell, always the same."""
    mixed = np.full(cells[0].shape, salt * 0x9E3779B9 & 0xFFFFFFFF, np.uint32)
    for cell, prime in zip(cells, (0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F), strict=False):
        mixed = (mixed ^ cell.astype(np.int64).astype(np.uint32)) * np.uint32(prime)
        mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x2C1B3C6D)
    mixed ^= mixed >> np.uint32(12)
    return (mixed & np.uint32(0xFFFF)).astype(np.float32) / 65535


def cells(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, loose: float = 0.9):
    """Distances to the nearest and the next point of one in each cell, and a number of the nearest
    point. loose: 0 is a grid, 1 any place in the cell."""
    salt = int(rng.integers(1 << 16))
    column, row = np.floor(u), np.floor(v)
    first = np.full(u.shape, 9, np.float32)
    second, name = first.copy(), first.copy()
    for j in (-1, 0, 1):
        for i in (-1, 0, 1):
            x, y = column + i, row + j
            a, b = chance(x, y, salt=salt), chance(x, y, salt=salt + 1)
            distance = np.hypot(x + 0.5 + loose * (a - 0.5) - u, y + 0.5 + loose * (b - 0.5) - v)
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            name = np.where(nearer, a, name)
            first = np.where(nearer, distance, first)
    return first, second, name
