"""One picture of a class: an outline, a glyph, an object or a surface, as a photograph has it.

Each function takes what is drawn, a numpy Generator, the side of the picture in pixels and a
difficulty of 0 to 1 (dev/drawing/ground.py), and returns uint8 [H, W, 3].
"""

from collections.abc import Callable

import cv2
import numpy as np

from dev.drawing import glyphs, ground, objects, surfaces

Rng = np.random.Generator


def outline(
    contours: Callable[[Rng], list[np.ndarray]], rng: Rng, side: int, difficulty: float
) -> np.ndarray:
    """A shape of any colour, filled or a line, between lines and pebbles on a textured ground."""
    shape = _shape(rng, side)
    image = ground.cloudy(rng, shape)
    ground.strewn(rng, image, int(rng.integers(0, 3 + round(10 * difficulty))))
    scale = 0.75 - 0.45 * difficulty, 0.95 - 0.15 * difficulty
    place = ground.placement(rng, shape, scale=scale, stretch=0.25 * difficulty)
    points = [ground.placed(contour, place) for contour in contours(rng)]
    center = np.clip(place[:2, 2].astype(int), 0, np.array(shape[::-1]) - 1)
    color = ground.apart(rng, image[center[1], center[0]], 0.32 - 0.22 * difficulty)
    mask = np.zeros(shape, np.uint8)
    ground.fill(mask, points, 255)
    if rng.random() < 0.4:
        mask = _rim(rng, mask, place)
    filled = ground.blend(ground.noise(rng, shape, cells=6), color, color * rng.uniform(0.6, 1))
    image = ground.blend(mask / np.float32(255), image, filled)
    ground.strewn(rng, image, int(rng.integers(0, 1 + round(4 * difficulty))))
    return ground.photographed(rng, image, difficulty)


def _rim(rng, mask, place):
    """The mask less what is inside, as a thick line leaves it."""
    width = 0.15 * rng.uniform(0.6, 1.5) * np.sqrt(abs(np.linalg.det(place[:2, :2])))
    size = 2 * max(1, round(width)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.subtract(mask, cv2.erode(mask, kernel))


def glyph(character: str, numbers: list[int], rng: Rng, side: int, difficulty: float) -> np.ndarray:
    """A character in one of the faces, black, white or coloured, on a plain or cloudy ground."""
    shape = side, side
    style = glyphs.face(int(rng.choice(numbers)))
    kind = rng.integers(4)
    if kind == 0:
        paper, ink = np.full(3, 255), rng.integers(0, 60, 3)
    elif kind == 1:
        paper, ink = rng.integers(0, 60, 3), np.full(3, 255)
    else:
        paper = ground.color(rng)
        ink = ground.apart(rng, paper, 0.35 - 0.2 * difficulty)
    image = ground.blend(ground.ramp(rng, shape) * rng.uniform(0, 0.25), paper, ink)
    if rng.random() < difficulty:
        image = ground.blend(ground.noise(rng, shape, cells=4), image, ground.color(rng) * 0.2)
    place = ground.placement(
        rng,
        shape,
        scale=(0.8 - 0.3 * difficulty, 0.95),
        turn=0.1 + 0.4 * difficulty,
        stretch=0.25 * difficulty,
        inside=0.95,
    )
    mask = glyphs.mask(rng, character, style, place, shape)
    image = ground.blend(mask / np.float32(255), image, ink)
    ground.strewn(rng, image, int(rng.integers(0, 1 + round(6 * difficulty**2))))
    return ground.photographed(rng, image, difficulty)


def scene(
    thing: Callable[[Rng], list[objects.Part]], rng: Rng, side: int, difficulty: float
) -> np.ndarray:
    """A thing among others of no class, in any light, some of it hidden."""
    shape = _shape(rng, side)
    image = ground.cloudy(rng, shape)
    light = rng.uniform(0, 2 * np.pi)

    def add(parts, scale, turn, inside):
        place = ground.placement(rng, shape, scale=scale, turn=turn, inside=inside)
        return objects.paint(rng, image, parts, place, light)

    for _ in range(rng.integers(0, 2 + round(6 * difficulty))):
        image = add(objects.junk(rng), (0.15, 0.6), np.pi, 0)
    if rng.random() < 0.3:
        ground.strewn(rng, image, int(rng.integers(0, 5)))
    scale = 0.7 - 0.45 * difficulty, 0.95 - 0.1 * difficulty
    image = add(thing(rng), scale, 0.3 + 0.5 * difficulty, 1 - 0.25 * difficulty)
    for _ in range(rng.integers(0, 1 + round(3 * difficulty))):
        image = add(objects.junk(rng), (0.1, 0.12 + 0.2 * difficulty), np.pi, 0)
    return ground.photographed(rng, image, difficulty)


def surface(
    pattern: Callable[[Rng, np.ndarray, np.ndarray], np.ndarray],
    rng: Rng,
    side: int,
    difficulty: float,
) -> np.ndarray:
    """A surface at any scale and angle, at times with something that lies on it."""
    shape = _shape(rng, side)
    periods = 5 - 2 * difficulty, 8 + 4 * difficulty
    u, v = surfaces.coordinates(rng, shape, periods, rng.uniform(0, 0.6 * difficulty))
    field = np.clip(pattern(rng, u, v), 0, 1).astype(np.float32)
    image = surfaces.colored(rng, 1 - field if rng.random() < 0.5 else field, difficulty)
    if rng.random() < difficulty:
        place = ground.placement(rng, shape, scale=(0.3, 0.4 + 0.5 * difficulty), inside=0)
        image = objects.paint(rng, image, objects.junk(rng), place, rng.uniform(0, 2 * np.pi))
    return ground.photographed(rng, image, difficulty)


def _shape(rng, side):
    """Height and width: `side` squared in area, and up to 4:3 either way."""
    ratio = np.exp(rng.uniform(-1, 1) * np.log(4 / 3) / 2)
    return round(side * ratio), round(side / ratio)
