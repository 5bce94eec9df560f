"""Draws the images of the synthetic dataset: textured shapes over cluttered backgrounds."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

import cv2
import numpy as np

from ppdet_repro.data.source.shapes import SHAPES, Outline, blob, coverage, pose, texture, value_noise
from ppdet_repro.utils.errors import UserError

MIN_VISIBLE = 0.4  # smallest visible part of an object's area
MIN_SIDE, SMALL, MEDIUM = 10.0, 32.0, 96.0  # square roots of areas in pixels; COCO's limits
MAX_SIDE = 0.55  # relative to the shorter side of the image
TRIES = 8  # positions that are tried for an object before it is left out
LETTERS = "AEFGHKMNPRSWZ2347"  # letters that do not look like a shape


class ImageOptions(NamedTuple):
    """The options that determine the images of a dataset, together with their numbers."""

    size: tuple[tuple[int, int], tuple[int, int]]  # ranges of height and width in pixels
    classes: tuple[str, ...]
    objects: tuple[int, int]  # range of the number of objects to try per image
    scales: tuple[float, float, float]  # shares of small, medium and large objects
    noise: float  # largest standard deviation of the pixel noise, for values from 0 to 255
    clutter: float  # number of unlabeled blobs, lines and letters, from 0 to 1
    contrast: float  # contrast of textures, from 0 to 1
    likeness: float  # share of objects in the hue of their class
    image_format: str
    seed: int

    def checked(self) -> ImageOptions:
        """Return the options with scales whose sum is 1. UserError if an option is invalid."""
        if not all(32 <= low <= high for low, high in self.size):
            raise UserError(
                f"synthetic images cannot have the size {self.size}: sides are at least 32 pixels, and ranges are "
                "(from, to)"
            )
        classes = set(self.classes)
        if not classes or not classes <= set(SHAPES) or len(classes) < len(self.classes):
            names = ", ".join(self.classes)
            raise UserError(f"classes must be different names out of {', '.join(SHAPES)}, not {names}")
        if not 0 <= self.objects[0] <= self.objects[1]:
            raise UserError(f"objects is the range (from, to) of objects per image, not {self.objects}")
        if len(self.scales) != 3 or min(self.scales) < 0 or sum(self.scales) <= 0:
            raise UserError(f"scales are the shares of small, medium and large objects, not {self.scales}")
        smallest = min(low for low, share in zip((MIN_SIDE, SMALL, MEDIUM), self.scales) if share)
        if MAX_SIDE * min(low for low, _ in self.size) <= smallest:
            raise UserError(f"scales {self.scales}: images of {self.size} pixels have no room for such large objects")
        if self.image_format not in ("jpg", "png"):
            raise UserError(f"image_format is jpg or png, not {self.image_format!r}")
        if self.seed < 0 or self.noise < 0:
            raise UserError(f"seed and noise cannot be negative, but are {self.seed} and {self.noise}")
        for name in ("clutter", "contrast", "likeness"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be from 0 to 1, but is {getattr(self, name)}")
        small, medium, large = (share / sum(self.scales) for share in self.scales)
        return self._replace(scales=(small, medium, large))


class SyntheticImage(NamedTuple):
    """An image and its objects."""

    image: np.ndarray  # [H, W, 3] uint8 BGR
    owner: np.ndarray  # [H, W] int16: the index of the object that is visible at each pixel, or -1
    labels: list[int]  # class id of each object
    areas: np.ndarray  # area of each object in pixels, including hidden parts


def draw(rng: np.random.Generator, options: ImageOptions) -> SyntheticImage:
    """Draw one image."""
    height, width = (int(rng.integers(low, high + 1)) for low, high in options.size)
    image = _background(rng, height, width, options)
    owner = np.full((height, width), -1, dtype=np.int16)
    areas, visible = np.zeros((2, 0))  # of each object: its area, and the part that is visible
    labels: list[int] = []
    number = int(rng.integers(options.objects[0], options.objects[1] + 1))
    for side in _sides(rng, number, min(height, width), options.scales):
        label = int(rng.integers(len(options.classes)))
        outline = pose(rng, SHAPES[options.classes[label]], side, stretch=0.3)
        for _ in range(TRIES):
            window, mask = _window(outline, rng.uniform(0, 1, 2) * (width, height), height, width)
            inside, below = mask >= 128, owner[window]
            hidden = np.bincount(below[inside & (below >= 0)], minlength=len(areas))
            if inside.sum() >= MIN_VISIBLE * side * side and (visible - hidden >= MIN_VISIBLE * areas).all():
                hue = label / len(options.classes) if rng.random() < options.likeness else None
                _paint(rng, image[window], mask, side, options.contrast, apart=45, hue=hue)
                below[inside] = len(areas)
                areas, visible = np.append(areas, side * side), np.append(visible - hidden, inside.sum())
                labels.append(label)
                break
    return SyntheticImage(_develop(rng, image, options.noise), owner, labels, areas)


def _sides(rng: np.random.Generator, number: int, shorter: int, scales: Sequence[float]) -> list[float]:
    """Draw the square roots of the areas of objects. Large ones mostly come first, so that small ones are in front."""
    limit = MAX_SIDE * shorter
    ranges = [(MIN_SIDE, min(SMALL, limit)), (SMALL, min(MEDIUM, limit)), (MEDIUM, limit)]
    share = np.array([scale if low < high else 0 for scale, (low, high) in zip(scales, ranges)])
    picks = rng.choice(3, number, p=share / share.sum())
    sides = [math.exp(rng.uniform(*np.log(ranges[pick]))) for pick in picks]
    return sorted(sides, key=lambda side: side * math.exp(rng.normal(0, 0.5)), reverse=True)


def _window(outline: Outline, center: np.ndarray, height: int, width: int) -> tuple[tuple, np.ndarray]:
    """Return the window of the image (slices) around an outline with its origin at `center`, and its coverage there."""
    points = outline[0] + center
    x1, y1 = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    x2, y2 = np.minimum(np.ceil(points.max(0)).astype(int) + 2, (width, height))
    local = [contour + center - (x1, y1) for contour in outline]
    return (slice(y1, y2), slice(x1, x2)), coverage(local, y2 - y1, x2 - x1)


def _paint(
    rng: np.random.Generator,
    window: np.ndarray,
    mask: np.ndarray,
    side: float,
    contrast: float,
    apart: float,
    hue: Optional[float] = None,
) -> None:
    """Fill a mask [h, w] uint8 with a random texture under random lighting.

    `window` [h, w, 3] float32 is the part of the image to change. The `side` of the object determines the scale of the
    texture, whose first color is at least `apart` from the mean color of the window, and has the given hue if any.
    """
    height, width = mask.shape
    behind = window.mean((0, 1))
    first = _color(rng, hue)
    while np.linalg.norm(first - behind) < apart:
        first = _color(rng, hue)
    second = first + contrast * (rng.uniform(0, 255, 3) - first)
    surface = texture(rng, height, width, side)[..., None] * (second - first).astype(np.float32)
    surface += first.astype(np.float32)
    slope = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    light = 1 + slope[0] * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    light = light + slope[1] * np.linspace(-1, 1, width, dtype=np.float32)
    if rng.random() < 0.3:  # a rim
        radius = max(1, int(side * rng.uniform(0.02, 0.05)))
        core = cv2.erode(mask, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8), borderValue=0)
        light[core < 128] *= float(rng.choice([0.5, 1.6]))
    alpha = mask[..., None] * np.float32(1 / 255)
    window += alpha * (surface * light[..., None] - window)


def _color(rng: np.random.Generator, hue: Optional[float]) -> np.ndarray:
    """Draw a color, BGR with values from 15 to 240, with approximately the given hue."""
    if hue is None:
        return rng.uniform(15, 240, 3)
    turn, saturation, value = hue + rng.normal(0, 0.02), rng.uniform(0.45, 1), rng.uniform(80, 240)
    return np.array(colorsys.hsv_to_rgb(turn % 1, saturation, value))[::-1]


def _background(rng: np.random.Generator, height: int, width: int, options: ImageOptions) -> np.ndarray:
    """Draw a cluttered background, [height, width, 3] float32."""
    image = np.empty((height, width, 3), dtype=np.float32)
    center, spread = rng.uniform(50, 205, 3).tolist(), rng.uniform(10, 60)
    for channel in range(3):
        coarse = value_noise(rng, height, width, int(rng.integers(2, 5)))
        image[..., channel] = center[channel] + 2 * spread * (coarse - 0.5)
    cells = int(rng.integers(12, 50))
    image += (rng.uniform(10, 70) * (value_noise(rng, height, width, cells) - 0.5))[..., None]

    for _ in range(round(options.clutter * rng.integers(3, 9))):
        side = math.exp(rng.uniform(math.log(MIN_SIDE), math.log(0.5 * min(height, width))))
        outline = pose(rng, blob(rng), side, stretch=0.8)
        window, mask = _window(outline, rng.uniform(0, 1, 2) * (width, height), height, width)
        _paint(rng, image[window], mask, side, options.contrast, apart=0)

    drawing = image.clip(0, 255).astype(np.uint8)  # OpenCV antialiases 8-bit images only
    for _ in range(round(options.clutter * rng.integers(3, 12))):
        _scribble(rng, drawing)
    return drawing.astype(np.float32)


def _scribble(rng: np.random.Generator, image: np.ndarray) -> None:
    """Draw a line, an arc or some letters on a uint8 image."""
    height, width = image.shape[:2]
    color, thickness = rng.uniform(0, 255, 3).tolist(), int(rng.integers(1, 4))
    x, y, x2, y2 = (rng.uniform(0, 1, 4) * (width, height, width, height)).astype(int).tolist()
    kind = rng.choice(["line", "arc", "letters"], p=[0.5, 0.25, 0.25])
    if kind == "line":
        cv2.line(image, (x, y), (x2, y2), color, thickness, cv2.LINE_AA)
    elif kind == "arc":
        axes = rng.integers(6, max(8, min(height, width) // 3), 2).tolist()
        turn, start, length = rng.uniform((0, 0, 40), (180, 360, 220)).tolist()
        cv2.ellipse(image, (x, y), axes, turn, start, start + length, color, thickness, cv2.LINE_AA)
    else:
        text = "".join(rng.choice(list(LETTERS), rng.integers(1, 5)))
        size = float(rng.uniform(0.4, 1.5))
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)


def _develop(rng: np.random.Generator, image: np.ndarray, noise: float) -> np.ndarray:
    """Apply a random exposure, color cast, blur and pixel noise, and convert to uint8."""
    image *= (rng.uniform(0.7, 1.2) * rng.uniform(0.92, 1.08, 3)).astype(np.float32)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1))
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(rng.uniform(0, noise))
    return (image + grain[..., None]).clip(0, 255).astype(np.uint8)
