"""The operations of AutoAugment: each maps an image, its boxes, and a level from 0 to 10 to a new image and new boxes.

G boxes, H, W size of the image. Boxes are [G, 4] float32, xyxy, relative to the image's width and height. Images are
[H, W, 3] uint8, and are never changed in place. Uncovered pixels become gray.

The numbers, also the surprising ones, are those of PaddleDetection:
- positions are truncated to whole pixels before boxes move,
- a box that leaves the image becomes a strip of 5 % of the image at its border,
- a change inside of boxes adds 1, modulo 256, to all pixels outside of the box,
- the gray image of the operation Color has red and blue exchanged.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Callable, Tuple

import cv2
import numpy as np
from PIL import Image

from ppdet_repro.data.transform.color import scale_contrast

Changed = Tuple[np.ndarray, np.ndarray]  # image and boxes
Rng = np.random.Generator
Operation = Callable[[np.ndarray, np.ndarray, float, float, Rng], Changed]  # image, boxes, level, probability, rng
Change = Callable[[np.ndarray, float, Rng], np.ndarray]  # of an image or of the inside of a box

MAX_LEVEL = 10.0
GRAY = 128


def pixels(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Boxes in whole pixels of the image: [G, 4] int64."""
    height, width = image.shape[:2]
    return np.trunc(boxes.astype(np.float64) * [width, height, width, height]).astype(np.int64)


