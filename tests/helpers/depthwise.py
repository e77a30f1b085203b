"""The depthwise convolution by its definition."""

import numpy as np


def reference(x, kernel, g):
    """Value and both gradients in float64, one shift at a time."""
    x, kernel, g = (np.asarray(a, np.float64) for a in (x, kernel, g))
    k = kernel.shape[0]
    p, (height, width) = k // 2, x.shape[1:3]
    padded = np.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
    y, dx, dkernel = np.zeros_like(x), np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(k):
        for j in range(k):
            window = np.s_[:, i : i + height, j : j + width]
            y += padded[window] * kernel[i, j, 0]
            dx[window] += g * kernel[i, j, 0]
            dkernel[i, j, 0] = (padded[window] * g).sum((0, 1, 2))
    return y, dx[:, p : p + height, p : p + width], dkernel
