"""Box entries for YOLOv3's targets and loss: relative coordinates, and padding to a fixed number of boxes.

`gt_bbox` itself stays in pixels. Put these transforms after all those that move boxes or change the image's size.
"""

from __future__ import annotations

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import PER_BOX, Context, Sample, describe
from ppdet_repro.utils.errors import UserError


@register
class NormalizeBox:
    """Adds `gt_xyxy_relative`: the boxes divided by the width and height of the image, which is [H, W, C]."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if "gt_bbox" in sample:
            height, width = sample["image"].shape[:2]
            sample["gt_xyxy_relative"] = sample["gt_bbox"] / np.array([width, height] * 2, np.float32)
        return sample


@register
class BboxXYXY2XYWH:
    """Replaces `gt_xyxy_relative`, which NormalizeBox adds, by `gt_cxcywh_relative`: center x, y, width, height."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if "gt_bbox" in sample:
            if "gt_xyxy_relative" not in sample:
                raise UserError(f"BboxXYXY2XYWH: {describe(sample)} has no relative boxes; put NormalizeBox before it")
            corner, opposite = np.split(sample.pop("gt_xyxy_relative"), 2, axis=1)
            size = opposite - corner
            sample["gt_cxcywh_relative"] = np.concatenate([corner + size / 2, size], axis=1)
        return sample


@register
class PadBox:
    """Makes the number of boxes equal to `num_max_boxes`: zeros are appended, or the last boxes are cut off.

    Entries with four numbers per box become [num_max_boxes, 4], all others [num_max_boxes].
    """

    def __init__(self, num_max_boxes: int = 50):
        if num_max_boxes < 1:
            raise UserError(f"PadBox: num_max_boxes {num_max_boxes} must be at least 1")
        self.num_max_boxes = num_max_boxes

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        for key in PER_BOX:
            if key in sample:
                values = sample[key]  # [G, 4] or [G, 1]
                padded = np.zeros((self.num_max_boxes, values.shape[1]), values.dtype)
                padded[: len(values)] = values[: self.num_max_boxes]
                sample[key] = padded[:, 0] if values.shape[1] == 1 else padded
        return sample