def relative(corners: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The boxes of the image with these corners in pixels, [G, 4], clipped and with some area."""
    height, width = image.shape[:2]
    return with_area(corners / np.array([width, height, width, height], np.float64))


def with_area(boxes: np.ndarray) -> np.ndarray:
    """Clip relative boxes to the image, and give those of no width or height 5 % of the image's."""
    boxes = boxes.clip(0, 1)
    lows, highs = boxes[:, :2], boxes[:, 2:]
    flat = np.abs(highs - lows) <= 1e-8
    lows, highs = np.where(flat, np.minimum(lows, 0.95), lows), np.where(flat, np.maximum(highs, 0.05), highs)
    return np.concatenate([lows, highs], axis=1).astype(np.float32)


def signed(value: float, rng: Rng) -> float:
    """The value or its negative, at random."""
    return value if rng.random() >= 0.5 else -value


def affine(image: np.ndarray, *coefficients: float) -> np.ndarray:
    """The image whose pixel (x, y) is the pixel (a x + b y + c, d x + e y + f) of `image`."""
    picture = Image.fromarray(image)
    moved = picture.transform(picture.size, Image.Transform.AFFINE, coefficients, fillcolor=(GRAY,) * 3)
    return np.asarray(moved)


def translate(image: np.ndarray, boxes: np.ndarray, level: float, prob: float, rng: Rng, axis: int) -> Changed:
    """Move image and boxes by up to 250 pixels along an axis, 0 for x."""
    distance = signed(level / MAX_LEVEL * 250, rng)
    corners = pixels(boxes, image)
    corners[:, axis] = np.maximum(corners[:, axis] - int(distance), 0)
    corners[:, axis + 2] = np.minimum(corners[:, axis + 2] - int(distance), image.shape[1 - axis])
    return translated(image, distance, axis), relative(corners, image)


def translated(image: np.ndarray, distance: float, axis: int) -> np.ndarray:
    return affine(image, 1, 0, distance if axis == 0 else 0, 0, 1, distance if axis == 1 else 0)


def shear(image: np.ndarray, boxes: np.ndarray, level: float, prob: float, rng: Rng, axis: int) -> Changed:
    """Shear image and boxes by up to 0.3 along an axis, 0 for x."""
    slope = signed(level / MAX_LEVEL * 0.3, rng)
    corners = pixels(boxes, image).astype(np.float32)
    along, across = corners[:, axis::2], corners[:, 1 - axis :: 2]  # [G, 2]
    moved = np.trunc(along[:, :, None] - np.float32(slope) * across[:, None])  # [G, 2, 2]
    corners[:, axis::2] = np.stack([moved.min(axis=(1, 2)), moved.max(axis=(1, 2))], axis=1)
    return sheared(image, slope, axis), relative(corners, image)


def sheared(image: np.ndarray, slope: float, axis: int) -> np.ndarray:
    return affine(image, 1, slope if axis == 0 else 0, 0, slope if axis == 1 else 0, 1, 0)


def rotate(image: np.ndarray, boxes: np.ndarray, level: float, prob: float, rng: Rng) -> Changed:
    """Rotate image and boxes by up to 30 degrees. A box becomes the one around its rotated corners."""
    degrees = signed(level / MAX_LEVEL * 30, rng)
    turned = np.asarray(Image.fromarray(image).rotate(degrees, fillcolor=(GRAY,) * 3))
    height, width = image.shape[:2]
    from_center = pixels(boxes.astype(np.float64) - 0.5, image).astype(np.float64)
    x, y = from_center[:, [0, 2, 0, 2]], -from_center[:, [1, 1, 3, 3]]  # [G, 4] each; y upward
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    new_x, new_y = np.trunc(cos * x - sin * y), np.trunc(cos * y + sin * x)
    sides = [new_x.min(1) / width, -new_y.max(1) / height, new_x.max(1) / width, -new_y.min(1) / height]
    return turned, with_area(np.stack(sides, axis=1) + 0.5)


def auto_contrast(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Stretch each channel to the range from 0 to 255."""
    stretched = image.copy()
    for c in range(3):
        low, high = float(image[..., c].min()), float(image[..., c].max())
        if high > low:
            scale = 255.0 / (high - low)
            values = np.arange(256, dtype=np.float32) * np.float32(scale) + np.float32(-low * scale)
            stretched[..., c] = values.clip(0, 255).astype(np.uint8)[image[..., c]]
    return stretched


def equalize(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Make the histogram of each channel as even as possible."""
    even = image.copy()
    for c in range(3):
        counts = np.bincount(image[..., c].ravel(), minlength=256)
        step = (image[..., c].size - counts[counts > 0][-1]) // 255
        if step:
            table = np.concatenate([[0], (np.cumsum(counts)[:-1] + step // 2) // step])
            even[..., c] = table.clip(0, 255).astype(np.uint8)[image[..., c]]
    return even


def posterize(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Keep the upper level / 10 * 4 bits of each value; none of them below the level 2.5."""
    cleared = 8 - int(level / MAX_LEVEL * 4)
    return (image.astype(np.int32) >> cleared << cleared).astype(np.uint8)


def solarize(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Invert the values from a threshold on, which is 256 at the highest level."""
    return np.where(image.astype(np.int32) < int(level / MAX_LEVEL * 256), image, 255 - image)


def solarize_add(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Add up to 110 to values below 128."""
    brighter = np.minimum(image.astype(np.int32) + int(level / MAX_LEVEL * 110), 255).astype(np.uint8)
    return np.where(image < 128, brighter, image)


def factor_of(level: float) -> float:
    """The factor of brightness, contrast, color and sharpness: 0.1 to 1.9."""
    return level / MAX_LEVEL * 1.8 + 0.1


def extrapolate(start: np.ndarray, end: np.ndarray, factor: float) -> np.ndarray:
    """The image on the line from `start`, at a factor of 0, to `end`, at 1. Values are clipped and truncated."""
    if factor == 1:
        return end
    first = start.astype(np.float32)
    return (first + np.float32(factor) * (end.astype(np.float32) - first)).clip(0, 255).astype(np.uint8)


def color(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Change the saturation."""
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return extrapolate(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), image, factor_of(level))


def contrast(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Change the contrast."""
    return np.asarray(scale_contrast(Image.fromarray(image), factor_of(level)))


def brightness(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Change the brightness."""
    return extrapolate(np.zeros_like(image), image, factor_of(level))


def sharpness(image: np.ndarray, level: float, rng: Rng) -> np.ndarray:
    """Blur or sharpen."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    smooth = cv2.filter2D(image.astype(np.float32), -1, kernel).astype(np.uint8)
    return extrapolate(smooth, image, factor_of(level))


def covered(image: np.ndarray, y: int, x: int, half_h: int, half_w: int) -> np.ndarray:
    """Cover a rectangle around (y, x) with gray."""
    image = image.copy()
    image[max(0, y - half_h) : y + half_h, max(0, x - half_w) : x + half_w] = GRAY
    return image


def cutout(image: np.ndarray, level: float, rng: Rng, largest: int = 100) -> np.ndarray:
    """Cover a square around any pixel. Half its side is up to `largest`."""
    half = int(level / MAX_LEVEL * largest)
    y, x = int(rng.integers(image.shape[0])), int(rng.integers(image.shape[1]))
    return covered(image, y, x, half, half)


def box_cutout(image: np.ndarray, boxes: np.ndarray, level: float, prob: float, rng: Rng) -> Changed:
    """Cover a rectangle around a pixel of a box. Its sides are up to 0.75 times those of the box."""
    x1, y1, x2, y2 = pixels(boxes.clip(0, 1), image)[rng.integers(len(boxes))].tolist()
    half_h, half_w = (int(level / MAX_LEVEL * 0.75 * side / 2) for side in (y2 - y1 + 1, x2 - x1 + 1))
    y, x = int(rng.integers(y1, y2 + 1)), int(rng.integers(x1, x2 + 1))
    return covered(image, y, x, half_h, half_w), boxes


def whole(image: np.ndarray, boxes: np.ndarray, level: float, prob: float, rng: Rng, change: Change) -> Changed:
    """Apply a change that moves no pixel to the whole image."""
    return change(image, level, rng), boxes


def inside(image: np.ndarray, boxes: np.ndarray, level: float, prob: float, rng: Rng, change: Change) -> Changed:
    """Apply a change to the inside of each box, one after another, with a third of the probability each."""
    for x1, y1, x2, y2 in pixels(boxes.clip(0, 1), image).tolist():
        if rng.random() + prob / 3 >= 1:
            content = image[y1 : y2 + 1, x1 : x2 + 1]
            if content.size:
                image = image + np.uint8(1)
                image[y1 : y2 + 1, x1 : x2 + 1] = change(content, level, rng)
    return image, boxes


def inside_moved(
    image: np.ndarray,
    boxes: np.ndarray,
    level: float,
    prob: float,
    rng: Rng,
    move: Callable[[np.ndarray, float, int], np.ndarray],
    axis: int,
    largest: float,
) -> Changed:
    """Translate or shear the inside of boxes, all in the same direction."""
    amount = signed(level / MAX_LEVEL * largest, rng)
    return inside(image, boxes, level, prob, rng, lambda content, level, rng: move(content, amount, axis))


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": partial(whole, change=auto_contrast),
    "Equalize": partial(whole, change=equalize),
    "Posterize": partial(whole, change=posterize),
    "Solarize": partial(whole, change=solarize),
    "SolarizeAdd": partial(whole, change=solarize_add),
    "Color": partial(whole, change=color),
    "Contrast": partial(whole, change=contrast),
    "Brightness": partial(whole, change=brightness),
    "Sharpness": partial(whole, change=sharpness),
    "Cutout": partial(whole, change=cutout),
    "BBox_Cutout": box_cutout,
    "Rotate_BBox": rotate,
    "TranslateX_BBox": partial(translate, axis=0),
    "TranslateY_BBox": partial(translate, axis=1),
    "ShearX_BBox": partial(shear, axis=0),
    "ShearY_BBox": partial(shear, axis=1),
    "TranslateY_Only_BBoxes": partial(inside_moved, move=translated, axis=1, largest=120),
    "ShearX_Only_BBoxes": partial(inside_moved, move=sheared, axis=0, largest=0.3),
    "ShearY_Only_BBoxes": partial(inside_moved, move=sheared, axis=1, largest=0.3),
    "Flip_Only_BBoxes": partial(inside, change=lambda content, level, rng: content[:, ::-1]),
    "Equalize_Only_BBoxes": partial(inside, change=equalize),
    "Cutout_Only_BBoxes": partial(inside, change=partial(cutout, largest=50)),
}
