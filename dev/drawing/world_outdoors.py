"""Animals, plants, buildings and vehicles of `world`: each function returns one thing's parts."""

import numpy as np

from dev.drawing.objects import (
    BODY,
    DARK,
    LIGHT,
    SECOND,
    THIRD,
    Part,
    arc,
    box,
    disc,
    line,
    poly,
    ring,
    stroke,
)


def airplane(rng):
    half, wing = rng.uniform(0.1, 0.17), rng.uniform(0.6, 0.95)
    return [
        poly(SECOND, -0.1, 0, 0.3, 0, -0.1, wing, -0.4, wing),
        poly(SECOND, -0.1, 0, 0.3, 0, -0.1, -wing, -0.4, -wing),
        poly(THIRD, -0.95, 0.4, -0.75, 0, -0.95, -0.4, -1, -0.4, -1, 0.4),
        disc(BODY, 0, 0, 1, half),
        disc(LIGHT, 0.75, 0, 0.1, 0.6 * half),
    ]


def anchor(rng):
    width, reach = rng.uniform(0.12, 0.2), rng.uniform(25, 45)
    return [
        ring(BODY, 0, -0.8, 0.2, inner=0.5),
        line(BODY, width, 0, -0.65, 0, 0.8),
        line(BODY, width, -0.4, -0.4, 0.4, -0.4),
        stroke(BODY, width, arc(0, 0.05, 0.8, 0.85, reach - 20, 200 - reach)),
        poly(BODY, 0.62, 0.42, 0.92, 0.05, 0.98, 0.5),
        poly(BODY, -0.62, 0.42, -0.92, 0.05, -0.98, 0.5),
    ]


def balloon(rng):
    wide = rng.uniform(0.55, 0.7)
    swing = rng.uniform(-0.25, 0.25)
    return [
        line(DARK, 0.04, 0, 0.35, swing, 0.6, -swing, 0.8, 0, 1),
        poly(BODY, -0.1, 0.42, 0.1, 0.42, 0, 0.25),
        disc(BODY, 0, -0.3, wide, 0.66),
        disc(LIGHT, -0.4 * wide, -0.55, 0.1, 0.15),
    ]


def bridge(rng):
    rise = rng.uniform(0.5, 0.8)
    return [
        box(BODY, -1, -0.1, 1, 0.6),
        Part(SECOND, [arc(0, 0.7, 0.75, rise, 180, 360)]),
        box(DARK, -1, -0.22, 1, -0.08),
        *(line(THIRD, 0.05, x, -0.45, x, -0.1) for x in np.linspace(-0.9, 0.9, 7)),
        line(THIRD, 0.06, -1, -0.45, 1, -0.45),
    ]


def butterfly(rng):
    upper, lower = rng.uniform(0.4, 0.52), rng.uniform(0.28, 0.4)
    wings = [
        part
        for side in (-1, 1)
        for part in (
            disc(BODY, side * 0.48, -0.3, upper, 0.42),
            disc(SECOND, side * 0.4, 0.38, lower, 0.38),
            disc(THIRD, side * 0.55, -0.35, 0.4 * upper, 0.18),
            line(DARK, 0.05, side * 0.03, -0.4, side * 0.25, -0.85),
        )
    ]
    return [*wings, disc(DARK, 0, 0, 0.09, 0.6)]


def cactus(rng):
    left, right, half = rng.uniform(-0.1, 0.35), rng.uniform(-0.3, 0.2), rng.uniform(0.16, 0.24)
    return [
        poly(SECOND, -0.45, 0.55, 0.45, 0.55, 0.32, 1, -0.32, 1),
        disc(BODY, 0, -0.65, half, 0.25),
        box(BODY, -half, -0.65, half, 0.55),
        line(BODY, 0.2, 0, left + 0.2, -0.6, left + 0.2, -0.6, left - 0.35),
        line(BODY, 0.2, 0, right + 0.2, 0.6, right + 0.2, 0.6, right - 0.3),
        disc(THIRD, 0, -0.9, 0.1),
    ]


def castle(rng):
    tower, wall = rng.uniform(0.2, 0.3), rng.uniform(-0.1, 0.15)
    battlements = [
        box(BODY, x, wall - 0.18, x + 0.14, wall + 0.02) for x in np.arange(-0.5, 0.5, 0.25)
    ]
    roofs = [
        part
        for side in (-1, 1)
        for part in (
            box(SECOND, side * 0.75 - tower, -0.4, side * 0.75 + tower, 0.8),
            poly(
                THIRD,
                side * 0.75 - tower - 0.08,
                -0.4,
                side * 0.75 + tower + 0.08,
                -0.4,
                side * 0.75,
                -1,
            ),
            box(DARK, side * 0.75 - 0.06, -0.1, side * 0.75 + 0.06, 0.15),
        )
    ]
    return [
        *battlements,
        box(BODY, -0.6, wall, 0.6, 0.8),
        *roofs,
        disc(DARK, 0, 0.8, 0.22, 0.5, 180, 360),
    ]


