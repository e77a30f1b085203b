"""The surfaces of `fabrics`. Each takes (rng, u, v), as dev/drawing/surfaces.py has them."""

import numpy as np

from dev.drawing.surfaces import fold, step, wave


def twill(rng, u, v):
    """Diagonals of short floats."""
    thread = fold(u * 2) * 2
    return step(np.sin(2 * np.pi * (np.floor(u * 2) / 4 + v)), 0.6) * (0.5 + 0.5 * thread)


def herringbone(rng, u, v):
    """Diagonals that turn, broken, at the seam of each column."""
    odd = np.floor(u) % 2
    slant = np.where(odd > 0.5, u % 1, -(u % 1)) * rng.uniform(1.5, 2.5)
    return step(wave(v * 2 + slant + 0.5 * odd) - 0.5, 0.6)


def tartan(rng, u, v):
    """Bands that cross, of the same order in both directions."""
    widths = rng.uniform(0.08, 0.3, 3)

    def bands(x):
        total = step(widths[0] - fold(x))
        total = total + 0.6 * step(widths[1] * 0.4 - fold(x + 0.5))
        return total + 0.4 * step(0.04 - fold(x + 0.3)) + 0.4 * step(0.04 - fold(x - 0.3))

    return np.clip(0.5 * (bands(u * 0.6) + bands(v * 0.6)), 0, 1)


def knit(rng, u, v):
    """Columns of stitches, two leaves each that meet in a V."""
    across = fold(u) * 2
    along = (v * 1.1 - rng.uniform(0.5, 0.8) * across) % 1 - 0.5
    return np.clip(1.15 - np.hypot((across - 0.5) / 0.5, along / 0.5) ** 2, 0, 1)


def houndstooth(rng, u, v):
    """Broken checks, whose corners run into the next."""
    x, y = u % 1, v % 1
    lines = step(0.25 - np.abs((u * 2 - v * 2) % 1 - 0.5), 0.15)
    both, none = (x < 0.5) & (y < 0.5), (x >= 0.5) & (y >= 0.5)
    return np.where(both, 1, np.where(none, 0, lines)).astype(np.float32)


def quilt(rng, u, v):
    """Diamonds that are stuffed, between seams."""
    height = np.sin(np.pi * u) * np.sin(np.pi * v)
    return np.abs(height) ** rng.uniform(0.3, 0.6)


def chevron(rng, u, v):
    """Zigzag bands without a break."""
    return step(wave(v + rng.uniform(0.6, 1.2) * fold(u)) - rng.uniform(0.35, 0.65), 0.25)


def rib(rng, u, v):
    """Round ridges of one direction, with fine threads across."""
    ridge = np.sqrt(np.abs(np.sin(np.pi * u * 1.5)))
    return ridge * (1 - rng.uniform(0.1, 0.35) * wave(v * 4 + 0.5 * np.floor(u * 1.5)))


FABRICS = {
    "chevron": chevron,
    "herringbone": herringbone,
    "houndstooth": houndstooth,
    "knit": knit,
    "quilt": quilt,
    "rib": rib,
    "tartan": tartan,
    "twill": twill,
}
