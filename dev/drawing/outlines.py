"""Outlines that are told by their shape alone: `shapes`, and those of `world`.

Each function returns contours [N, 2], in x and y (downwards) of -1 to 1; one inside another is a
hole.
"""

import numpy as np

from dev.drawing.objects import arc, stroke


def polygon(corners: int, depth: float = 1.0) -> np.ndarray:
    """A regular polygon, or with a depth below 1 a star."""
    angles = np.arange(2 * corners) * np.pi / corners - np.pi / 2
    radii = np.where(np.arange(2 * corners) % 2, depth * np.cos(np.pi / corners), 1.0)
    return radii[:, None] * np.column_stack((np.cos(angles), np.sin(angles)))


def xy(*numbers: float) -> list[np.ndarray]:
    return [np.reshape(numbers, (-1, 2)).astype(float)]


def regular(corners: int, least: float = 1.0, most: float = 1.0):
    """A class: the polygon or star of so many corners, and a depth between two."""
    return lambda rng: [polygon(corners, rng.uniform(least, most))]


def arrow(rng):
    shaft, head, barb = rng.uniform(0.12, 0.25), rng.uniform(0, 0.4), rng.uniform(0.5, 0.75)
    return xy(-1, -shaft, head, -shaft, head, -barb, 1, 0, head, barb, head, shaft, -1, shaft)


def crescent(rng):
    reach, shift = rng.uniform(0.72, 0.9), rng.uniform(0.35, 0.5)
    x = (1 - reach**2 + shift**2) / (2 * shift)  # where the two circles cross
    horn, inner = np.degrees(np.arccos(x)), np.degrees(np.arccos((x - shift) / reach))
    outside = arc(0, 0, 1, 1, horn, 360 - horn)
    return [np.concatenate((outside, arc(shift, 0, reach, reach, 360 - inner, inner)))]


def cross(rng):
    a, b = rng.uniform(0.2, 0.36), rng.uniform(0.8, 1)
    return xy(-a, -b, a, -b, a, -a, b, -a, b, a, a, a, a, b, -a, b, -a, a, -b, a, -b, -a, -a, -a)


def ellipse(rng):
    return [arc(0, 0, 1, rng.uniform(0.55, 0.8))]


OUTLINES = {
    "arrow": arrow,
    "crescent": crescent,
    "cross": cross,
    "ellipse": ellipse,
    "hexagon": regular(6),
    "pentagon": regular(5),
    "star_5": regular(5, 0.45, 0.7),
    "star_6": regular(6, 0.5, 0.75),
    "star_7": regular(7, 0.5, 0.75),
    "triangle": regular(3),
}


def ring(rng):
    return [arc(0, 0, 1), arc(0, 0, rng.uniform(0.5, 0.75))]


def semicircle(rng):
    return [arc(0, 0.4, 1, rng.uniform(0.8, 1.1), 180, 360)]


def quarter(rng):
    return [np.concatenate(([(-0.7, 0.7)], arc(-0.7, 0.7, 1.5, 1.5, -90, 0)))]


def kite(rng):
    return xy(0, -1, rng.uniform(0.5, 0.7), -0.3, 0, 1, -0.6, -0.3)


def trapezoid(rng):
    top, height = rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.7)
    return xy(-top, -height, top, -height, 1, height, -1, height)


def parallelogram(rng):
    lean, height = rng.uniform(0.35, 0.6), rng.uniform(0.4, 0.6)
    return xy(-1 + lean, -height, 1, -height, 1 - lean, height, -1, height)


def square(rng):
    return xy(-0.8, -0.8, 0.8, -0.8, 0.8, 0.8, -0.8, 0.8)


def corner(rng):
    wide = rng.uniform(-0.4, -0.1)
    return xy(-0.8, -1, wide, -1, wide, 0.5 - wide / 2, 0.9, 0.5 - wide / 2, 0.9, 1, -0.8, 1)


def tee(rng):
    half, thick = rng.uniform(0.18, 0.32), rng.uniform(-0.5, -0.2)
    return xy(-1, -1, 1, -1, 1, thick, half, thick, half, 1, -half, 1, -half, thick, -1, thick)


def horseshoe(rng):
    thick, end = rng.uniform(0.35, 0.6), rng.uniform(20, 50)
    outer = arc(0, 0, 1, 1, end, -180 - end)
    return [np.concatenate((outer, (1 - thick) * outer[::-1]))]


def zigzag(rng):
    width, high = rng.uniform(0.25, 0.45), rng.uniform(0.4, 0.6)
    points = np.array([(-1, high), (-0.5, -high), (0, high), (0.5, -high), (1, high)])
    return stroke(0, width, points).contours


def heart(rng):
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.column_stack((16 * np.sin(t) ** 3, -y)) / 17]


def drop(rng):
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    power = rng.uniform(1.5, 2.5)
    return [np.column_stack((0.75 * np.sin(t) * np.sin(t / 2) ** power * 1.2, np.cos(t) * -1))]


def bolt(rng):
    return xy(0.2, -1, -0.55, 0.15, -0.05, 0.1, -0.25, 1, 0.55, -0.25, 0.05, -0.2, 0.5, -1)


def spiral(rng):
    t = np.linspace(0, rng.uniform(2.2, 3) * 2 * np.pi, 60)
    points = (0.15 + 0.85 * t / t[-1])[:, None] * np.column_stack((np.cos(t), np.sin(t)))
    return stroke(0, rng.uniform(0.1, 0.17), points).contours


def gear(rng):
    teeth = int(rng.integers(8, 13))
    t = np.linspace(0, 2 * np.pi, teeth * 12, endpoint=False)
    radii = np.where(np.sin(teeth * t) > 0, 1.0, 0.78)
    outer = radii[:, None] * np.column_stack((np.cos(t), np.sin(t)))
    return [outer, arc(0, 0, rng.uniform(0.25, 0.45))]


def angle_bracket(rng):
    thick = rng.uniform(0.35, 0.6)
    return xy(-0.6, -1, thick - 0.6, -1, 0.7, 0, thick - 0.6, 1, -0.6, 1, 0.7 - thick, 0)


def hourglass(rng):
    waist = rng.uniform(0.08, 0.2)
    return xy(-0.75, -1, 0.75, -1, waist, 0, 0.75, 1, -0.75, 1, -waist, 0)


def star_4(rng):
    return [polygon(4, rng.uniform(0.4, 0.6))]


def clover(rng):
    t = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    radii = 0.62 + rng.uniform(0.28, 0.38) * np.cos(4 * t)
    return [radii[:, None] * np.column_stack((np.cos(t), np.sin(t)))]


def frame(rng):
    (outer,) = xy(-1, -0.8, 1, -0.8, 1, 0.8, -1, 0.8)
    return [outer, rng.uniform(0.5, 0.7) * outer]


WORLD_OUTLINES = {
    "angle_bracket": angle_bracket,
    "bolt": bolt,
    "clover": clover,
    "corner": corner,
    "drop": drop,
    "frame": frame,
    "gear": gear,
    "heart": heart,
    "horseshoe": horseshoe,
    "hourglass": hourglass,
    "kite": kite,
    "parallelogram": parallelogram,
    "quarter": quarter,
    "ring": ring,
    "semicircle": semicircle,
    "spiral": spiral,
    "square": square,
    "star_4": star_4,
    "tee": tee,
    "trapezoid": trapezoid,
    "zigzag": zigzag,
}
