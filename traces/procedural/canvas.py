"""Drawing on float32 RGB images with numpy: soft-edged capsules, ellipses and rectangles, and random textures.

Coordinates are pixels, x to the right and y down; the centre of the first pixel is (0, 0). Images are [rows, cols, 3]
and change in place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Colour = NDArray[np.float32]
Point = tuple[float, float]

# The light comes from the upper left: unit vector in the image plane along which surfaces darken.
_LIGHT_X, _LIGHT_Y = 0.6, 0.8


def _window(image: Image, left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int] | None:
    """Return the pixel window x0, y0, x1, y1 around a shape, clipped to the image; None where nothing is left."""
    rows, cols = image.shape[:2]
    x0, y0 = max(0, math.floor(left) - 1), max(0, math.floor(top) - 1)
    x1, y1 = min(cols, math.ceil(right) + 2), min(rows, math.ceil(bottom) + 2)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _blend(patch: Image, alpha: NDArray[Any], colour: NDArray[Any]) -> None:
    patch += alpha[..., None] * (colour - patch)


def draw_capsule(
    image: Image, start: Point, end: Point, start_radius: float, end_radius: float, colour: Colour, shading: float = 0.3
) -> None:
    """Draw a tapered limb from `start` to `end`, shaded across its width as if it were round."""
    window = _window(
        image,
        min(start[0] - start_radius, end[0] - end_radius),
        min(start[1] - start_radius, end[1] - end_radius),
        max(start[0] + start_radius, end[0] + end_radius),
        max(start[1] + start_radius, end[1] + end_radius),
    )
    if window is None:
        return
    x0, y0, x1, y1 = window
    x = np.arange(x0, x1, dtype=np.float32) - np.float32(start[0])
    y = (np.arange(y0, y1, dtype=np.float32) - np.float32(start[1]))[:, None]
    run, fall = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    along = np.clip((x * run + y * fall) / np.float32(run * run + fall * fall + 1e-6), 0, 1)
    across_x, across_y = x - along * run, y - along * fall
    radius = np.float32(start_radius) + along * np.float32(end_radius - start_radius)
    alpha = np.clip(radius - np.sqrt(across_x * across_x + across_y * across_y) + np.float32(0.5), 0, 1)
    light = 1 - np.float32(shading) * (across_x * np.float32(_LIGHT_X) + across_y * np.float32(_LIGHT_Y)) / radius
    _blend(image[y0:y1, x0:x1], alpha, light[..., None] * colour)


def draw_ellipse(
    image: Image, centre: Point, radii: Point, colour: Colour, opacity: float = 1.0, shading: float = 0.0
) -> None:
    """Draw a filled ellipse with axes along the image's; radii in pixels."""
    window = _window(image, centre[0] - radii[0], centre[1] - radii[1], centre[0] + radii[0], centre[1] + radii[1])
    if window is None:
        return
    x0, y0, x1, y1 = window
    x = (np.arange(x0, x1, dtype=np.float32) - np.float32(centre[0])) / np.float32(radii[0])
    y = ((np.arange(y0, y1, dtype=np.float32) - np.float32(centre[1])) / np.float32(radii[1]))[:, None]
    distance = np.sqrt(x * x + y * y)
    alpha = np.clip((1 - distance) * np.float32(min(radii)) + np.float32(0.5), 0, 1) * np.float32(opacity)
    light = 1 - np.float32(shading) * (x * np.float32(_LIGHT_X) + y * np.float32(_LIGHT_Y))
    _blend(image[y0:y1, x0:x1], alpha, light[..., None] * colour)


def draw_rectangle(image: Image, centre: Point, radii: Point, colour: Colour, opacity: float = 1.0) -> None:
    """Draw a filled rectangle with sides along the image's; radii = half its width and height."""
    window = _window(image, centre[0] - radii[0], centre[1] - radii[1], centre[0] + radii[0], centre[1] + radii[1])
    if window is None:
        return
    x0, y0, x1, y1 = window
    x = np.abs(np.arange(x0, x1, dtype=np.float32) - np.float32(centre[0]))
    y = np.abs(np.arange(y0, y1, dtype=np.float32) - np.float32(centre[1]))[:, None]
    alpha = np.clip(np.float32(radii[0] + 0.5) - x, 0, 1) * np.clip(np.float32(radii[1] + 0.5) - y, 0, 1)
    _blend(image[y0:y1, x0:x1], alpha * np.float32(opacity), colour)


