"""The objects of `scenes`: each function returns one thing's parts, never twice the same."""

import numpy as np

from dev.drawing.objects import (
    BODY,
    DARK,
    LIGHT,
    SECOND,
    THIRD,
    arc,
    box,
    disc,
    line,
    poly,
    ring,
    stroke,
)


def bicycle(rng):
    radius, saddle = rng.uniform(0.36, 0.44), rng.uniform(-0.45, -0.3)
    y, width = 0.4, rng.uniform(0.06, 0.1)
    wheels = [ring(DARK, x, y, radius, inner=0.8) for x in (-0.58, 0.58)]
    spokes = [
        line(LIGHT, 0.03, x - radius * np.cos(a), y - radius * np.sin(a),
             x + radius * np.cos(a), y + radius * np.sin(a))
        for x in (-0.58, 0.58) for a in rng.uniform(0, 1) + np.arange(3) * np.pi / 3
    ]  # fmt: skip
    return [
        *spokes,
        *wheels,
        line(BODY, width, -0.58, y, -0.2, saddle + 0.15, 0.4, -0.25, -0.05, y, -0.58, y),
        line(BODY, width, -0.05, y, -0.25, saddle),
        line(BODY, width, 0.58, y, 0.38, -0.55),
        line(SECOND, 0.09, 0.25, -0.6, 0.4, -0.55, 0.6, rng.uniform(-0.7, -0.45)),
        disc(SECOND, -0.27, saddle, 0.2, 0.07),
        disc(THIRD, -0.05, y, 0.09),
    ]


def bird(rng):
    belly, tilt = rng.uniform(0.3, 0.42), rng.uniform(-0.3, 0.2)
    tail = rng.uniform(-0.1, 0.35)
    return [
        line(DARK, 0.05, -0.1, 0.4, -0.15, 0.85),
        line(DARK, 0.05, 0.12, 0.4, 0.1, 0.85),
        poly(SECOND, -0.4, 0, -1, tail - 0.1, -0.95, tail + 0.15, -0.4, 0.3),
        disc(BODY, 0, 0.1, 0.6, belly),
        disc(BODY, 0.5, -0.35, rng.uniform(0.22, 0.3)),
        poly(BODY, 0.2, -0.2, 0.6, -0.3, 0.55, 0.2, 0.2, 0.2),
        poly(THIRD, 0.7, -0.45, 1, -0.3, 0.7, -0.25),
        poly(SECOND, 0.25, -0.05, -0.6, tilt + 0.1, -0.35, 0.3, 0.1, 0.3),
        disc(LIGHT, 0.56, -0.42, 0.07),
        disc(DARK, 0.57, -0.42, 0.04),
    ]


def car(rng):
    roof, back, front = rng.uniform(-0.6, -0.35), rng.uniform(-0.75, -0.4), rng.uniform(0.1, 0.4)
    wheel, belt = rng.uniform(0.18, 0.25), -0.08
    middle = (back + front) / 2
    wheels = [disc(slot, x, 0.35, r) for x in (-0.55, 0.55)
              for slot, r in ((DARK, wheel), (LIGHT, 0.5 * wheel))]  # fmt: skip
    return [
        poly(BODY, -1, 0.35, -0.97, -0.05, back - 0.15, belt, back, roof, front, roof,
             front + 0.3, belt, 0.95, 0.02, 1, 0.35),
        poly(LIGHT, back - 0.04, belt, back + 0.06, roof + 0.08, middle - 0.03, roof + 0.08,
             middle - 0.03, belt),
        poly(LIGHT, middle + 0.03, belt, middle + 0.03, roof + 0.08, front - 0.02, roof + 0.08,
             front + 0.19, belt),
        line(SECOND, 0.05, -0.98, 0.15, 1, 0.18),
        disc(THIRD, 0.93, 0.1, 0.06),
        *wheels,
    ]  # fmt: skip


def chair(rng):
    seat, back, width = rng.uniform(-0.05, 0.15), rng.uniform(-1, -0.8), rng.uniform(0.07, 0.12)
    slats = [
        line(SECOND, width, -0.42, y, 0.3, y - 0.1)
        for y in np.linspace(back + 0.15, seat - 0.25, int(rng.integers(2, 5)))
    ]
    return [
        line(DARK, width, 0.3, seat - 0.1, 0.3, 0.7),
        line(DARK, width, -0.42, seat, -0.42, 0.85),
        *slats,
        line(BODY, width, -0.42, back, -0.42, seat),
        line(BODY, width, 0.3, back - 0.1, 0.3, seat - 0.1),
        poly(BODY, -0.5, seat, 0.32, seat - 0.12, 0.65, seat + 0.1, -0.2, seat + 0.25),
        line(DARK, width, -0.18, seat + 0.2, -0.18, 1),
        line(DARK, width, 0.6, seat + 0.1, 0.6, 0.88),
    ]


def fish(rng):
    high, tail = rng.uniform(0.3, 0.55), rng.uniform(0.3, 0.5)
    bands = [disc(THIRD, x, 0, 0.06, 0.75 * high) for x in (-0.15, 0.1)[: rng.integers(0, 3)]]
    return [
        poly(SECOND, -0.45, 0, -1, -tail, -0.8, 0, -1, tail),
        poly(SECOND, -0.3, -0.7 * high, 0.05, -high - 0.3, 0.3, -0.7 * high),
        poly(SECOND, 0, 0.7 * high, -0.2, high + 0.25, 0.25, 0.7 * high),
        disc(BODY, 0.15, 0, 0.75, high),
        *bands,
        poly(SECOND, 0.3, 0.1, 0, 0.3, 0.05, 0),
        disc(LIGHT, 0.62, -0.25 * high, 0.1),
        disc(DARK, 0.63, -0.25 * high, 0.05),
    ]


