"""Letters, digits and signs in typefaces that are made up, each by a number: a skeleton of strokes,
and a pen that goes along it.

A face decides weight, contrast, slant, width, squareness, serifs, alternative forms and how shaky
the hand is; the same number is the same face for ever.
"""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np

from dev.drawing import ground

VAL_SHARE = 5  # one face in so many is for validation images alone


class Face(NamedTuple):
    """What all glyphs of a typeface share. Lengths are in heights of a capital letter."""

    weight: float  # width of a stroke
    contrast: float  # 0 to 1: how much thinner it is along `pen`
    pen: float  # angle, radians
    slant: float  # shear
    width: float  # of a letter
    square: float  # exponent of round parts: 2 is an ellipse
    waist: float  # how far the middle is above or below a half
    serif: float  # half its length, or 0
    slab: float  # its thickness
    round_ends: bool
    alternates: float  # probability of another form, if a glyph has one
    hand: float  # how far a stroke misses
    hollow: float  # width of what is left out inside of a stroke, of the stroke, or 0
    gaps: float  # share of a stroke that is missing, or 0


def face(number: int) -> Face:
    rng = np.random.default_rng((0xFACE, number))
    serif = rng.choice([0, 0, 1])
    weight = np.exp(rng.uniform(np.log(0.06), np.log(0.24)))
    return Face(
        weight=weight,
        contrast=rng.choice([0, rng.uniform(0.2, 0.75)]),
        pen=rng.choice([0, rng.uniform(-0.8, 0.8)]),
        slant=rng.choice([0, 0, rng.uniform(-0.1, 0.4)]),
        width=rng.uniform(0.5, 1.05),
        square=rng.choice([2, 2, rng.uniform(1.5, 6)]),
        waist=rng.choice([0, rng.uniform(-0.14, 0.14)]),
        serif=serif * rng.uniform(0.08, 0.2),
        slab=rng.uniform(0.03, 0.5 * weight + 0.05),
        round_ends=rng.random() < 0.4,
        alternates=rng.choice([0, 0.5, 1]),
        hand=rng.choice([0, 0, rng.uniform(0.01, 0.05)]),
        hollow=rng.choice([0, 0, 0, rng.uniform(0.3, 0.7)]) * (weight > 0.13),
        gaps=rng.choice([0] * 9 + [rng.uniform(0.1, 0.35)]),
    )


def faces(first: int, count: int, split: str) -> list[int]:
    """Returns those of the faces from `first` on that a split, "train" or "val", may use."""
    return [n for n in range(first, first + count) if (n % VAL_SHARE == 0) == (split == "val")]


def mask(
    rng: np.random.Generator,
    character: str,
    style: Face,
    place: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """Returns where the glyph is, uint8 [H, W]; `place` takes -1 to 1 to pixels."""
    strokes = [_bent(rng, stroke, style) for stroke in _skeleton(rng, character, style)]
    low, high = np.min([s.min(0) for s in strokes], 0), np.max([s.max(0) for s in strokes], 0)
    middle = (low + high) / 2
    strokes = [(stroke - middle) * 1.7 for stroke in strokes]
    ink = np.zeros(shape, np.uint8)
    for stroke in strokes:
        _drag(ink, _with_gaps(rng, stroke, style), style, 1.7 * style.weight, place)
        if style.serif:
            _add_serifs(ink, stroke, style, place)
    if style.hollow:
        inside = np.zeros(shape, np.uint8)
        for stroke in strokes:
            _drag(inside, [stroke], style, 1.7 * style.weight * style.hollow, place)
        ink = cv2.subtract(ink, inside)
    return ink


def _bent(rng, stroke, style):
    """The stroke, in x and y from 0 to 1, as the face has it."""
    x, y = stroke.T
    y = y + style.waist * np.sin(np.pi * np.clip(y, 0, 1))
    x = (x - 0.5) * style.width - style.slant * (y - 0.5)
    if style.hand:
        steps = np.linspace(0, 1, len(stroke))
        knots = rng.normal(0, style.hand, (2, 5))
        x = x + np.interp(steps, np.linspace(0, 1, 5), knots[0])
        y = y + np.interp(steps, np.linspace(0, 1, 5), knots[1])
    return np.column_stack((x, y))


def _with_gaps(rng, stroke, style):
    if not style.gaps or len(stroke) < 12:
        return [stroke]
    count = int(rng.integers(1, 4))
    pieces = np.array_split(stroke, count + 1)
    return [piece[: max(2, round(len(piece) * (1 - style.gaps)))] for piece in pieces]


def _drag(ink, strokes, style, weight, place):
    """Fills what a pen covers: each step is a quadrangle, and each point may be a disc."""
    for stroke in strokes:
        steps = np.diff(stroke, axis=0)
        steps /= np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-9)
        thin = np.abs(steps @ (np.cos(style.pen), np.sin(style.pen)))
        half = weight / 2 * (1 - style.contrast * thin**2)[:, None]
        normals = half * steps[:, ::-1] * (1, -1)
        overlap = 0.5 * half * steps  # so that corners are closed
        start, end = stroke[:-1] - overlap, stroke[1:] + overlap
        quads = np.stack((start + normals, end + normals, end - normals, start - normals), 1)
        for quad in quads:
            ground.fill(ink, [ground.placed(quad, place)], 255)
        if style.round_ends:
            for point, radius in ((stroke[0], half[0, 0]), (stroke[-1], half[-1, 0])):
                disc = point + radius * np.column_stack((np.cos(ROUND), np.sin(ROUND)))
                ground.fill(ink, [ground.placed(disc, place)], 255)


