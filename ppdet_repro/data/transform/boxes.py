"""The form of a sample's boxes: relative to the image, centre and size, padded to one number."""

from __future__ import annotations

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import PER_BOX, Context, Sample
from ppdet_repro.utils.errors import UserError


@register
class NormalizeBox:
    """Boxes in pixels -> relative to the image's width and height; image [H, W, C]."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if "gt_bbox" in sample:
            height, width = sample["image"].shape[:2]
            sample["gt_bbox"] = sample["gt_bbox"] / np.array([width, height] * 2, np.float32)
        return sample


@register
class BboxXYXY2XYWH:
    """Boxes x1, y1, x2, y2 -> centre x, centre y, width, height."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if "gt_bbox" in sample:
            corner, opposite = np.split(sample["gt_bbox"], 2, axis=1)
            size = opposite - corner
            sample["gt_bbox"] = np.concatenate([corner + size / 2, size], axis=1)
        return sample


@register
class PadBox:
    """Exactly `num_max_boxes` boxes: gt_bbox [N, 4], everything else per box [N]; zeros are added,
    boxes beyond the number are cut."""

    def __init__(self, num_max_boxes: int = 50):
        if num_max_boxes < 1:
            raise UserError(f"PadBox: num_max_boxes {num_max_boxes} must be at least 1")
        self.num_max_boxes = num_max_boxes

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        for key in PER_BOX:
            if key in sample:
                values = sample[key] if key == "gt_bbox" else sample[key][:, 0]
                padded = np.zeros((self.num_max_boxes, *values.shape[1:]), values.dtype)
                padded[: len(values)] = values[: self.num_max_boxes]
                sample[key] = padded
        return sample