def flower(rng):
    count, reach = int(rng.integers(5, 9)), rng.uniform(0.32, 0.45)
    petals, start = [], rng.uniform(0, 6)
    for angle in start + 2 * np.pi * np.arange(count) / count:
        along = np.array((np.cos(angle), np.sin(angle)))
        leaf = arc(0, 0, reach * 0.65, 1.6 * reach / count)
        turned = leaf @ np.array([along, along[::-1] * (-1, 1)])
        petals.append(poly(BODY, *np.ravel(turned + reach * along + (0, -0.35))))
    return [
        stroke(SECOND, 0.09, np.array([(0, -0.3), (rng.uniform(-0.2, 0.2), 0.3), (0, 1)])),
        poly(SECOND, 0, 0.75, 0.3, 0.2, 0.6, rng.uniform(0.1, 0.4), 0.25, 0.7),
        poly(SECOND, 0, 0.9, -0.3, 0.4, -0.6, rng.uniform(0.2, 0.5), -0.25, 0.85),
        *petals,
        disc(THIRD, 0, -0.35, rng.uniform(0.16, 0.24)),
    ]


def house(rng):
    half, eaves, ridge = rng.uniform(0.55, 0.85), rng.uniform(-0.25, 0), rng.uniform(-0.9, -0.6)
    door = rng.uniform(-0.4, 0.4) * half
    window = -0.55 * half if door > 0 else 0.55 * half
    return [
        box(THIRD, 0.4 * half, ridge - 0.05, 0.4 * half + 0.16, eaves),
        box(BODY, -half, eaves, half, 0.8),
        poly(SECOND, -half - 0.15, eaves, rng.uniform(-0.2, 0.2), ridge, half + 0.15, eaves),
        box(DARK, door - 0.13, 0.3, door + 0.13, 0.8),
        box(LIGHT, window - 0.17, eaves + 0.2, window + 0.17, eaves + 0.5),
        line(DARK, 0.03, window, eaves + 0.2, window, eaves + 0.5),
        line(DARK, 0.03, window - 0.17, eaves + 0.35, window + 0.17, eaves + 0.35),
    ]


def mug(rng):
    half, base, top = rng.uniform(0.42, 0.58), rng.uniform(0.85, 1), rng.uniform(-0.8, -0.5)
    low = 0.75
    handle = rng.uniform(0.24, 0.34)
    return [
        ring(BODY, half, (top + low) / 2, handle + 0.1, handle + 0.05, 0.62),
        poly(BODY, -half, top, half, top, base * half, low, -base * half, low),
        disc(BODY, 0, low, base * half, 0.13),
        box(SECOND, -0.97 * half, -0.1, 0.97 * half, rng.uniform(0, 0.35)),
        disc(LIGHT, 0, top, half, rng.uniform(0.12, 0.2)),
        disc(DARK, 0, top + 0.02, 0.88 * half, rng.uniform(0.08, 0.12)),
    ]


def tree(rng):
    trunk, high = rng.uniform(0.08, 0.15), rng.uniform(0.2, 0.4)
    fruit, crowns = rng.choice([0.0, 0.05, 0.09]), []
    for angle in rng.permutation(np.arange(9) * 2 * np.pi / 9):
        x, y, size = 0.42 * np.cos(angle), 0.38 * np.sin(angle) - 0.4, rng.uniform(0.2, 0.34)
        crowns.append(disc(BODY, x, y, size))
        crowns.append(disc(SECOND, 0.8 * x, y - 0.06, fruit))
    return [
        poly(THIRD, -trunk, -0.2, trunk, -0.2, 1.6 * trunk, 1, -1.6 * trunk, 1),
        line(THIRD, 0.08, 0, high, 0.35, high - 0.4),
        line(THIRD, 0.08, 0, high + 0.1, -0.35, high - 0.35),
        disc(BODY, 0, -0.4, 0.45),
        *crowns,
    ]


def umbrella(rng):
    high, hook = rng.uniform(0.6, 0.85), rng.uniform(0.12, 0.2)
    canopy = arc(0, 0, 1, high, 180, 360)
    edge = np.concatenate([arc(x, 0, 0.25, 0.12, 0, -180) for x in (0.75, 0.25, -0.25, -0.75)])
    ribs = [line(SECOND, 0.04, 0, -high, x, -0.12) for x in (-0.5, 0, 0.5)]
    return [
        line(DARK, 0.07, 0, -high - 0.12, 0, 0.8),
        stroke(DARK, 0.08, arc(-hook, 0.8, hook, hook, 0, 180)),
        poly(BODY, *np.ravel(np.concatenate((canopy, edge)))),
        *ribs,
    ]


THINGS = {
    "bicycle": bicycle,
    "bird": bird,
    "car": car,
    "chair": chair,
    "fish": fish,
    "flower": flower,
    "house": house,
    "mug": mug,
    "tree": tree,
    "umbrella": umbrella,
}
