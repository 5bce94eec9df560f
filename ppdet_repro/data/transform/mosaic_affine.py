"""YOLOX's mosaic: four images on a canvas of twice the size, an affine map, and a fifth image that is blended in.

G boxes. Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.1; the numbers are PaddleDetection's.
"""

from __future__ import annotations

import math
from typing import Callable, Sequence

import cv2
import numpy as np

from ppdet_repro.data.transform.base import Context, Sample, append_boxes, between, select_boxes
from ppdet_repro.data.transform.resize import Size
from ppdet_repro.utils.errors import UserError

FILL = 114


def fitted(image: np.ndarray, size: Size) -> tuple[np.ndarray, float]:
    """An image, resized to the largest size with the same ratio that fits into `size`, and the scale."""
    height, width = image.shape[:2]
    scale = min(size.height / height, size.width / width)
    sides = max(1, int(width * scale)), max(1, int(height * scale))
    return cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR), scale


def affine_matrix(degrees: float, scale: float, shear: float, shift_x: float, shift_y: float) -> np.ndarray:
    """Rotate and scale around the origin, shear both axes by the same degrees, then shift: [2, 3] float64."""
    rotation = cv2.getRotationMatrix2D((0, 0), degrees, scale)
    slope = math.tan(shear * math.pi / 180)
    rows = rotation + slope * rotation[::-1]
    rows[:, 2] = shift_x, shift_y
    return rows


