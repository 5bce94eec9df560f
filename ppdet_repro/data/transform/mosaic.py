"""Mosaic and the jittered crop that precedes it, as in YOLOv4.

Without a dataset to draw from, Mosaic does nothing.
Source: Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, section 3.3.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample, append_boxes, select_boxes
from ppdet_repro.data.transform.resize import size_of
from ppdet_repro.utils.errors import UserError


def window(sample: Sample, x: int, y: int, width: int, height: int, fill: np.ndarray) -> Sample:
    """Cut a window with its top left corner at (x, y), which may be negative, out of a sample.

    Pixels outside the image are `fill` (RGB). Boxes are clipped to the window, and those with a side of less than a
    pixel are removed.
    """
    image = sample["image"]
    shown = np.empty((height, width, image.shape[2]), image.dtype)
    shown[:] = fill.astype(image.dtype)
    x1, y1 = max(x, 0), max(y, 0)
    x2, y2 = min(x + width, image.shape[1]), min(y + height, image.shape[0])
    if x2 > x1 and y2 > y1:
        shown[y1 - y : y2 - y, x1 - x : x2 - x] = image[y1:y2, x1:x2]
    sample["image"] = shown
    moved: np.ndarray = sample["gt_bbox"] - np.array([x, y, x, y], np.float32)
    boxes: np.ndarray = np.clip(moved, 0, np.array([width, height] * 2, np.float32))
    sample["gt_bbox"] = boxes
    select_boxes(sample, (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1))
    return sample


@register
class JitterCrop:
    """Moves each side of the image in or out by up to `jitter` times its length.

    Pixels outside the image are filled with its mean color. If no box would remain, the image is not cropped.
    """

    def __init__(self, jitter: float = 0.3):
        if not 0 < jitter < 0.5:
            raise UserError(f"JitterCrop: jitter {jitter} must lie between 0 and 0.5")
        self.jitter = jitter

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        height, width = sample["image"].shape[:2]
        limit = np.array([width, height, width, height]) * self.jitter
        left, top, right, bottom = (int(side) for side in ctx.rng.uniform(-limit, limit))
        size = width - left - right, height - top - bottom
        mean = sample["image"].mean(axis=(0, 1))
        cropped = window(sample.copy(), left, top, *size, mean)
        return cropped if len(cropped["gt_bbox"]) or not len(sample["gt_bbox"]) else sample


@register
class Mosaic:
    """With probability `prob`, combines the image with three others on one canvas.

    The four images meet at a point that is drawn from the middle of the canvas. Each quarter shows a random window of
    its image. An image that is smaller than its quarter is shown whole, next to the point, on black. (In YOLOv4's
    program, the position of the window depends on the preceding crop; the paper does not mention it.)
    Boxes with a side of less than a pixel are removed.

    Args:
        target_size: Size of the canvas: height and width, or one number for both.
        prob: Probability of doing anything.
        min_offset: Least distance of the point from the border, relative to the side of the canvas.
    """

    def __init__(self, target_size: int | Sequence[int], prob: float = 0.5, min_offset: float = 0.2):
        self.target_size = size_of(target_size, "Mosaic")
        if not 0 < min_offset < 0.5:
            raise UserError(f"Mosaic: min_offset {min_offset} must lie between 0 and 0.5")
        self.prob, self.min_offset = prob, min_offset

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.draw is None or ctx.rng.random() >= self.prob:
            return sample
        height, width = self.target_size
        offsets = ctx.rng.uniform(self.min_offset, 1 - self.min_offset, size=2)
        point_x, point_y = int(width * offsets[0]), int(height * offsets[1])
        rows = [(0, point_y), (point_y, height)]
        columns = [(0, point_x), (point_x, width)]
        quarters = [(*row, *column) for row in rows for column in columns]  # y1, y2, x1, x2
        canvas = np.zeros((height, width, 3), sample["image"].dtype)
        parts = []
        for index, (y1, y2, x1, x2) in enumerate(quarters):
            part = sample if index == 0 else ctx.draw()
            room_x, room_y = part["image"].shape[1] - (x2 - x1), part["image"].shape[0] - (y2 - y1)
            x, y = window_start(room_x, x1 == 0, ctx), window_start(room_y, y1 == 0, ctx)
            part = window(part, x, y, x2 - x1, y2 - y1, np.zeros(3))
            canvas[y1:y2, x1:x2] = part["image"]
            part["gt_bbox"] = part["gt_bbox"] + np.array([x1, y1, x1, y1], np.float32)
            parts.append(part)
        append_boxes(sample, parts[1:])  # the first part is the sample itself
        sample["image"] = canvas
        sample["im_shape"] = np.array(self.target_size, np.float32)
        sample["scale_factor"] = np.ones(2, np.float32)
        return sample


def window_start(room: int, before_point: bool, ctx: Context) -> int:
    """Choose the start of a window along one axis of an image that is `room` pixels longer than the window.

    If the image is shorter (`room` is negative), it must touch the meeting point. This is the end of the window if the
    window lies `before_point`.
    """
    if room >= 0:
        return int(ctx.rng.integers(room + 1))
    return room if before_point else 0
