"""The data sets: what is in each, and how hard it is.

Results are reported on `shapes`, `letters`, `scenes` and `textures`. `symbols`, `toys` and
`fabrics` are to tune a recipe on, and `world` is to train start weights on. No two sets share a
class or a typeface.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dev.drawing import glyphs, pictures
from dev.drawing.fabrics import FABRICS
from dev.drawing.outlines import OUTLINES, WORLD_OUTLINES
from dev.drawing.textures import TEXTURES
from dev.drawing.things import THINGS
from dev.drawing.toys import TOYS
from dev.drawing.world_outdoors import OUTDOORS
from dev.drawing.world_surfaces import WORLD_SURFACES
from dev.drawing.world_things import WORLD_THINGS

LETTERS = {letter: letter for letter in "ABCDEFGHIJ"}
SYMBOLS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
           "eight": "8", "nine": "9"}  # fmt: skip
SIGNS = {"question": "?", "ampersand": "&", "hash": "#", "percent": "%"}
WORLD_GLYPHS = {letter: letter for letter in "KLMNOPQRSTUVWXYZ"} | SIGNS


class DrawnSet(NamedTuple):
    """A data set."""

    description: str
    side: int  # square root of an image's area, pixels
    # Clutter, contrast, blur and noise: 0 is plain, and at 1 a person barely tells the classes.
    difficulty: float
    pictures: Mapping[str, Callable[..., np.ndarray]]  # of each class

    def draw(
        self, label: str, split: str, rng: np.random.Generator, side: int | None = None
    ) -> np.ndarray:
        """Returns an image of the class, uint8 [H, W, 3], for a split, "train" or "val"."""
        side = self.side if side is None else side
        return self.pictures[label](split, rng, side, self.difficulty)


def _alike(picture: Callable, table: Mapping[str, Any]) -> dict[str, Callable]:
    """Pictures that are of the same kind in both splits."""
    return {
        label: lambda split, *rest, what=what: picture(what, *rest) for label, what in table.items()
    }


def _in_faces(first: int, count: int, characters: Mapping[str, str]) -> dict[str, Callable]:
    """Glyphs, in those of the typefaces from `first` on that a split may use."""
    faces = {split: glyphs.faces(first, count, split) for split in ("train", "val")}
    return {
        label: lambda split, *rest, character=character: pictures.glyph(
            character, faces[split], *rest
        )
        for label, character in characters.items()
    }


SETS = {
    "shapes": DrawnSet(
        "outlines between lines and pebbles", 104, 0.25, _alike(pictures.outline, OUTLINES)
    ),
    "letters": DrawnSet("A to J in made-up typefaces", 64, 0.3, _in_faces(0, 220, LETTERS)),
    "scenes": DrawnSet("an object among clutter", 112, 0.4, _alike(pictures.scene, THINGS)),
    "textures": DrawnSet("surfaces, partly covered", 104, 0.5, _alike(pictures.surface, TEXTURES)),
    "symbols": DrawnSet("2 to 9 in other typefaces", 64, 0.4, _in_faces(1000, 220, SYMBOLS)),
    "toys": DrawnSet("toys among clutter", 104, 0.4, _alike(pictures.scene, TOYS)),
    "fabrics": DrawnSet("woven and sewn surfaces", 104, 0.5, _alike(pictures.surface, FABRICS)),
    "world": DrawnSet(
        "objects, outlines, surfaces and glyphs that no other set has",
        96,
        0.4,
        _alike(pictures.scene, OUTDOORS | WORLD_THINGS)
        | _alike(pictures.outline, WORLD_OUTLINES)
        | _alike(pictures.surface, WORLD_SURFACES)
        | _in_faces(2000, 1000, WORLD_GLYPHS),
    ),
}
