"""The objects of `world`: each function returns one thing's parts, never twice the same."""

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


def bed(rng):
    head, depth = rng.uniform(-0.6, -0.3), rng.uniform(0.1, 0.25)
    return [
        box(DARK, -1, head, -0.88, 0.7),
        box(DARK, 0.88, -0.1, 1, 0.7),
        box(SECOND, -0.9, 0.1, 0.9, 0.1 + depth + 0.2),
        disc(LIGHT, -0.6, 0.02, 0.25, 0.13),
        poly(BODY, -0.3, -0.05, 0.9, -0.05, 0.9, 0.3, -0.3, 0.3),
    ]


def bell(rng):
    wide = rng.uniform(0.7, 0.9)
    return [
        disc(DARK, 0, 0.72, 0.17),
        ring(THIRD, 0, -0.85, 0.15, inner=0.5),
        disc(BODY, 0, -0.1, 0.55 * wide, 0.65, 180, 360),
        poly(BODY, -0.55 * wide, -0.12, 0.55 * wide, -0.12, wide, 0.6, -wide, 0.6),
        box(SECOND, -wide, 0.5, wide, 0.65),
    ]


def book(rng):
    lean, rows = rng.uniform(0.05, 0.2), rng.integers(2, 5)
    lines = [
        line(DARK, 0.05, side * 0.15, y, side * 0.75, y - lean)
        for y in np.linspace(-0.3, 0.4, rows)
        for side in (-1, 1)
    ]
    return [
        poly(BODY, 0, -0.5, 1, -0.5 - lean, 1, 0.6 - lean, 0, 0.7, -1, 0.6 - lean, -1, -0.5 - lean),
        poly(LIGHT, 0, -0.5, 0.92, -0.55 - lean, 0.92, 0.5 - lean, 0, 0.6),
        poly(LIGHT, 0, -0.5, -0.92, -0.55 - lean, -0.92, 0.5 - lean, 0, 0.6),
        line(SECOND, 0.05, 0, -0.5, 0, 0.62),
        *lines,
    ]


