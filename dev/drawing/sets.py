"""The data sets: what each has, how hard it is, and how a picture of it is drawn.

`letters` and others of the first group are what results are reported on. `symbols`, `toys` and
`fabrics` are for tuning a recipe; they and `world`, which is for start weights, share no class with
any other set, and no typeface.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from dev.drawing import glyphs, pictures
from dev.drawing.fabrics import FABRICS
from dev.drawing.outlines import WORLD_OUTLINES
from dev.drawing.toys import TOYS
from dev.drawing.world_objects import WORLD_OBJECTS
from dev.drawing.world_surfaces import WORLD_SURFACES

# 0 is plain and 1 is what a person barely tells: it scales clutter, contrast, blur and noise.
DIFFICULTY = {
    "letters": 0.3,
    "symbols": 0.4,
    "toys": 0.4,
    "fabrics": 0.5,
    "world": 0.4,
}

# The typefaces of a set: the first, and how many.
FACES = {"letters": (0, 220), "symbols": (1000, 220), "world": (2000, 1000)}

SYMBOLS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
           "eight": "8", "nine": "9"}  # fmt: skip
SIGNS = {"question": "?", "ampersand": "&", "hash": "#", "percent": "%"}
WORLD_GLYPHS = {c: c for c in "KLMNOPQRSTUVWXYZ"} | SIGNS


class DrawnSet(NamedTuple):
    """draw(class, split, rng, side) returns an image, uint8 [H, W, 3]."""

    description: str
    classes: tuple[str, ...]
    side: int  # square root of an image's area, pixels
    draw: Callable[[str, str, np.random.Generator, int], np.ndarray]


def _glyph(name, characters, class_name, split, rng, side):
    faces = glyphs.faces(*FACES[name], split)
    return pictures.glyph(characters[class_name], faces, rng, side, DIFFICULTY[name])


def _scene(name, things, class_name, split, rng, side):
    return pictures.scene(things[class_name], rng, side, DIFFICULTY[name])


def _surface(name, patterns, class_name, split, rng, side):
    return pictures.surface(patterns[class_name], rng, side, DIFFICULTY[name])


def _world(class_name, split, rng, side):
    difficulty = DIFFICULTY["world"]
    if class_name in WORLD_GLYPHS:
        return _glyph("world", WORLD_GLYPHS, class_name, split, rng, side)
    if class_name in WORLD_OBJECTS:
        return pictures.scene(WORLD_OBJECTS[class_name], rng, side, difficulty)
    if class_name in WORLD_SURFACES:
        return pictures.surface(WORLD_SURFACES[class_name], rng, side, difficulty)
    return pictures.outline(WORLD_OUTLINES[class_name], rng, side, difficulty)


def _of(draw, name, table):
    return tuple(sorted(table)), partial(draw, name, table)


def _set(description, side, classes_and_draw):
    classes, draw = classes_and_draw
    return DrawnSet(description, classes, side, draw)


LETTERS = {c: c for c in "ABCDEFGHIJ"}
WORLD = tuple(sorted((*WORLD_GLYPHS, *WORLD_OBJECTS, *WORLD_OUTLINES, *WORLD_SURFACES)))

SETS = {
    "letters": _set("A to J in made-up typefaces", 64, _of(_glyph, "letters", LETTERS)),
    "symbols": _set("2 to 9 in other typefaces", 64, _of(_glyph, "symbols", SYMBOLS)),
    "toys": _set("toys among clutter", 104, _of(_scene, "toys", TOYS)),
    "fabrics": _set("woven and sewn surfaces", 104, _of(_surface, "fabrics", FABRICS)),
    "world": DrawnSet("objects, outlines, glyphs and surfaces", WORLD, 96, _world),
}
