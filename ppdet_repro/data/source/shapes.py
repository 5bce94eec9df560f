"""Shapes and textures of the synthetic dataset."""

from __future__ import annotations

import math

import cv2
import numpy as np

Outline = list[np.ndarray]
"""Contours [K, 2] (x, y), with y pointing down. Contours after the first one are holes."""


def _arc(angles: np.ndarray, radius: float = 1.0, center: float = 0.0) -> np.ndarray:
    return np.stack([center + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _radial(radii: list[float]) -> np.ndarray:
    """Return the polygon whose vertices have these radii, at equal angles."""
    return _arc(np.linspace(0, 2 * math.pi, len(radii), endpoint=False)) * np.array(radii)[:, None]


def _crescent() -> np.ndarray:
    outer = np.linspace(0.62, 2 * math.pi - 0.62, 32)
    tip = np.array([math.cos(0.62), math.sin(0.62)])
    center = 0.45
    radius = math.hypot(tip[0] - center, tip[1])
    start = math.atan2(-tip[1], tip[0] - center)
    inner = np.linspace(start, start - (2 * math.pi + 2 * start), 24)[1:-1]
    return np.concatenate([_arc(outer), _arc(inner, radius, center)])


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _polygon(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, dtype=np.float64)


SHAPES: dict[str, Outline] = {
    "disk": [_radial([1] * 40)],
    "square": [_polygon((-1, -1), (1, -1), (1, 1), (-1, 1))],
    "triangle": [_radial([1, 1, 1])],
    "star": [_radial([1, 0.4] * 5)],
    "ring": [_radial([1] * 40), _radial([0.55] * 40)],
    "cross": [
        _polygon(
            (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
            (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
        )
    ],
    "crescent": [_crescent()],
    "arrow": [_polygon((1, 0), (0.1, -0.8), (0.1, -0.3), (-1, -0.3), (-1, 0.3), (0.1, 0.3), (0.1, 0.8))],
    "heart": [_heart()],
    "hourglass": [_polygon((-0.8, -1), (0.8, -1), (0.15, 0), (0.8, 1), (-0.8, 1), (-0.15, 0))],
    "ell": [_polygon((-1, -1), (-0.3, -1), (-0.3, 0.3), (1, 0.3), (1, 1), (-1, 1))],
    "gear": [_radial([1, 1, 0.68, 0.68] * 7)],
}  # fmt: skip


def area(outline: Outline) -> float:
    """Return the area of an outline without its holes (shoelace formula)."""
    areas = [
        0.5 * abs(float(np.dot(p[:, 0], np.roll(p[:, 1], -1)) - np.dot(p[:, 1], np.roll(p[:, 0], -1)))) for p in outline
    ]
    return areas[0] - sum(areas[1:])


def pose(rng: np.random.Generator, outline: Outline, side: float, stretch: float) -> Outline:
    """Rotate an outline at random and stretch it along a random axis by up to e^stretch. Its area becomes side^2.

    The origin of its coordinates stays in place.
    """
    axis, turn = rng.uniform(0, 2 * math.pi, 2)
    factor = math.exp(rng.uniform(-stretch, stretch) / 2)
    scale = side / math.sqrt(area(outline))
    matrix = _rotation(turn) @ np.diag([factor, 1 / factor]) @ _rotation(axis) * scale
    return [contour @ matrix.T for contour in outline]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def blob(rng: np.random.Generator) -> Outline:
    """Return a random smooth outline that is different from all shapes."""
    angle = np.linspace(0, 2 * math.pi, 32, endpoint=False)
    waves = range(2, 6)
    amplitude, phase = rng.uniform(0.05, 0.3, 4), rng.uniform(0, 2 * math.pi, 4)
    radii = 1 + sum(a * np.cos(k * angle + p) for k, a, p in zip(waves, amplitude, phase))
    return [_radial(list(np.maximum(radii, 0.15)))]


def coverage(outline: Outline, height: int, width: int) -> np.ndarray:
    """Return how much of each pixel an outline covers: [height, width] uint8, 255 inside."""
    fine = np.zeros((4 * height, 4 * width), dtype=np.uint8)  # 4 x 4 samples per pixel
    fixed = [np.round((contour * 4 + 1.5) * 16).astype(np.int32) for contour in outline]  # 4 fractional bits
    cv2.fillPoly(fine, fixed, 255, shift=4)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def value_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Return smooth noise around 0.5, [height, width] float32, with `cells` bumps along the longer side."""
    rows, columns = (max(2, cells * side // max(height, width) + 1) for side in (height, width))
    grid = rng.random((rows, columns), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def texture(rng: np.random.Generator, height: int, width: int, side: float) -> np.ndarray:
    """Return a random pattern with values in [0, 1], [height, width] float32.

    It is plain, or stripes, waves, checks, dots or noise at a random angle. Its period is a fraction of `side` pixels.
    """
    kind = rng.choice(["plain", "stripes", "waves", "checks", "dots", "noise"])
    turn, phase = rng.uniform(0, 2 * math.pi, 2)
    period = max(3.0, side * rng.uniform(0.12, 0.5))
    if kind == "plain":
        return np.zeros((height, width), dtype=np.float32)
    if kind == "noise":
        return value_noise(rng, height, width, max(2, int(2 * max(height, width) / period)))
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]
    step = 2 * math.pi / period
    u = (x * math.cos(turn) + y * math.sin(turn)) * np.float32(step) + np.float32(phase)
    if kind == "waves":
        return 0.5 + 0.5 * np.sin(u)
    if kind == "stripes":
        return (np.sin(u) > 0).astype(np.float32)
    v = (y * math.cos(turn) - x * math.sin(turn)) * np.float32(step) + np.float32(phase)
    if kind == "checks":
        return (np.sin(u) * np.sin(v) > 0).astype(np.float32)
    return (np.sin(u) + np.sin(v) > 1).astype(np.float32)
