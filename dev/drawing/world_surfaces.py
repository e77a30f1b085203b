"""The surfaces of `world`. Each takes (rng, u, v), as dev/drawing/surfaces.py has them."""

import numpy as np

from dev.drawing import ground
from dev.drawing.surfaces import cells, chance, fold, step, wave


def bark(rng, u, v):
    """Long cracks of one direction."""
    rough = ground.noise(rng, u.shape, cells=6, octaves=3)
    return np.abs(np.sin(np.pi * (u * 1.2 + 1.2 * rough))) ** 0.5 * (0.7 + 0.3 * wave(v * 0.3))


def bubbles(rng, u, v):
    """Circles of any size, lit at the rim."""
    first, _, name = cells(rng, u, v, 0.5)
    radius = 0.15 + 0.35 * name
    return np.clip(first / radius, 0, 1) ** 3 * step(radius - first, 0.06)


def clouds(rng, u, v):
    return ground.noise(rng, u.shape, cells=rng.uniform(1.5, 4), octaves=5)


def cobbles(rng, u, v):
    """Round stones that touch."""
    first, second, name = cells(rng, u, v, 0.8)
    return np.clip((second - first) * 2.5, 0, 1) ** 0.5 * (0.5 + 0.5 * name)


def confetti(rng, u, v):
    """Short dashes at any angle."""
    total = np.zeros_like(u)
    for salt in range(3):
        x, y = u + 0.37 * salt, v + 0.61 * salt
        angle = 2 * np.pi * chance(np.floor(x), np.floor(y), salt=salt)
        x, y = x % 1 - 0.5, y % 1 - 0.5
        along = np.abs(np.cos(angle) * x + np.sin(angle) * y)
        across = np.abs(np.cos(angle) * y - np.sin(angle) * x)
        total = np.maximum(total, step(0.35 - along) * step(0.1 - across) * (1 - 0.25 * salt))
    return total


def fur(rng, u, v):
    """Noise that is drawn out along one direction."""
    salt = int(rng.integers(1 << 16))
    total, row = np.zeros_like(u), u * 4
    for part in range(3):
        shifted = v * 0.7 + chance(np.floor(row + part / 3), salt=salt + part)
        total += wave(shifted) * (1 - 2 * fold(row + part / 3))
    return np.clip(total / 2, 0, 1)


def grid(rng, u, v):
    """Thin lines that cross."""
    width = rng.uniform(0.06, 0.13)
    return np.maximum(step(width - fold(u)), step(width - fold(v)))


def honeycomb(rng, u, v):
    """Six-sided cells and their walls."""
    rows = v / 0.866
    shift = 0.5 * (np.floor(rows) % 2)
    near = np.full(u.shape, 9, np.float32)
    after = near.copy()
    for j in (-1, 0, 1):
        row = np.floor(rows) + j
        shift = 0.5 * (row % 2)
        column = np.round(u - shift)
        for i in (-1, 0, 1):
            distance = np.hypot(u - column - i - shift, v - (row + 0.5) * 0.866)
            after = np.where(distance < near, near, np.minimum(after, distance))
            near = np.minimum(near, distance)
    return step(after - near - rng.uniform(0.1, 0.2), 0.1)


def leopard(rng, u, v):
    """Blots with a light middle."""
    first, _, name = cells(rng, u, v, 0.7)
    first = first + 0.12 * (ground.noise(rng, u.shape, cells=16, octaves=2) - 0.5)
    outer = 0.28 + 0.12 * name
    return step(outer - first) * (1 - 0.7 * step(0.45 * outer - first))


def maze(rng, u, v):
    """Diagonals that turn at random, in every cell."""
    x, y = u * 1.3, v * 1.3
    flip = chance(np.floor(x), np.floor(y), salt=int(rng.integers(1 << 16))) < 0.5
    x, y = x % 1, y % 1
    x = np.where(flip, 1 - x, x)
    return np.maximum(step(0.17 - np.abs(np.hypot(x, y) - 0.5)),
                      step(0.17 - np.abs(np.hypot(1 - x, 1 - y) - 0.5)))  # fmt: skip


def parquet(rng, u, v):
    """Squares of slats, in turn along and across."""
    across = (np.floor(u / 2) + np.floor(v / 2)) % 2
    x = np.where(across > 0.5, u, v) * 2
    return step(fold(x) - 0.07) * (0.55 + 0.45 * chance(np.floor(x + 0.5), np.floor(u / 2)))


def rain(rng, u, v):
    """Broken lines of one direction, far apart."""
    column = np.floor(u * 2)
    start = v * 0.5 + chance(column, salt=int(rng.integers(1 << 16)))
    return step(0.16 - fold(u * 2 - 0.5) / 2) * step(0.5 - (start % 1), 0.3)


def rays(rng, u, v):
    """Wedges that come from one point."""
    x, y = u - u.mean() + rng.uniform(-1, 1), v - v.mean() + rng.uniform(-1, 1)
    return step(wave(np.arctan2(y, x) * rng.integers(5, 12) / (2 * np.pi)) - 0.5, 0.3)


def ripples(rng, u, v):
    """Rings around one point."""
    x, y = u - u.mean() + rng.uniform(-2, 2), v - v.mean() + rng.uniform(-2, 2)
    return wave(np.hypot(x, y) * rng.uniform(0.7, 1.2))


def rods(rng, u, v):
    """Basket of bundles: three along, three across."""
    across = (np.floor(u) + np.floor(v)) % 2
    x = np.where(across > 0.5, u, v)
    return np.sqrt(np.abs(np.sin(3 * np.pi * x)))


def sand(rng, u, v):
    """Grains, each of its own brightness."""
    return chance(np.floor(u * 3), np.floor(v * 3), salt=int(rng.integers(1 << 16)))


def scratches(rng, u, v):
    """Thin long lines of any direction."""
    total = np.zeros_like(u)
    for _ in range(14):
        angle, place = rng.uniform(0, np.pi), rng.normal(0, 2.5)
        distance = np.cos(angle) * (u - u.mean()) + np.sin(angle) * (v - v.mean()) - place
        total = np.maximum(total, step(0.06 - np.abs(distance), 0.06) * rng.uniform(0.5, 1))
    return total


def triangles(rng, u, v):
    """Triangles that lie side by side, in three shades."""
    x, y = u + v * 0.577, v * 1.155
    name = (x % 1 + y % 1 > 1).astype(np.float32)
    return 0.5 * name + 0.5 * chance(np.floor(x), np.floor(y), name, salt=3)


def wood(rng, u, v):
    """Rings of a trunk that was cut along."""
    rough = ground.noise(rng, u.shape, cells=2, octaves=3)
    return (u * 0.6 + 1.5 * rough + 0.1 * v) % 1


def zebra(rng, u, v):
    """Stripes that swell, bend and end."""
    rough = ground.noise(rng, u.shape, cells=3, octaves=2)
    return step(wave(u + 2.5 * rough) - 0.3 - 0.4 * wave(v * 0.2), 0.25)


WORLD_SURFACES = {
    "bark": bark,
    "bubbles": bubbles,
    "clouds": clouds,
    "cobbles": cobbles,
    "confetti": confetti,
    "fur": fur,
    "grid": grid,
    "honeycomb": honeycomb,
    "leopard": leopard,
    "maze": maze,
    "parquet": parquet,
    "rain": rain,
    "rays": rays,
    "ripples": ripples,
    "rods": rods,
    "sand": sand,
    "scratches": scratches,
    "triangles": triangles,
    "wood": wood,
    "zebra": zebra,
}
