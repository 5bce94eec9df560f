"""Mosaic and the jittered crop before it: YOLOv4's augmentations.

The reader decides nothing here; without a data set to draw from Mosaic does nothing.
Source: Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, section 3.3.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import PER_BOX, Context, Sample, select_boxes
from ppdet_repro.data.transform.resize import size_of
from ppdet_repro.utils.errors import UserError


def window(sample: Sample, x: int, y: int, width: int, height: int, fill: np.ndarray) -> Sample:
    """The sample as a rectangle shows it whose corner lies at (x, y), which may be negative: pixels beyond the image
    are `fill` (RGB). Boxes are cut to the rectangle; those without a pixel in it are dropped."""
    image = sample["image"]
    shown = np.empty((height, width, image.shape[2]), image.dtype)
    shown[:] = fill.astype(image.dtype)
    x1, y1 = max(x, 0), max(y, 0)
    x2, y2 = min(x + width, image.shape[1]), min(y + height, image.shape[0])
    if x2 > x1 and y2 > y1:
        shown[y1 - y : y2 - y, x1 - x : x2 - x] = image[y1:y2, x1:x2]
    sample["image"] = shown
    boxes = sample["gt_bbox"] - np.array([x, y, x, y], np.float32)
    sample["gt_bbox"] = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
    select_boxes(sample, (sample["gt_bbox"][:, 2:] - sample["gt_bbox"][:, :2] >= 1).all(axis=1))
    return sample


@register
class JitterCrop:
    """Move each side of the image in or out by up to `jitter` of its length, filling with the image's mean colour.

    If no box would stay, nothing is cropped.
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
        cropped = window(dict(sample), left, top, *size, mean)
        return cropped if len(cropped["gt_bbox"]) or not len(sample["gt_bbox"]) else sample


@register
class Mosaic:
    """With probability `prob`, four images on one canvas of `target_size` (height, width).

    They meet at a point drawn between `min_offset` and 1 - `min_offset` of each side. A quarter shows a window of its
    own size at a random place of its image, or the whole of a smaller image, next to the point, on black. (YOLOv4's
    program ties the place to the crop before; its paper does not speak of it.) Boxes of less than a pixel are dropped.
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
            x = place(room_x, x1 == 0, ctx)
            y = place(room_y, y1 == 0, ctx)
            part = window(part, x, y, x2 - x1, y2 - y1, np.zeros(3))
            canvas[y1:y2, x1:x2] = part["image"]
            part["gt_bbox"] = part["gt_bbox"] + np.array([x1, y1, x1, y1], np.float32)
            parts.append(part)
        for key in PER_BOX:
            if key in sample:
                sample[key] = np.concatenate([part[key] for part in parts])
        sample["image"] = canvas
        sample["im_shape"] = np.array(self.target_size, np.float32)
        sample["scale_factor"] = np.ones(2, np.float32)
        return sample


def place(room: int, before_point: bool, ctx: Context) -> int:
    """Where a window begins along one axis of an image that is `room` pixels longer: anywhere; in a shorter image so
    that the image touches the meeting point, which is the window's end if it lies `before_point`."""
    if room >= 0:
        return int(ctx.rng.integers(room + 1))
    return room if before_point else 0
