"""What is around a drawn thing: colours, grounds, where it lies, light and camera.

Images are uint8 [H, W, 3], masks uint8 [H, W], fields float32 [H, W] in 0 to 1. Points are [N, 2],
x and y in pixels once they are placed. `difficulty` is 0 for what is plain and 1 for what a person
barely tells.
"""

import cv2
import numpy as np


def color(rng: np.random.Generator) -> np.ndarray:
    """Returns a colour of any hue and most brightnesses, uint8 [3]; pale ones are more frequent."""
    hue, saturation, value = rng.integers(0, 180), rng.beta(1.1, 1.6), rng.uniform(0.12, 1)
    hsv = np.array([[[hue, 255 * saturation, 255 * value]]]).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def apart(rng: np.random.Generator, other: np.ndarray, least: float) -> np.ndarray:
    """Returns a colour whose grey differs from that of `other`, by at least so much of 255."""
    grey = other @ GREY
    while abs((one := color(rng)) @ GREY - grey) < 255 * least:
        pass
    return one


GREY = np.array([0.299, 0.587, 0.114])


def noise(
    rng: np.random.Generator, shape: tuple[int, int], *, cells: float = 2, octaves: int = 4
) -> np.ndarray:
    """Returns smooth noise of so many cells on the shorter side, and finer ones in it."""
    height, width = shape
    total, weight = None, 1.0
    for _ in range(octaves):
        scale = cells / min(shape)
        size = round(width * scale) + 3, round(height * scale) + 3
        grid = weight * rng.random(size[::-1], np.float32)
        if total is not None:
            grid += cv2.resize(total, size, interpolation=cv2.INTER_CUBIC)
        total, cells, weight = grid, 2 * cells, weight * rng.uniform(0.4, 0.65)
        if cells > min(shape):
            break
    total = cv2.resize(total, (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def ramp(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Returns a field that rises evenly in a direction, as light from a window does."""
    y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    field = np.cos(angle) * x + np.sin(angle) * y
    return ((field - field.min()) / (field.max() - field.min())).astype(np.float32)


def blend(field: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns an image that is `first` where the field is 0, and `second` where it is 1. Both are
    colours or images."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    mixed = first + (second - first) * field[..., None]
    return np.clip(mixed, 0, 255, out=mixed).astype(np.uint8)


def plain(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Returns one colour, or one that turns into a similar one."""
    first = color(rng)
    second = np.clip(first + rng.normal(0, 40, 3), 0, 255)
    return blend(ramp(rng, shape), first, second)


def cloudy(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Returns three colours in clouds, fine or coarse, and at times a floor below a wall."""
    first, second, third = (color(rng) for _ in range(3))
    second = (second + first.astype(float)) / 2  # of nature, neighbours are alike
    image = blend(noise(rng, shape, cells=rng.uniform(1, 12)), first, second)
    image = blend(noise(rng, shape, cells=rng.uniform(1, 4)) * rng.uniform(0, 0.7), image, third)
    if rng.random() < 0.4:
        left, right = np.clip(rng.normal(0.5, 0.15) + rng.normal(0, 0.1, 2), 0.05, 0.95)
        edge = np.linspace(left, right, shape[1]) * shape[0]
        floor = np.clip(np.arange(shape[0])[:, None] - edge, 0, 1).astype(np.float32)
        texture = blend(noise(rng, shape, cells=rng.uniform(4, 20)), color(rng), color(rng))
        image = blend(floor * rng.uniform(0.5, 1), image, texture)
    return image


def placement(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    scale: tuple[float, float],
    turn: float = np.pi,
    stretch: float = 0.2,
    perspective: float = 0.15,
    inside: float = 1.0,
) -> np.ndarray:
    """Returns the homography [3, 3] from -1 to 1 in x and y to pixels.

    scale: least and greatest side of the thing, of the shorter side; turn: greatest angle either
    way; inside: 1 keeps the whole thing in the picture, 0 its centre alone.
    """
    height, width = shape
    radius = np.exp(rng.uniform(*np.log(scale))) * min(shape) / 2
    margin = np.minimum(radius * inside, (width / 2.01, height / 2.01))
    center = rng.uniform(margin, (width, height) - margin)
    angle = rng.uniform(-turn, turn)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    skewed = np.eye(2) + rng.uniform(-stretch, stretch, (2, 2))
    matrix = np.eye(3)
    matrix[:2, :2] = radius * turned @ skewed
    matrix[:2, 2] = center
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-perspective, perspective, 2)
    return matrix @ tilt


def placed(points: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Returns points [N, 2] in pixels."""
    moved = np.column_stack((points, np.ones(len(points)))) @ place.T
    return moved[:, :2] / moved[:, 2:]


def fill(image: np.ndarray, contours: list[np.ndarray], value) -> None:
    """Fills contours that are in pixels; one inside another is a hole."""
    fixed = [np.round(np.clip(points, -9e3, 9e3) * 16).astype(np.int32) for points in contours]
    cv2.fillPoly(image, fixed, value, cv2.LINE_AA, shift=4)


def blob(rng: np.random.Generator) -> np.ndarray:
    """Returns the outline of a pebble, points [N, 2] in -1 to 1."""
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    radii = 0.75 + sum(
        rng.normal(0, 0.14 / order) * np.cos(order * angles + rng.uniform(0, 6.3))
        for order in (2, 3, 4, 5)
    )
    return radii[:, None] * np.column_stack((np.cos(angles), np.sin(angles)))


def strewn(rng: np.random.Generator, image: np.ndarray, count: int) -> None:
    """Draws so many lines and pebbles of any colour over the image."""
    shape = image.shape[:2]
    for _ in range(count):
        value = tuple(map(int, color(rng)))
        if rng.random() < 0.5:
            ends = rng.uniform(-0.1, 1.1, (2, 2)) * shape[::-1]
            width = int(rng.integers(1, 2 + min(shape) // 32))
            start, end = np.round(ends * 16).astype(int).tolist()
            cv2.line(image, start, end, value, width, cv2.LINE_AA, shift=4)
        else:
            place = placement(rng, shape, scale=(0.05, 0.25), inside=0)
            fill(image, [placed(blob(rng), place)], value)


def photographed(rng: np.random.Generator, image: np.ndarray, difficulty: float) -> np.ndarray:
    """Returns the image under a light of its own, as a camera has it: light and shade, white
    balance, exposure, contrast, out of focus or shaken, with a sensor's noise."""
    shape = image.shape[:2]
    depth = rng.uniform(0, 0.2 + 0.5 * difficulty)
    light = 1 - depth * ramp(rng, shape)
    if rng.random() < difficulty:  # the shadow of something that is not in the picture
        shadow = noise(rng, shape, cells=rng.uniform(0.7, 1.5), octaves=1)
        light *= 1 - rng.uniform(0.2, 0.6) * np.clip((shadow - 0.5) * rng.uniform(2, 8), 0, 1)
    balance = np.exp(rng.normal(0, 0.05 + 0.12 * difficulty, 3))
    gamma, contrast = np.exp(rng.normal(0, 0.3 * difficulty)), 1 - rng.uniform(0, 0.55 * difficulty)
    curve = ((np.arange(256) / 255) ** gamma * contrast).astype(np.float32)
    scene = curve[image] * (light[..., None] * balance.astype(np.float32))
    scene += np.float32(rng.uniform(0, 1 - contrast))
    scene = _blurred(rng, scene, rng.exponential(0.015 * difficulty) * min(shape))
    sigma = min(rng.exponential(0.005 + 0.04 * difficulty), 0.1)
    grain = rng.standard_normal(scene.shape, np.float32) * np.float32(sigma)
    if rng.random() < 0.5:
        grain = cv2.blur(grain, (2, 2)) * 1.5  # a small camera's, after its own smoothing
    return np.clip((scene + grain) * 255, 0, 255).astype(np.uint8)


def _blurred(rng, scene, radius):
    radius = min(radius, 0.04 * min(scene.shape[:2]))
    if radius < 0.3:
        return scene
    if rng.random() < 0.6:
        return cv2.GaussianBlur(scene, (0, 0), radius)
    size = 2 * round(radius * 1.5) + 3
    kernel = np.zeros((size, size), np.float32)
    middle, angle = size // 2, rng.uniform(0, np.pi)
    reach = middle * np.array([np.cos(angle), np.sin(angle)])
    start, end = np.round(middle - reach).astype(int), np.round(middle + reach).astype(int)
    cv2.line(kernel, start.tolist(), end.tolist(), 1.0)
    return cv2.filter2D(scene, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