ROUND = np.linspace(0, 2 * np.pi, 16, endpoint=False)


def _add_serifs(ink, stroke, style, place):
    """Feet at those ends of a stroke that stand on the line or hang from the top."""
    for end, inner in ((stroke[0], stroke[1]), (stroke[-1], stroke[-2])):
        rise = abs(end[1] - inner[1]) > abs(end[0] - inner[0])
        if rise and abs(end[1]) > 0.6:
            half = (1.7 * (style.serif + style.weight / 2), 1.7 * style.slab / 2)
            corners = end + half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
            ground.fill(ink, [ground.placed(corners, place)], 255)


def _skeleton(rng, character, style):
    forms, others = _forms(style.square)
    alternate = rng.random() < style.alternates
    return others[character] if alternate and character in others else forms[character]


@cache
def _forms(square):
    """Strokes of each glyph, [N, 2] in x and y (downwards) from 0 to 1, and other forms of some."""

    def line(*numbers):
        corners = np.reshape(numbers, (-1, 2)).astype(float)
        pieces = [np.linspace(a, b, 7) for a, b in pairwise(corners)]
        return np.concatenate(pieces)

    def arc(x, y, width, height, start, end):
        """From a start to an end in degrees; 0 is right and 90 down."""
        angles = np.radians(np.linspace(start, end, max(5, abs(end - start) // 12)))
        cos, sin = np.cos(angles), np.sin(angles)
        power = 2 / square
        x = x + width * np.sign(cos) * np.abs(cos) ** power
        return np.column_stack((x, y + height * np.sign(sin) * np.abs(sin) ** power))

    def path(*parts):
        return np.concatenate([np.reshape(part, (-1, 2)).astype(float) for part in parts])

    stem, ring = line(0, 0, 0, 1), arc(0.5, 0.5, 0.5, 0.5, 0, 360)
    bowl = path((0, 0), arc(0.5, 0.27, 0.45, 0.27, -90, 90), (0, 0.54))
    dot = line(0.5, 0.94, 0.5, 0.98)
    forms = {
        "A": [line(0, 1, 0.5, 0, 1, 1), line(0.17, 0.66, 0.83, 0.66)],
        "B": [
            stem,
            path((0, 0), arc(0.45, 0.25, 0.45, 0.25, -90, 90), (0, 0.5)),
            path((0, 0.5), arc(0.5, 0.75, 0.5, 0.25, -90, 90), (0, 1)),
        ],
        "C": [arc(0.5, 0.5, 0.5, 0.5, -45, -315)],
        "D": [stem, path((0, 0), arc(0.4, 0.5, 0.6, 0.5, -90, 90), (0, 1))],
        "E": [stem, line(0, 0, 0.9, 0), line(0, 0.5, 0.75, 0.5), line(0, 1, 0.9, 1)],
        "F": [stem, line(0, 0, 0.9, 0), line(0, 0.5, 0.75, 0.5)],
        "G": [path(arc(0.5, 0.5, 0.5, 0.5, -45, -360), (0.55, 0.5))],
        "H": [stem, line(1, 0, 1, 1), line(0, 0.5, 1, 0.5)],
        "I": [line(0.5, 0, 0.5, 1)],
        "J": [path((0.7, 0), arc(0.35, 0.68, 0.35, 0.32, 0, 180))],
        "K": [stem, line(0.95, 0, 0, 0.6), line(0.3, 0.42, 1, 1)],
        "L": [line(0, 0, 0, 1, 0.9, 1)],
        "M": [line(0, 1, 0.05, 0, 0.5, 0.75, 0.95, 0, 1, 1)],
        "N": [line(0, 1, 0, 0, 1, 1, 1, 0)],
        "O": [ring],
        "P": [stem, bowl],
        "Q": [ring, line(0.6, 0.7, 1, 1.08)],
        "R": [stem, bowl, line(0.45, 0.54, 1, 1)],
        "S": [
            path(arc(0.5, 0.25, 0.45, 0.25, -30, -270), arc(0.5, 0.75, 0.48, 0.25, -90, 150)),
        ],
        "T": [line(0, 0, 1, 0), line(0.5, 0, 0.5, 1)],
        "U": [path((0, 0), arc(0.5, 0.62, 0.5, 0.38, 180, 0), (1, 0))],
        "V": [line(0, 0, 0.5, 1, 1, 0)],
        "W": [line(0, 0, 0.25, 1, 0.5, 0.2, 0.75, 1, 1, 0)],
        "X": [line(0, 0, 1, 1), line(1, 0, 0, 1)],
        "Y": [line(0, 0, 0.5, 0.5, 1, 0), line(0.5, 0.5, 0.5, 1)],
        "Z": [line(0, 0, 1, 0, 0, 1, 1, 1)],
        "2": [path(arc(0.5, 0.28, 0.45, 0.28, -170, 20), (0, 1), (1, 1))],
        "3": [arc(0.45, 0.25, 0.42, 0.25, -150, 90), arc(0.45, 0.75, 0.48, 0.25, -90, 150)],
        "4": [line(0.72, 1, 0.72, 0, 0, 0.7, 1, 0.7)],
        "5": [path((0.9, 0), (0.15, 0), (0.1, 0.45), arc(0.45, 0.67, 0.47, 0.33, -110, 140))],
        "6": [arc(0.5, 0.68, 0.45, 0.32, 0, 360), arc(0.75, 0.68, 0.7, 0.68, -90, -180)],
        "7": [line(0, 0, 1, 0, 0.35, 1)],
        "8": [arc(0.5, 0.26, 0.38, 0.26, 0, 360), arc(0.5, 0.75, 0.47, 0.25, 0, 360)],
        "9": [arc(0.5, 0.32, 0.45, 0.32, 0, 360), arc(0.25, 0.32, 0.7, 0.68, 0, 90)],
        "?": [path(arc(0.5, 0.28, 0.42, 0.28, -170, 60), (0.5, 0.62), (0.5, 0.74)), dot],
        "&": [
            path(
                (1, 1),
                (0.22, 0.28),
                arc(0.45, 0.2, 0.25, 0.2, 160, 380),
                (0.15, 0.6),
                arc(0.4, 0.77, 0.35, 0.23, 200, 0),
                (0.95, 0.5),
            )
        ],
        "#": [
            line(0.3, 0, 0.2, 1),
            line(0.8, 0, 0.7, 1),
            line(0, 0.33, 1, 0.33),
            line(0, 0.67, 1, 0.67),
        ],
        "%": [
            line(0.9, 0, 0.1, 1),
            arc(0.2, 0.22, 0.2, 0.22, 0, 360),
            arc(0.8, 0.78, 0.2, 0.22, 0, 360),
        ],
    }
    bars = [line(0.2, 0, 0.8, 0), line(0.2, 1, 0.8, 1)]
    others = {
        "A": [path((0, 1), arc(0.5, 0.5, 0.5, 0.5, 180, 360), (1, 1)), line(0, 0.6, 1, 0.6)],
        "C": [path((1, 0), arc(0.45, 0.5, 0.45, 0.5, -90, -270), (1, 1))],
        "D": [path((0, 0), arc(0.3, 0.5, 0.7, 0.5, -90, 90), (0, 1), (0.05, 0.02))],
        "E": [arc(0.6, 0.5, 0.6, 0.5, -60, -300), line(0.05, 0.5, 0.8, 0.5)],
        "G": [arc(0.5, 0.5, 0.5, 0.5, -45, -330), line(0.55, 0.55, 0.93, 0.55, 0.93, 1)],
        "H": [stem, path((0, 0.55), arc(0.5, 0.75, 0.5, 0.3, -180, 0), (1, 1))],
        "I": [line(0.5, 0, 0.5, 1), *bars],
        "J": [path((0.7, 0), arc(0.35, 0.68, 0.35, 0.32, 0, 180)), line(0.2, 0, 1, 0)],
        "M": [line(0, 1, 0, 0, 0.5, 0.5, 1, 0, 1, 1)],
        "W": [
            path((0, 0), arc(0.25, 0.7, 0.25, 0.3, 180, 0), (0.5, 0.3)),
            path(arc(0.75, 0.7, 0.25, 0.3, 180, 0), (1, 0)),
        ],
        "4": [line(0.25, 0, 0.05, 0.6, 1, 0.6), line(0.7, 0.3, 0.7, 1)],
        "7": [line(0, 0, 1, 0, 0.35, 1), line(0.35, 0.5, 0.95, 0.5)],
        "3": [path((0.05, 0), (0.9, 0), (0.4, 0.4), arc(0.42, 0.7, 0.5, 0.3, -90, 150))],
        "6": [arc(0.5, 0.68, 0.45, 0.32, 0, 360), line(0.1, 0.55, 0.6, 0)],
        "9": [arc(0.5, 0.32, 0.45, 0.32, 0, 360), line(0.95, 0.3, 0.95, 1)],
    }
    return forms, others
