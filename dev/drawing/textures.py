"""The surfaces of `textures`. Each takes (rng, u, v), as dev/drawing/surfaces.py has them."""

import numpy as np

from dev.drawing import ground
from dev.drawing.surfaces import cells, chance, fold, step, wave


def bricks(rng, u, v):
    """Rows of blocks, each row moved by half of one."""
    row = np.floor(v * 1.6)
    x, y = u * rng.uniform(0.7, 0.9) + 0.5 * (row % 2), v * 1.6
    joint = rng.uniform(0.05, 0.1)
    block = step(np.minimum(fold(x) * 2 - joint, fold(y) - joint))
    return block * (0.7 + 0.3 * chance(np.floor(x), row))


def checks(rng, u, v):
    """Squares of two colours, in turn."""
    soft = rng.uniform(0.05, 0.3)
    return step(np.sin(np.pi * u * 1.2) * np.sin(np.pi * v * 1.2), soft)


def crackle(rng, u, v):
    """Fields that cracks part, as of dry mud."""
    first, second, name = cells(rng, u * 0.9, v * 0.9, 1.0)
    return step(second - first - rng.uniform(0.04, 0.1), 0.08) * (0.8 + 0.2 * name)


def dots(rng, u, v):
    """Discs on a lattice, square or in quincunx."""
    shift = rng.choice([0.0, 0.5])
    row = np.round(v)
    x, y = u - shift * (row % 2), v
    return step(rng.uniform(0.2, 0.36) - np.hypot(fold(x), fold(y)), 0.1)


def marble(rng, u, v):
    """Veins of a stone: waves that turbulence bends."""
    rough = ground.noise(rng, u.shape, cells=rng.uniform(2, 4), octaves=5)
    return np.abs(np.sin(np.pi * (u * 0.35 + rng.uniform(1.5, 3) * rough))) ** rng.uniform(0.4, 1)


def scales(rng, u, v):
    """Round tiles, each over two of the next row."""
    near = np.zeros_like(u)
    for step_down in (2, 1, 0):  # the rows above lie on those below
        row = np.floor(v * 1.6) - step_down
        x, y = u - 0.5 * (row % 2), v * 1.6 - row
        distance = np.hypot((x - np.round(x)) / 0.56, y / 1.75)
        near = np.where(distance < 1, distance, near)
    return near ** rng.uniform(1, 2.5)


def stripes(rng, u, v):
    """Bands of one direction, that may sway, of one or two widths."""
    x = u + rng.uniform(0, 0.25) * np.sin(2 * np.pi * v * rng.uniform(0.1, 0.4))
    band = step(wave(x) - rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.6))
    return 0.5 * (band + step(wave(x / 2) - 0.5, 0.2)) if rng.random() < 0.4 else band


def weave(rng, u, v):
    """Ribbons of two shades that go over and under each other, in turn."""
    x, y = u * 1.2, v * 1.2
    over = (np.floor(x) + np.floor(y)) % 2 > 0.5
    across, along = np.where(over, x % 1, y % 1), np.where(over, y % 1, x % 1)
    ribbon = step(rng.uniform(0.36, 0.46) - np.abs(across - 0.5), 0.1)
    shade = np.where(over, 0.9, rng.uniform(0.3, 0.5))
    return ribbon * shade * (0.4 + 0.6 * np.sin(np.pi * along))


TEXTURES = {
    "bricks": bricks,
    "checks": checks,
    "crackle": crackle,
    "dots": dots,
    "marble": marble,
    "scales": scales,
    "stripes": stripes,
    "weave": weave,
}