def bottle(rng):
    half, neck, shoulder = rng.uniform(0.25, 0.4), rng.uniform(0.08, 0.14), rng.uniform(-0.4, 0)
    return [
        box(SECOND, -neck, -1, neck, -0.88),
        poly(
            BODY,
            -neck,
            -0.9,
            neck,
            -0.9,
            neck,
            shoulder - 0.25,
            half,
            shoulder + 0.1,
            half,
            0.95,
            -half,
            0.95,
            -half,
            shoulder + 0.1,
            -neck,
            shoulder - 0.25,
        ),
        box(LIGHT, -half, 0.2, half, rng.uniform(0.5, 0.75)),
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


def candle(rng):
    half, height = rng.uniform(0.15, 0.3), rng.uniform(-0.4, 0)
    return [
        disc(SECOND, 0, 0.85, 0.65, 0.15),
        ring(SECOND, 0.7, 0.8, 0.2, inner=0.6),
        box(BODY, -half, height, half, 0.82),
        line(DARK, 0.05, 0, height, 0, height - 0.15),
        poly(LIGHT, -0.14, height - 0.25, 0, height - 0.65, 0.14, height - 0.25, 0, height - 0.1),
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


def clock(rng):
    hour, minute = rng.uniform(0, 2 * np.pi, 2)
    angles = np.arange(12) * np.pi / 6
    marks = [disc(DARK, 0.65 * np.cos(a), 0.65 * np.sin(a), 0.05) for a in angles]
    return [
        disc(BODY, 0, 0, 0.95),
        disc(LIGHT, 0, 0, rng.uniform(0.72, 0.82)),
        *marks,
        line(DARK, 0.1, 0, 0, 0.4 * np.cos(hour), 0.4 * np.sin(hour)),
        line(DARK, 0.06, 0, 0, 0.6 * np.cos(minute), 0.6 * np.sin(minute)),
        disc(SECOND, 0, 0, 0.09),
    ]


def crown(rng):
    peak = rng.uniform(-0.7, -0.4)
    gems = [disc(THIRD, x, 0.5, 0.1) for x in (-0.5, 0, 0.5)]
    balls = [disc(SECOND, x, peak - (0.15 if x == 0 else 0), 0.12) for x in (-0.9, 0, 0.9)]
    return [
        poly(BODY, -0.8, 0.7, -0.9, peak, -0.4, 0.1, 0, peak - 0.15, 0.4, 0.1, 0.9, peak, 0.8, 0.7),
        box(SECOND, -0.8, 0.35, 0.8, 0.65),
        *gems,
        *balls,
    ]


def envelope(rng):
    half, fold = rng.uniform(0.5, 0.7), rng.uniform(0, 0.25)
    return [
        box(BODY, -1, -half, 1, half),
        poly(SECOND, -1, -half, 1, -half, 0, fold),
        line(DARK, 0.05, -1, -half, 0, fold, 1, -half),
        line(DARK, 0.04, -1, half, -0.3, 0),
        line(DARK, 0.04, 1, half, 0.3, 0),
        disc(THIRD, 0, fold, 0.15),
    ]


def fence(rng):
    count, rail = int(rng.integers(4, 7)), rng.uniform(-0.25, -0.05)
    pales = []
    for x in np.linspace(-0.85, 0.85, count):
        w = 0.55 / count
        pales.append(poly(BODY, x - w, 0.8, x - w, -0.5, x, -0.8, x + w, -0.5, x + w, 0.8))
    return [box(SECOND, -1, rail, 1, rail + 0.13), box(SECOND, -1, 0.4, 1, 0.53), *pales]


def glasses(rng):
    lens, high = rng.uniform(0.34, 0.44), rng.uniform(0.25, 0.42)
    return [
        *(disc(LIGHT, side * 0.52, 0, 0.9 * lens, 0.9 * high) for side in (-1, 1)),
        *(ring(BODY, side * 0.52, 0, lens, high, 0.78) for side in (-1, 1)),
        line(BODY, 0.09, -0.2, -0.1, 0, -0.18, 0.2, -0.1),
        line(SECOND, 0.09, -0.9, -0.05, -1.05, -0.4),
        line(SECOND, 0.09, 0.9, -0.05, 1.05, -0.4),
    ]


def guitar(rng):
    lower, upper = rng.uniform(0.45, 0.55), rng.uniform(0.3, 0.38)
    return [
        box(SECOND, -0.08, -0.85, 0.08, 0.2),
        box(DARK, -0.14, -1.05, 0.14, -0.8),
        disc(BODY, 0, 0.55, lower, 0.45),
        disc(BODY, 0, 0.05, upper, 0.33),
        disc(DARK, 0, 0.25, 0.15),
        line(LIGHT, 0.03, 0, -0.9, 0, 0.7),
        box(DARK, -0.2, 0.65, 0.2, 0.73),
    ]


def hammer(rng):
    half, handle = rng.uniform(0.35, 0.55), rng.uniform(0.09, 0.15)
    return [
        box(SECOND, -handle, -0.6, handle, 1),
        box(BODY, -half, -0.95, half, -0.5),
        poly(BODY, half, -0.9, half + 0.35, -0.75, half, -0.55),
        box(DARK, -half - 0.12, -0.97, -half, -0.48),
    ]


def hat(rng):
    half, tall = rng.uniform(0.4, 0.55), rng.uniform(-0.9, -0.4)
    return [
        poly(BODY, -half, 0.4, -0.9 * half, tall, 0.9 * half, tall, half, 0.4),
        disc(BODY, 0, tall, 0.9 * half, 0.1),
        box(SECOND, -half, 0.1, half, 0.4),
        disc(BODY, 0, 0.45, 1, rng.uniform(0.13, 0.22)),
    ]


def ice_cream(rng):
    scoop, half = rng.uniform(0.33, 0.4), rng.uniform(0.36, 0.46)
    scoops = [disc(SECOND, -0.25, -0.25, scoop), disc(THIRD, 0.25, -0.25, scoop)]
    scoops += [disc(LIGHT, 0, -0.6, scoop)] if rng.random() < 0.6 else []
    return [
        *scoops,
        poly(BODY, -half - 0.05, -0.15, half + 0.05, -0.15, 0, 1),
        line(DARK, 0.04, -half, -0.1, 0.15, 0.6),
        line(DARK, 0.04, half, -0.1, -0.15, 0.6),
    ]


def key(rng):
    bow, teeth = rng.uniform(0.3, 0.4), rng.uniform(0.2, 0.32)
    return [
        ring(BODY, -0.62, 0, bow, inner=rng.uniform(0.4, 0.65)),
        line(BODY, 0.15, -0.3, 0, 1, 0),
        box(BODY, 0.8, 0, 0.95, teeth),
        box(BODY, 0.5, 0, 0.65, 0.8 * teeth),
    ]


def ladder(rng):
    top, rungs = rng.uniform(0.25, 0.4), int(rng.integers(4, 7))
    steps = [line(SECOND, 0.1, -0.45, y, 0.45, y) for y in np.linspace(-0.8, 0.8, rungs)]
    return [*steps, line(BODY, 0.13, -0.5, 1, -top, -1), line(BODY, 0.13, 0.5, 1, top, -1)]


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


def lamp(rng):
    shade, top = rng.uniform(0.55, 0.75), rng.uniform(0.25, 0.4)
    return [
        disc(DARK, 0, 0.9, 0.42, 0.12),
        line(DARK, 0.1, 0, 0, 0, 0.9),
        disc(LIGHT, 0, 0.05, 0.14),
        poly(BODY, -top, -0.85, top, -0.85, shade, 0, -shade, 0),
        line(THIRD, 0.04, 0.3, 0, 0.3, 0.35),
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


def scissors(rng):
    spread = rng.uniform(0.2, 0.5)
    return [
        part
        for side in (-1, 1)
        for part in (
            poly(LIGHT, side * 0.08, 0.15, -side * spread, -1, -side * 0.12, 0),
            line(BODY, 0.1, 0, 0, side * 0.35, 0.45),
            ring(BODY if side < 0 else SECOND, side * 0.42, 0.68, 0.26, 0.3, 0.6),
        )
    ] + [disc(DARK, 0, 0.02, 0.07)]


def shirt(rng):
    sleeve, low = rng.uniform(0, 0.35), rng.uniform(0.7, 0.95)
    return [
        poly(
            BODY,
            -0.3,
            -0.7,
            -0.55,
            -0.65,
            -1,
            sleeve - 0.2,
            -0.75,
            sleeve,
            -0.5,
            -0.2,
            -0.5,
            low,
            0.5,
            low,
            0.5,
            -0.2,
            0.75,
            sleeve,
            1,
            sleeve - 0.2,
            0.55,
            -0.65,
            0.3,
            -0.7,
        ),
        disc(SECOND, 0, -0.7, 0.3, 0.2, 0, 180),
        box(THIRD, -0.5, 0.1, 0.5, rng.uniform(0.2, 0.45)),
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


def spoon(rng):
    wide = rng.uniform(0.25, 0.38)
    return [
        poly(BODY, -0.06, -0.2, 0.06, -0.2, rng.uniform(0.09, 0.14), 1, -0.1, 1),
        disc(BODY, 0, -0.55, wide, 0.42),
        disc(SECOND, 0, -0.53, 0.72 * wide, 0.3),
    ]


def sword(rng):
    half, guard = rng.uniform(0.08, 0.14), rng.uniform(0.3, 0.45)
    return [
        poly(LIGHT, -half, 0.4, -half, -0.8, 0, -1, half, -0.8, half, 0.4),
        line(THIRD, 0.03, 0, -0.85, 0, 0.4),
        box(BODY, -guard, 0.38, guard, 0.5),
        box(SECOND, -0.07, 0.5, 0.07, 0.85),
        disc(BODY, 0, 0.9, 0.12),
    ]


def table(rng):
    high, inset = rng.uniform(-0.5, -0.2), rng.uniform(0, 0.2)
    return [
        *(box(SECOND, x - 0.06, high, x + 0.06, 0.8) for x in (inset - 0.9, 0.9 - inset)),
        *(box(DARK, x - 0.05, high, x + 0.05, 0.6) for x in (-0.5, 0.5)),
        poly(BODY, -1, high, -0.7, high - 0.25, 0.7, high - 0.25, 1, high),
        box(BODY, -1, high - 0.01, 1, high + 0.1),
    ]


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


WORLD_OBJECTS = {
    thing.__name__: thing
    for thing in (
        airplane, anchor, balloon, bed, bell, book, bottle, bridge, butterfly, cactus, candle,
        castle, cat, clock, crown, envelope, fence, glasses, guitar, hammer, hat, ice_cream, key,
        ladder, ladybird, lamp, mushroom, pear, scissors, shirt, snail, snowman, spider, spoon,
        sword, table, tent, truck, turtle, windmill,
    )
}  # fmt: skip
