"""Tools, clothes, furniture and food of `world`: each function returns one thing's parts."""

import numpy as np

from dev.drawing.objects import (
    BODY,
    DARK,
    LIGHT,
    SECOND,
    THIRD,
    box,
    disc,
    line,
    poly,
    ring,
)


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


def candle(rng):
    half, height = rng.uniform(0.15, 0.3), rng.uniform(-0.4, 0)
    return [
        disc(SECOND, 0, 0.85, 0.65, 0.15),
        ring(SECOND, 0.7, 0.8, 0.2, inner=0.6),
        box(BODY, -half, height, half, 0.82),
        line(DARK, 0.05, 0, height, 0, height - 0.15),
        poly(LIGHT, -0.14, height - 0.25, 0, height - 0.65, 0.14, height - 0.25, 0, height - 0.1),
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


def lamp(rng):
    shade, top = rng.uniform(0.55, 0.75), rng.uniform(0.25, 0.4)
    return [
        disc(DARK, 0, 0.9, 0.42, 0.12),
        line(DARK, 0.1, 0, 0, 0, 0.9),
        disc(LIGHT, 0, 0.05, 0.14),
        poly(BODY, -top, -0.85, top, -0.85, shade, 0, -shade, 0),
        line(THIRD, 0.04, 0.3, 0, 0.3, 0.35),
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


WORLD_THINGS = {
    "bed": bed,
    "bell": bell,
    "book": book,
    "bottle": bottle,
    "candle": candle,
    "clock": clock,
    "crown": crown,
    "envelope": envelope,
    "glasses": glasses,
    "guitar": guitar,
    "hammer": hammer,
    "hat": hat,
    "ice_cream": ice_cream,
    "key": key,
    "ladder": ladder,
    "lamp": lamp,
    "scissors": scissors,
    "shirt": shirt,
    "spoon": spoon,
    "sword": sword,
    "table": table,
}
