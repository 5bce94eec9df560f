"""Mosaic, as in YOLOv4 or as in YOLOX, and the jittered crop that precedes it in YOLOv4.

Without a dataset to draw from, Mosaic does nothing.
Source: Bochkovskiy et al., "YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, section 3.3.
"""

from __future__ import annotations

from typing import Callable, Optional, Sequence

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample, append_boxes, select_boxes
from ppdet_repro.data.transform.mosaic_affine import AffineMosaic
from ppdet_repro.data.transform.resize import Size, size_of
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


class Windows:
    """YOLOv4's mosaic: the four images meet at a point of the canvas, and each quarter shows a window of its image.

    An image that is smaller than its quarter is shown whole, next to the point, on black. (In YOLOv4's program, the
    position of the window depends on the preceding crop; the paper does not mention it.) Boxes with a side of less than
    a pixel are removed.

    Args:
        size: Size of the canvas.
        min_offset: Least distance of the point from the border, relative to the side of the canvas.
    """

    def __init__(self, size: Size, min_offset: float):
        if not 0 < min_offset < 0.5:
            raise UserError(f"Mosaic: min_offset {min_offset} must lie between 0 and 0.5")
        self.size, self.min_offset = size, min_offset

    def __call__(self, sample: Sample, ctx: Context, draw: Callable[[], Sample]) -> Sample:
        height, width = self.size
        offsets = ctx.rng.uniform(self.min_offset, 1 - self.min_offset, size=2)
        point_x, point_y = int(width * offsets[0]), int(height * offsets[1])
        rows = [(0, point_y), (point_y, height)]
        columns = [(0, point_x), (point_x, width)]
        quarters = [(*row, *column) for row in rows for column in columns]  # y1, y2, x1, x2
        canvas = np.zeros((height, width, 3), sample["image"].dtype)
        parts = []
        for index, (y1, y2, x1, x2) in enumerate(quarters):
            part = sample if index == 0 else draw()
            room_x, room_y = part["image"].shape[1] - (x2 - x1), part["image"].shape[0] - (y2 - y1)
            x, y = window_start(room_x, x1 == 0, ctx), window_start(room_y, y1 == 0, ctx)
            part = window(part, x, y, x2 - x1, y2 - y1, np.zeros(3))
            canvas[y1:y2, x1:x2] = part["image"]
            part["gt_bbox"] = part["gt_bbox"] + np.array([x1, y1, x1, y1], np.float32)
            parts.append(part)
        append_boxes(sample, parts[1:])  # the first part is the sample itself
        sample["image"] = canvas
        return sample


def window_start(room: int, before_point: bool, ctx: Context) -> int:
    """Choose the start of a window along one axis of an image that is `room` pixels longer than the window.

    If the image is shorter (`room` is negative), it must touch the meeting point. This is the end of the window if the
    window lies `before_point`.
    """
    if room >= 0:
        return int(ctx.rng.integers(room + 1))
    return room if before_point else 0


@register
class Mosaic:
    """With probability `prob`, combines the image with others on one canvas.

    With `input_dim`, or without a size, this is YOLOX's mosaic as PaddleDetection has it, see `AffineMosaic`. With
    `target_size`, it is YOLOv4's mosaic, see `Windows`.

    Args:
        target_size: Size of YOLOv4's canvas: height and width, or one number for both.
        prob: Probability of doing anything (default: 0.5 with `target_size`, otherwise 1).
        min_offset: See `Windows`.
        input_dim: Size of YOLOX's result: height and width, or one number for both (default: 640).
        degrees, translate, scale, shear: See `AffineMosaic`, as for the parameters below.
        enable_mixup: Whether to blend the result with a fifth image.
        mixup_prob: Probability of blending.
        mixup_scale: Range of the fifth image's scale.
        remove_outside_box: How boxes outside of the image are treated.
    """

    def __init__(
        self,
        target_size: Optional[int | Sequence[int]] = None,
        prob: Optional[float] = None,
        min_offset: float = 0.2,
        input_dim: Optional[int | Sequence[int]] = None,
        degrees: Sequence[float] = (-10, 10),
        translate: Sequence[float] = (-0.1, 0.1),
        scale: Sequence[float] = (0.1, 2),
        shear: Sequence[float] = (-2, 2),
        enable_mixup: bool = True,
        mixup_prob: float = 1.0,
        mixup_scale: Sequence[float] = (0.5, 1.5),
        remove_outside_box: bool = False,
    ):
        if target_size is not None and input_dim is not None:
            raise UserError("Mosaic: give target_size for YOLOv4's mosaic or input_dim for YOLOX's, not both")
        self.scheduled = target_size is None  # it is active only in the epochs of TrainReader.mosaic_epoch
        self.combine: Windows | AffineMosaic
        if target_size is not None:
            self.prob = 0.5 if prob is None else prob
            self.combine = Windows(size_of(target_size, "Mosaic"), min_offset)
        else:
            self.prob = 1.0 if prob is None else prob
            size = size_of(640 if input_dim is None else input_dim, "Mosaic")
            mixup = mixup_prob if enable_mixup else 0.0, mixup_scale
            self.combine = AffineMosaic(size, degrees, translate, scale, shear, *mixup, remove_outside_box)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.draw is None or ctx.rng.random() >= self.prob:
            return sample
        sample = self.combine(sample, ctx, ctx.draw)
        height, width = sample["image"].shape[:2]
        sample["h"], sample["w"] = height, width
        sample["im_shape"] = np.array([height, width], np.float32)
        sample["scale_factor"] = np.ones(2, np.float32)
        return sample