def mapped(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The boxes around the mapped corners of boxes, [G, 4] -> [G, 4]."""
    x, y = boxes[:, [0, 2, 0, 2]], boxes[:, [1, 3, 3, 1]]  # [G, 4] each
    corners = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix.T  # [G, 4, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def clipped(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Clip boxes [G, 4] to an image."""
    return np.clip(boxes, 0, [size.width, size.height] * 2)


class AffineMosaic:
    """Makes one image of `size` from five.

    The four images are fitted into `size` and meet at a point of a canvas of twice that size. The point is drawn from
    the middle of the canvas. The canvas is then rotated and scaled around its upper left corner, sheared and shifted,
    and cut to `size`. If there is a box on the canvas, a fifth image is blended in with a weight of one half: fitted,
    scaled, and mirrored at random. Crowd and difficult boxes stay marked.

    Unlike in PaddleDetection, boxes that have no area in the result are removed, and a `size` whose sides differ is
    height and width throughout; PaddleDetection swaps them for the affine map.

    Args:
        size: Size of the result.
        degrees: Range of the rotation.
        translate: Range of the shift, relative to the sides; the same number is drawn for both axes.
        scale: Range of the scale.
        shear: Range of the shear in degrees.
        mixup_prob: Probability of blending.
        mixup_scale: Range of the scale of the fifth image.
        remove_outside_box: Remove the boxes outside of the canvas instead of clipping them to it, and do not clip those
            of the fifth image.
    """

    def __init__(
        self,
        size: Size,
        degrees: Sequence[float],
        translate: Sequence[float],
        scale: Sequence[float],
        shear: Sequence[float],
        mixup_prob: float,
        mixup_scale: Sequence[float],
        remove_outside_box: bool,
    ):
        ranges = {"degrees": degrees, "translate": translate, "scale": scale, "shear": shear}
        for name, values in {**ranges, "mixup_scale": mixup_scale}.items():
            if len(values) != 2 or values[0] > values[1] or ("scale" in name and values[0] <= 0):
                kind = "positive numbers " if "scale" in name else ""
                raise UserError(f"Mosaic: {name} {list(values)} must be {kind}[lowest, highest]")
        self.size, self.ranges = size, list(ranges.values())
        self.mixup_prob, self.mixup_scale, self.remove_outside_box = mixup_prob, mixup_scale, remove_outside_box

    def __call__(self, sample: Sample, ctx: Context, draw: Callable[[], Sample]) -> Sample:
        rng, size = ctx.rng, self.size
        others = [draw() for _ in range(3)]
        point_y, point_x = (int(rng.uniform(0.5 * side, 1.5 * side)) for side in size)
        canvas = self._canvas([sample, *others], point_y, point_x)
        append_boxes(sample, others)
        degrees, scale, shear, translate = (between(self.ranges[i], rng) for i in (0, 2, 3, 1))
        matrix = affine_matrix(degrees, scale, shear, translate * size.width, translate * size.height)
        image = cv2.warpAffine(canvas, matrix, size[::-1], borderValue=(FILL,) * 3)
        large = Size(2 * size.height, 2 * size.width)
        boxes = sample["gt_bbox"]
        if self.remove_outside_box:
            inside = (boxes[:, :2] < large[::-1]).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
            select_boxes(sample, inside)
            boxes = boxes[inside]
        else:
            boxes = clipped(boxes, large)
        sample["gt_bbox"] = clipped(mapped(boxes, matrix), size).astype(np.float32)
        keep_those_with_area(sample)
        if self.mixup_prob and len(boxes) and rng.random() < self.mixup_prob:
            image = self._blend(sample, image, draw(), rng)
        sample["image"] = image
        return sample

    def _canvas(self, parts: Sequence[Sample], point_y: int, point_x: int) -> np.ndarray:
        """Draw four samples around a point, in the order of reading, and move their boxes."""
        rows, columns = (2 * side for side in self.size)
        canvas = np.full((rows, columns, 3), FILL, np.uint8)
        for index, part in enumerate(parts):
            image, scale = fitted(part["image"].astype(np.uint8), self.size)
            height, width = image.shape[:2]
            left, top = point_x - (width if index % 2 == 0 else 0), point_y - (height if index < 2 else 0)
            x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + width, columns), min(top + height, rows)
            canvas[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]
            part["gt_bbox"] = part["gt_bbox"] * np.float32(scale) + np.array([left, top] * 2, np.float32)
        return canvas

    def _blend(self, sample: Sample, image: np.ndarray, other: Sample, rng: np.random.Generator) -> np.ndarray:
        """Append the boxes of the fifth sample to the sample, and return the average of `image` and its image."""
        factor, flip = between(self.mixup_scale, rng), rng.uniform(0, 1) > 0.5
        pasted, scale = fitted(other["image"].astype(np.uint8), self.size)
        page = np.full((*self.size, 3), FILL, np.uint8)
        page[: pasted.shape[0], : pasted.shape[1]] = pasted
        sides = Size(*(max(1, int(side * factor)) for side in self.size))
        page = cv2.resize(page, sides[::-1])
        boxes = clipped(other["gt_bbox"] * np.float32(scale * factor), sides)
        if flip:
            page, boxes = (
                page[:, ::-1],
                np.stack([sides.width - boxes[:, 2], boxes[:, 1], sides.width - boxes[:, 0], boxes[:, 3]], axis=1),
            )
        y, x = (int(rng.integers(side - wanted)) if side > wanted else 0 for side, wanted in zip(sides, self.size))
        shown = np.zeros_like(image)
        part = page[y : y + self.size.height, x : x + self.size.width]
        shown[: part.shape[0], : part.shape[1]] = part
        boxes = boxes - np.array([x, y] * 2)
        if self.remove_outside_box:
            inside = (boxes[:, :2] < self.size[::-1]).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
            select_boxes(other, inside)
            boxes = boxes[inside]
        else:
            boxes = clipped(boxes, self.size)
        other["gt_bbox"] = boxes.astype(np.float32)
        keep_those_with_area(other)
        append_boxes(sample, [other])
        return (0.5 * image.astype(np.float32) + 0.5 * shown.astype(np.float32)).astype(np.uint8)


def keep_those_with_area(sample: Sample) -> None:
    """Remove the boxes of no width or no height."""
    boxes = sample["gt_bbox"]
    select_boxes(sample, (boxes[:, 2:] > boxes[:, :2]).all(axis=1))