def smooth_noise(rng: np.random.Generator, rows: int, cols: int, cell: float) -> NDArray[np.float32]:
    """Return random values in -1..1 [rows, cols] that vary smoothly over `cell` pixels."""
    grid = rng.uniform(-1, 1, (int(rows / cell) + 2, int(cols / cell) + 2)).astype(np.float32)
    y, x = np.arange(rows, dtype=np.float32) / np.float32(cell), np.arange(cols, dtype=np.float32) / np.float32(cell)
    top, left = y.astype(np.intp), x.astype(np.intp)
    down, right = y - top, x - left
    down, right = (down * down * (3 - 2 * down))[:, None], right * right * (3 - 2 * right)
    upper = grid[top][:, left] * (1 - right) + grid[top][:, left + 1] * right
    lower = grid[top + 1][:, left] * (1 - right) + grid[top + 1][:, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def random_colour(rng: np.random.Generator, low: float = 20, high: float = 235) -> Colour:
    """Return an RGB colour in grey levels, between grey and saturated."""
    grey = rng.uniform(low, high)
    colour = grey + rng.uniform(0, 0.9) * (rng.uniform(low, high, 3) - grey)
    return colour.astype(np.float32)


def scenery(rng: np.random.Generator, rows: int, cols: int, unit: float) -> tuple[Image, float]:
    """Paint a background: wall or sky, ground, boxes with windows, foliage, grain.

    Args:
        rng: source of every choice.
        rows: height in pixels.
        cols: width in pixels.
        unit: length of 1/128 of the picture in pixels; all sizes scale with it.

    Returns:
        the image in grey levels, and the row of the horizon.
    """
    horizon = rows * rng.uniform(0.3, 0.65)
    y = np.arange(rows, dtype=np.float32)[:, None, None]
    far, near = random_colour(rng, 60, 230), random_colour(rng, 40, 200)
    ground, front = random_colour(rng, 40, 190), rng.uniform(0.7, 1.2)
    above = far + (near - far) * np.float32(0.6) * y / np.float32(horizon)
    below = ground * (1 + np.float32(front - 1) * (y - np.float32(horizon)) / np.float32(rows - horizon))
    image = np.where(y < horizon, above, below) * np.ones((1, cols, 1), np.float32)
    for _ in range(int(rng.integers(3, 8) * cols / rows)):
        _building(rng, image, horizon, unit)
    for _ in range(int(rng.integers(0, 5) * cols / rows)):
        _foliage(rng, image, horizon, unit)
    for cell, strength in ((24, 14), (8, rng.uniform(4, 16)), (3, rng.uniform(3, 14))):
        image += np.float32(strength) * smooth_noise(rng, rows, cols, cell * unit)[..., None]
    return image, horizon


def _building(rng: np.random.Generator, image: Image, horizon: float, unit: float) -> None:
    """Draw one box that stands near the horizon, with a grid of windows, planks or nothing on it."""
    width, height = rng.uniform(5, 24) * unit, rng.uniform(6, 34) * unit
    foot = horizon + rng.uniform(-2, 14) * unit
    x, colour = rng.uniform(0, image.shape[1]), random_colour(rng)
    draw_rectangle(image, (x, foot - height), (width, height), colour)
    pane = random_colour(rng)
    pattern = rng.integers(0, 3)
    step = rng.uniform(6, 11) * unit
    if pattern == 0:
        for left in np.arange(x - width + step * 0.6, x + width - step * 0.4, step):
            for top in np.arange(foot - 2 * height + step * 0.6, foot - step * 0.4, step):
                draw_rectangle(image, (float(left), float(top)), (step * 0.25, step * 0.32), pane)
    elif pattern == 1:
        for left in np.arange(x - width + step / 2, x + width, step / 2):
            draw_rectangle(image, (float(left), foot - height), (0.6 * unit, height), pane, 0.6)


def _foliage(rng: np.random.Generator, image: Image, horizon: float, unit: float) -> None:
    """Draw one tree or bush: a trunk and overlapping discs."""
    x, foot = rng.uniform(0, image.shape[1]), horizon + rng.uniform(0, 12) * unit
    crown = foot - rng.uniform(4, 40) * unit
    colour = np.asarray(rng.uniform((20, 50, 15), (90, 140, 70)), np.float32)
    draw_capsule(image, (x, foot), (x, crown), 1.8 * unit, 1.2 * unit, np.array((80, 60, 45), np.float32))
    for _ in range(9):
        spot = (x + rng.normal(0, 6) * unit, crown + rng.normal(0, 5) * unit)
        size = rng.uniform(3, 7) * unit
        draw_ellipse(image, spot, (size, size), colour * np.float32(rng.uniform(0.7, 1.25)), 0.9, 0.25)


def tilted_rectangle(
    shape: tuple[int, int], centre: Point, radii: Point, angle: float
) -> tuple[slice, slice, NDArray[np.float32]] | None:
    """Return the window (rows, cols) around a tilted rectangle and its soft-edged coverage 0..1 there; None outside.

    Args:
        shape: rows and cols of the image.
        centre: of the rectangle.
        radii: half its length and half its width.
        angle: from the x axis to its length, in radians, clockwise as y points down.
    """
    run, fall = math.cos(angle), math.sin(angle)
    reach_x = abs(run) * radii[0] + abs(fall) * radii[1]
    reach_y = abs(fall) * radii[0] + abs(run) * radii[1]
    x0, y0 = max(0, math.floor(centre[0] - reach_x) - 1), max(0, math.floor(centre[1] - reach_y) - 1)
    x1 = min(shape[1], math.ceil(centre[0] + reach_x) + 2)
    y1 = min(shape[0], math.ceil(centre[1] + reach_y) + 2)
    if x0 >= x1 or y0 >= y1:
        return None
    x = np.arange(x0, x1, dtype=np.float32) - np.float32(centre[0])
    y = (np.arange(y0, y1, dtype=np.float32) - np.float32(centre[1]))[:, None]
    along, across = (
        np.abs(x * np.float32(run) + y * np.float32(fall)),
        np.abs(y * np.float32(run) - x * np.float32(fall)),
    )
    alpha = np.clip(np.float32(radii[0] + 0.5) - along, 0, 1) * np.clip(np.float32(radii[1] + 0.5) - across, 0, 1)
    return slice(y0, y1), slice(x0, x1), alpha


def draw_tilted(
    image: Image, centre: Point, radii: Point, angle: float, colour: Colour | float, opacity: float = 1.0
) -> None:
    """Draw a filled rectangle whose length points along `angle`; radii = half its length and width."""
    found = tilted_rectangle((image.shape[0], image.shape[1]), centre, radii, angle)
    if found is not None:
        rows, cols, alpha = found
        _blend(image[rows, cols], alpha * np.float32(opacity), np.asarray(colour, np.float32))
