"""Things that are put together from parts, and how they are painted into a picture.

A part is a slot of the thing's palette and contours [N, 2], in x and y (downwards) of -1 to 1; a
contour inside another is a hole.
"""

from typing import NamedTuple

import cv2
import numpy as np

from dev.drawing import ground

BODY, SECOND, THIRD, DARK, LIGHT = range(5)


class Part(NamedTuple):
    """One colour of a thing."""

    slot: int
    contours: list[np.ndarray]


def poly(slot: int, *numbers: float) -> Part:
    """A polygon of x, y, x, y, ..."""
    return Part(slot, [np.reshape(numbers, (-1, 2)).astype(float)])


def box(slot: int, left: float, top: float, right: float, bottom: float) -> Part:
    return poly(slot, left, top, right, top, right, bottom, left, bottom)


def arc(x, y, width, height=None, start=0.0, end=360.0) -> np.ndarray:
    """Points of an ellipse of these radii; 0 degrees is right and 90 down."""
    height = width if height is None else height
    angles = np.radians(np.linspace(start, end, max(6, int(abs(end - start) / 12))))
    return np.column_stack((x + width * np.cos(angles), y + height * np.sin(angles)))


def disc(slot: int, x, y, width, height=None, start=0.0, end=360.0) -> Part:
    """An ellipse, or a piece of one."""
    return Part(slot, [arc(x, y, width, height, start, end)])


def ring(slot: int, x, y, width, height=None, inner=0.7) -> Part:
    height = width if height is None else height
    return Part(slot, [arc(x, y, width, height), arc(x, y, width * inner, height * inner)])


def line(slot: int, width: float, *numbers: float) -> Part:
    """A line of this width through x, y, x, y, ..."""
    return stroke(slot, width, np.reshape(numbers, (-1, 2)).astype(float))


def stroke(slot: int, width: float, points: np.ndarray) -> Part:
    """A line of this width through points [N, 2]."""
    tangents = np.gradient(points, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-9)
    side = width / 2 * tangents[:, ::-1] * (1, -1)
    return Part(slot, [np.concatenate((points + side, (points - side)[::-1]))])


def palette(rng: np.random.Generator) -> list[np.ndarray]:
    """Returns a colour for each slot. Only DARK and LIGHT are dark and light in every palette."""
    colors = [ground.color(rng) for _ in range(3)]
    dark = ground.color(rng) * rng.uniform(0.1, 0.35)
    light = 255 - (255 - ground.color(rng).astype(float)) * rng.uniform(0.05, 0.3)
    return [*colors, dark, light]


def junk(rng: np.random.Generator) -> list[Part]:
    """A thing of no class: some parts in a heap."""
    parts = []
    for slot in rng.integers(0, 5, rng.integers(1, 5)):
        x, y, width, height = *rng.uniform(-0.6, 0.6, 2), *rng.uniform(0.1, 0.7, 2)
        kind = rng.integers(4)
        if kind == 0:
            parts.append(box(slot, x - width, y - height, x + width, y + height))
        elif kind == 1:
            parts.append(disc(slot, x, y, width, height))
        elif kind == 2:
            parts.append(Part(slot, [(x, y) + ground.blob(rng) * (width, height)]))
        else:
            parts.append(line(slot, rng.uniform(0.05, 0.25), *rng.uniform(-1, 1, 4)))
    return parts


def paint(
    rng: np.random.Generator,
    image: np.ndarray,
    parts: list[Part],
    place: np.ndarray,
    light: float,
) -> np.ndarray:
    """Returns the image with the thing in it, its shadow beside it and lit from an angle `light`.

    Parts of one slot differ a little, the surface has a grain, and edges are rounded by light.
    """
    shape = image.shape[:2]
    layer, mask = image.copy(), np.zeros(shape, np.uint8)
    colors = palette(rng)
    for part in parts:
        contours = [ground.placed(points, place) for points in part.contours]
        value = np.clip(colors[part.slot] * rng.uniform(0.85, 1.1), 0, 255)
        ground.fill(layer, contours, tuple(map(int, value)))
        ground.fill(mask, contours, 255)
    alpha = mask * np.float32(1 / 255)
    size = max(2.0, np.sqrt(np.abs(np.linalg.det(place[:2, :2]))))
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.12 * size)
    towards = np.cos(light), np.sin(light)
    slope = cv2.Sobel(soft, -1, 1, 0, ksize=3) * towards[0]
    slope += cv2.Sobel(soft, -1, 0, 1, ksize=3) * towards[1]
    shade = 1 - np.clip(slope * 0.1 * size * rng.uniform(0.2, 1.0), -0.4, 0.4)
    grain = ground.noise(rng, shape, cells=rng.uniform(3, 24), octaves=3)
    shade *= 1 + rng.uniform(0.05, 0.5) * (grain - 0.5)
    reach = 0.15 * size * rng.uniform(0.2, 1.5)
    moved = np.float32([[1, 0, reach * towards[0]], [0, 1, reach * towards[1]]])
    shadow = cv2.warpAffine(soft, moved, shape[::-1])
    below = image * (1 - rng.uniform(0.1, 0.7) * shadow)[..., None]
    mixed = below + (layer * shade[..., None] - below) * alpha[..., None]
    return np.clip(mixed, 0, 255).astype(np.uint8)