def cat(rng):
    ear, cheek = rng.uniform(0.8, 1), rng.uniform(0.65, 0.8)
    whiskers = [
        line(LIGHT, 0.04, side * 0.2, 0.3, side * 0.95, y) for y in (0.2, 0.45) for side in (-1, 1)
    ]
    ears = [
        part
        for side in (-1, 1)
        for part in (
            poly(BODY, side * 0.75, -0.1, side * 0.7, -ear, side * 0.15, -0.5),
            poly(SECOND, side * 0.6, -0.3, side * 0.6, -ear + 0.2, side * 0.28, -0.5),
        )
    ]
    eyes = [disc(LIGHT, side * 0.32, -0.05, 0.16, 0.12) for side in (-1, 1)]
    pupils = [disc(DARK, side * 0.32, -0.05, 0.05, 0.12) for side in (-1, 1)]
    return [
        *ears,
        disc(BODY, 0, 0.1, cheek, 0.68),
        *eyes,
        *pupils,
        poly(THIRD, -0.1, 0.22, 0.1, 0.22, 0, 0.35),
        *whiskers,
    ]


def fence(rng):
    count, rail = int(rng.integers(4, 7)), rng.uniform(-0.25, -0.05)
    pales = []
    for x in np.linspace(-0.85, 0.85, count):
        w = 0.55 / count
        pales.append(poly(BODY, x - w, 0.8, x - w, -0.5, x, -0.8, x + w, -0.5, x + w, 0.8))
    return [box(SECOND, -1, rail, 1, rail + 0.13), box(SECOND, -1, 0.4, 1, 0.53), *pales]


def ladybird(rng):
    places = [(-0.4, -0.1), (0.4, -0.1), (-0.3, 0.4), (0.3, 0.4)]
    spots = [disc(DARK, x, y, rng.uniform(0.08, 0.14)) for x, y in places]
    legs = [line(DARK, 0.07, -0.95, y + 0.15, 0, y, 0.95, y + 0.15) for y in (-0.2, 0.15, 0.5)]
    return [
        *legs,
        disc(DARK, 0, -0.6, 0.32, 0.25),
        disc(BODY, 0, 0.15, 0.75, 0.72),
        line(DARK, 0.06, 0, -0.55, 0, 0.85),
        *spots,
    ]


def mushroom(rng):
    cap, stem = rng.uniform(0.7, 0.95), rng.uniform(0.18, 0.3)
    places = [(-0.45, -0.45), (0, -0.6), (0.4, -0.5)]
    spots = [disc(LIGHT, x, y, rng.uniform(0.07, 0.13)) for x, y in places]
    return [
        poly(SECOND, -0.7 * stem, -0.1, 0.7 * stem, -0.1, stem, 0.9, -stem, 0.9),
        disc(BODY, 0, 0, cap, rng.uniform(0.7, 0.95), 180, 360),
        *spots,
        disc(THIRD, 0, 0, cap, 0.12, 0, 180),
    ]


def pear(rng):
    wide, lean = rng.uniform(0.5, 0.62), rng.uniform(-0.15, 0.15)
    return [
        line(DARK, 0.08, lean, -0.6, 1.8 * lean, -1),
        disc(THIRD, 0.25, -0.8, 0.22, 0.1),
        disc(BODY, 0, 0.35, wide, 0.6),
        disc(BODY, 0.7 * lean, -0.25, 0.55 * wide, 0.5),
        poly(BODY, -0.5 * wide, -0.35, 0.5 * wide, -0.35, 0.93 * wide, 0.2, -0.93 * wide, 0.2),
    ]


def snail(rng):
    shell = rng.uniform(0.48, 0.6)
    t = np.linspace(0, 4 * np.pi, 40)
    turns = np.column_stack((np.cos(t), np.sin(t))) * (shell * t / t[-1])[:, None]
    turns += np.array((-0.15, 0.05))
    return [
        poly(BODY, -1, 0.75, -0.6, 0.4, 0.5, 0.4, 0.6, -0.2, 0.9, -0.25, 0.95, 0.6, 0.6, 0.8),
        line(BODY, 0.06, 0.7, -0.2, 0.6, -0.6),
        line(BODY, 0.06, 0.85, -0.2, 0.95, -0.6),
        disc(SECOND, -0.15, 0.05, shell),
        stroke(DARK, 0.08, turns),
    ]


