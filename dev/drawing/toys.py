"""The objects of the set `toys`: each function returns one toy's parts, never twice the same."""

import numpy as np

from dev.drawing.objects import BODY, DARK, LIGHT, SECOND, THIRD, Part, box, disc, line, poly


def boat(rng: np.random.Generator) -> list[Part]:
    bow, mast = rng.uniform(0.8, 1), rng.uniform(-0.15, 0.15)
    top, sail = rng.uniform(-1, -0.8), rng.uniform(0.45, 0.75)
    return [
        line(DARK, 0.07, mast, top, mast, 0.4),
        poly(SECOND, mast + 0.05, top, mast + 0.05 + sail, 0.25, mast + 0.05, 0.25),
        poly(THIRD, mast - 0.06, top + 0.2, mast - 0.06 - 0.7 * sail, 0.25, mast - 0.06, 0.25),
        poly(BODY, -bow, 0.35, bow, 0.35, 0.65 * bow, rng.uniform(0.7, 0.9), -0.6, 0.8),
    ]


def rocket(rng: np.random.Generator) -> list[Part]:
    half, fin = rng.uniform(0.22, 0.36), rng.uniform(0.25, 0.45)
    windows = [disc(LIGHT, 0, y, 0.6 * half) for y in (-0.3, 0.15)[: rng.integers(1, 3)]]
    return [
        poly(SECOND, -half, 0.1, -half - fin, 0.75, -half, 0.6),
        poly(SECOND, half, 0.1, half + fin, 0.75, half, 0.6),
        poly(THIRD, -0.6 * half, 0.6, 0.6 * half, 0.6, 0, rng.uniform(0.85, 1.1)),
        box(BODY, -half, -0.5, half, 0.62),
        disc(SECOND, 0, -0.5, half, rng.uniform(0.4, 0.5), 180, 360),
        *windows,
    ]


def robot(rng: np.random.Generator) -> list[Part]:
    head, body = rng.uniform(0.28, 0.42), rng.uniform(0.35, 0.52)
    lift = rng.uniform(-0.5, 0.5)
    eyes = [disc(LIGHT, side * 0.5 * head, -0.55, 0.25 * head) for side in (-1, 1)]
    return [
        line(DARK, 0.05, 0, -0.95, 0, -0.8),
        disc(THIRD, 0, -0.95, 0.07),
        box(SECOND, -head, -0.82, head, -0.28),
        line(DARK, 0.14, -body, 0, -body - 0.3, lift),
        line(DARK, 0.14, body, 0, body + 0.3, -lift),
        box(DARK, -0.7 * body, 0.5, -0.25 * body, 0.95),
        box(DARK, 0.25 * body, 0.5, 0.7 * body, 0.95),
        box(BODY, -body, -0.25, body, 0.55),
        box(THIRD, -0.5 * body, -0.05, 0.5 * body, 0.25),
        *eyes,
        box(DARK, -0.5 * head, -0.42, 0.5 * head, -0.35),
    ]


def locomotive(rng: np.random.Generator) -> list[Part]:
    cab, funnel = rng.uniform(-0.35, -0.1), rng.uniform(0.08, 0.14)
    wheels = [x for side in (-0.6, 0.0, 0.6) for x in _wheel(side, 0.55, rng.uniform(0.18, 0.24))]
    return [
        box(BODY, cab, -0.15, 0.85, 0.4),
        disc(BODY, 0.85, 0.12, 0.14, 0.27),
        box(SECOND, -0.9, -0.7, cab, 0.4),
        box(DARK, -1, -0.8, cab + 0.1, -0.66),
        box(LIGHT, -0.75, -0.5, cab - 0.12, -0.15),
        poly(DARK, 0.5, -0.15, 0.5 + 2 * funnel, -0.15, 0.56 + 2 * funnel, -0.6, 0.44, -0.6),
        disc(THIRD, 0.2, -0.15, 0.13, 0.16, 180, 360),
        poly(THIRD, 0.8, 0.4, 1, 0.62, 0.7, 0.62),
        *wheels,
    ]