def snowman(rng):
    low, middle = rng.uniform(0.45, 0.55), rng.uniform(0.33, 0.4)
    return [
        line(DARK, 0.06, -0.3, -0.05, -0.9, rng.uniform(-0.5, 0.1)),
        line(DARK, 0.06, 0.3, -0.05, 0.9, rng.uniform(-0.5, 0.1)),
        disc(BODY, 0, 0.55, low),
        disc(BODY, 0, -0.05, middle),
        disc(BODY, 0, -0.55, 0.27),
        box(SECOND, -0.3, -0.4, 0.3, -0.3),
        box(DARK, -0.33, -0.8, 0.33, -0.72),
        box(DARK, -0.2, -1.05, 0.2, -0.75),
        poly(THIRD, 0, -0.6, 0.35, -0.52, 0, -0.48),
        *(disc(DARK, 0, y, 0.05) for y in (-0.15, 0.05, 0.35)),
    ]


def spider(rng):
    body, legs = rng.uniform(0.28, 0.4), []
    for side in (-1, 1):
        for y, knee in ((-0.5, -0.75), (-0.15, -0.3), (0.15, 0.35), (0.45, 0.85)):
            foot = y * 1.6 + rng.uniform(-0.1, 0.1)
            legs.append(line(DARK, 0.07, 0, 0, side * 0.55, knee, side * 0.95, foot))
    return [*legs, disc(BODY, 0, 0.25, body, 0.42), disc(SECOND, 0, -0.25, 0.22)]


def tent(rng):
    top, door = rng.uniform(-0.8, -0.5), rng.uniform(0.15, 0.3)
    return [
        poly(SECOND, 0, top, 0.5, top + 0.1, 1.05, 0.6, 0.75, 0.7),
        poly(BODY, 0, top, 0.75, 0.7, -0.75, 0.7),
        poly(DARK, 0, top + 0.4, door, 0.7, -door, 0.7),
        line(THIRD, 0.05, 0, top - 0.1, 0, top + 0.45),
        line(DARK, 0.03, 0, top, -1.05, 0.7),
    ]


def truck(rng):
    cab, load = rng.uniform(0.3, 0.5), rng.uniform(-0.75, -0.3)
    wheels = [
        part
        for x in (-0.65, -0.25, 0.65)
        for part in (disc(DARK, x, 0.5, 0.2), disc(LIGHT, x, 0.5, 0.08))
    ]
    return [
        box(BODY, -1, load, cab - 0.05, 0.4),
        poly(SECOND, cab, 0.4, cab, -0.35, cab + 0.3, -0.35, 1, 0.05, 1, 0.4),
        poly(LIGHT, cab + 0.08, -0.05, cab + 0.08, -0.27, cab + 0.28, -0.27, cab + 0.45, -0.05),
        *wheels,
    ]


def turtle(rng):
    shell = rng.uniform(0.5, 0.65)
    return [
        *(disc(BODY, x, 0.4, 0.16, 0.24) for x in (-0.5, 0.45)),
        disc(BODY, 0.85, 0.0, 0.24, 0.18),
        disc(DARK, 0.92, -0.05, 0.04),
        poly(BODY, -0.95, 0.35, -0.6, 0.1, -0.6, 0.35),
        disc(SECOND, 0, 0.3, 0.75, shell, 180, 360),
        *(disc(THIRD, x, 0.02, 0.14, 0.13) for x in (-0.35, 0, 0.35)),
        box(DARK, -0.75, 0.27, 0.75, 0.36),
    ]


def windmill(rng):
    start, parts = rng.uniform(0, 90), []
    for angle in np.radians(start + 90 * np.arange(4)):
        along = np.array((np.cos(angle), np.sin(angle)))
        across = along[::-1] * (-1, 1)
        hub, side = np.array((0, -0.3)), 0.22 * across
        sail = [0.15 * along, 0.85 * along, 0.85 * along + side, 0.15 * along + side]
        parts.append(Part(LIGHT, [hub + sail]))
        parts.append(line(DARK, 0.05, *hub, *(hub + 0.9 * along)))
    half = rng.uniform(0.35, 0.48)
    return [
        poly(BODY, -0.25, -0.35, 0.25, -0.35, half, 1, -half, 1),
        poly(SECOND, -0.32, -0.35, 0.32, -0.35, 0, -0.75),
        disc(DARK, 0, 1, 0.14, 0.35, 180, 360),
        *parts,
        disc(THIRD, 0, -0.3, 0.08),
    ]


OUTDOORS = {
    "airplane": airplane,
    "anchor": anchor,
    "balloon": balloon,
    "bridge": bridge,
    "butterfly": butterfly,
    "cactus": cactus,
    "castle": castle,
    "cat": cat,
    "fence": fence,
    "ladybird": ladybird,
    "mushroom": mushroom,
    "pear": pear,
    "snail": snail,
    "snowman": snowman,
    "spider": spider,
    "tent": tent,
    "truck": truck,
    "turtle": turtle,
    "windmill": windmill,
}