def _wheel(x, y, radius):
    return [disc(DARK, x, y, radius), disc(LIGHT, x, y, 0.4 * radius)]


def duck(rng: np.random.Generator) -> list[Part]:
    head, up = rng.uniform(0.26, 0.36), rng.uniform(0.4, 0.55)
    return [
        poly(BODY, -0.55, 0.25, -1, rng.uniform(-0.35, -0.1), -0.5, 0.5),
        disc(BODY, -0.1, 0.35, 0.7, rng.uniform(0.42, 0.55)),
        disc(BODY, 0.42, -up, head),
        poly(BODY, 0.2, -up, 0.66, -up, 0.55, 0.3, 0.1, 0.2),
        poly(SECOND, 0.38 + head, -up - 0.08, 0.95, -up + 0.08, 0.4 + head, -up + 0.16),
        disc(LIGHT, 0.5, -up - 0.06, 0.09),
        disc(DARK, 0.52, -up - 0.06, 0.045),
        disc(THIRD, -0.2, 0.3, 0.38, 0.22, 0, 180),
    ]


def teddy(rng: np.random.Generator) -> list[Part]:
    head, ear = rng.uniform(0.36, 0.46), rng.uniform(0.14, 0.2)
    arm = rng.uniform(-0.15, 0.35)
    pairs = [(ear, 0.75 * head, -0.8), (0.2, 0.55, arm), (0.24, 0.38, 0.8)]
    limbs = [disc(BODY, side * x, y, size) for size, x, y in pairs for side in (-1, 1)]
    return [
        *limbs,
        disc(BODY, 0, 0.35, rng.uniform(0.45, 0.55), 0.5),
        disc(SECOND, 0, 0.4, 0.3, 0.34),
        disc(BODY, 0, -0.45, head, 0.9 * head),
        disc(SECOND, 0, -0.33, 0.45 * head, 0.35 * head),
        disc(DARK, 0, -0.4, 0.06, 0.045),
        disc(DARK, -0.4 * head, -0.55, 0.05),
        disc(DARK, 0.4 * head, -0.55, 0.05),
    ]


def ring_tower(rng: np.random.Generator) -> list[Part]:
    count, widths = int(rng.integers(3, 6)), rng.uniform(0.3, 0.4)
    height = 1.3 / count
    parts = [line(THIRD, 0.12, 0, -0.9, 0, 0.6), disc(DARK, 0, 0.85, 0.75, 0.16)]
    for level in range(count):
        width = widths + 0.35 * (count - level) / count
        y = 0.75 - (level + 0.5) * height
        slot = (BODY, SECOND, THIRD, LIGHT)[(level + int(widths * 100)) % 4]
        parts.append(disc(slot, 0, y, width, 0.55 * height))
    return parts


def top(rng: np.random.Generator) -> list[Part]:
    wide, belt = rng.uniform(0.7, 0.9), rng.uniform(-0.25, 0)
    return [
        line(DARK, 0.1, 0, -0.95, 0, belt),
        disc(THIRD, 0, -0.93, 0.14, 0.09),
        poly(BODY, -wide, belt, wide, belt, 0.12, 0.85, 0, 1, -0.12, 0.85),
        disc(SECOND, 0, belt, wide, rng.uniform(0.2, 0.32)),
        disc(LIGHT, 0, belt, 0.55 * wide, 0.13),
        line(THIRD, 0.14, -0.55 * wide, belt + 0.42, 0.55 * wide, belt + 0.42),
    ]


TOYS = {
    "boat": boat,
    "duck": duck,
    "locomotive": locomotive,
    "ring_tower": ring_tower,
    "robot": robot,
    "rocket": rocket,
    "teddy": teddy,
    "top": top,
}
