"""Training targets of YOLOv3 and PP-YOLO heads.

G ground truths, A anchors of all levels, M anchors of one level, K classes, H x W the cells of one level.
"""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.data.transform.base import BatchTransform, Context, Sample, describe
from ppdet_repro.utils.boxes import shape_iou
from ppdet_repro.utils.errors import UserError


def yolo_target(
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    input_size: tuple[int, int],
    anchors: np.ndarray,
    mask: Sequence[int],
    stride: int,
    num_classes: int,
    iou_thresh: float = 1.0,
) -> np.ndarray:
    """Assign boxes to the anchors and cells of one level.

    A box is assigned to the anchor with the best shape IoU (the first of equals) in the cell that contains its
    center. If two boxes are assigned to one anchor of one cell, the later one replaces the first six entries, and
    the classes of both are set.

    Args:
        boxes: [G, 4] float32, center x, center y, width and height relative to the input. Boxes without area are
            padding.
        classes: [G] int.
        scores: [G], 1 or the weight that Mixup gives. Boxes with a score of 0 are padding.
        input_size: Height and width of the input in pixels.
        anchors: [A, 2], width and height in pixels.
        mask: The indices of this level's anchors.
        stride: Pixels per cell.
        iou_thresh: If below 1, a box is also assigned to all other anchors of this level whose shape IoU with it is
            larger, unless another box has been assigned to them.

    Returns:
        [M, 6 + K, H, W] float32: position of the center in its cell (x, y), logarithms of width and height over the
        anchor's, 2 minus the relative area, score, and classes.
    """
    height, width = input_size
    grid_h, grid_w = height // stride, width // stride
    target = np.zeros((len(mask), 6 + num_classes, grid_h, grid_w), np.float32)
    areas = boxes[:, 2] * boxes[:, 3]  # float32; everything else is float64, as in PaddleDetection
    boxes = boxes.astype(np.float64)
    real = np.flatnonzero((boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (scores > 0))
    ious = shape_iou(boxes[:, 2:], anchors / np.array([width, height]))  # [G, A]
    for g in real:
        x, y, w, h = boxes[g]
        column, row = min(int(x * grid_w), grid_w - 1), min(int(y * grid_h), grid_h - 1)
        best = ious[g].argmax()
        for slot, anchor in enumerate(mask):
            cell = target[slot, :, row, column]  # [6 + K]
            also = iou_thresh < 1 and ious[g, anchor] > iou_thresh and cell[5] == 0
            if anchor == best or also:
                anchor_w, anchor_h = anchors[anchor]
                cell[:2] = x * grid_w - column, y * grid_h - row
                cell[2:4] = np.log(w * width / anchor_w), np.log(h * height / anchor_h)
                cell[4:6] = 2.0 - areas[g], scores[g]
                cell[6 + classes[g]] = 1
    return target


@register
class Gt2YoloTarget(BatchTransform):
    """Adds target0, target1, ..., one per level (see `yolo_target`), and removes gt_class and gt_score.

    NormalizeBox and BboxXYXY2XYWH must come before it, and behind all transforms that move boxes or change the image's
    size; otherwise, it raises UserError.

    Args:
        anchors: Width and height in pixels of the anchors of all levels.
        anchor_masks: Per level, the indices of its anchors.
        downsample_ratios: Per level, its stride.
        num_classes, iou_thresh: See `yolo_target`.
    """

    def __init__(
        self,
        anchors: Shared[Sequence[Sequence[float]]],
        anchor_masks: Shared[Sequence[Sequence[int]]],
        downsample_ratios: Sequence[int],
        num_classes: Shared[int] = 80,
        iou_thresh: float = 1.0,
    ):
        if len(anchor_masks) != len(downsample_ratios):
            raise UserError(
                f"Gt2YoloTarget: {len(anchor_masks)} anchor_masks but {len(downsample_ratios)} "
                "downsample_ratios; give one of each per level"
            )
        unknown = {index for mask in anchor_masks for index in mask if not 0 <= index < len(anchors)}
        if unknown:
            raise UserError(f"Gt2YoloTarget: anchor_masks name anchors {sorted(unknown)}, there are {len(anchors)}")
        self.anchors = np.array(anchors, np.float64)
        self.anchor_masks, self.downsample_ratios = anchor_masks, downsample_ratios
        self.num_classes, self.iou_thresh = num_classes, iou_thresh

    @property
    def target_settings(self) -> dict[str, Any]:
        """The parameters that must have the same values in YOLOv3Head."""
        masks, ratios = [list(mask) for mask in self.anchor_masks], list(self.downsample_ratios)
        return {"anchors": self.anchors.tolist(), "anchor_masks": masks, "downsample_ratios": ratios}

    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]:
        height, width = samples[0]["image"].shape[1:]
        for sample in samples:
            boxes = _relative_boxes(sample, height, width)
            classes = np.ravel(sample.pop("gt_class"))
            scores = np.ravel(sample.pop("gt_score", np.ones(len(boxes), np.float32)))
            for level, (mask, stride) in enumerate(zip(self.anchor_masks, self.downsample_ratios)):
                settings = (self.anchors, mask, stride, self.num_classes, self.iou_thresh)
                target = yolo_target(boxes, classes, scores, (height, width), *settings)
                sample[f"target{level}"] = target  # type: ignore[literal-required]  # as many as there are levels
        return samples


def _relative_boxes(sample: Sample, height: int, width: int) -> np.ndarray:
    """The sample's `gt_cxcywh_relative` [G, 4], after checking that it describes the same boxes as `gt_bbox`."""
    fix = "put NormalizeBox and BboxXYXY2XYWH behind all transforms that move boxes or change the image's size"
    if "gt_cxcywh_relative" not in sample:
        raise UserError(f"Gt2YoloTarget: {describe(sample)} has no gt_cxcywh_relative; {fix}")
    relative = sample["gt_cxcywh_relative"]
    half = relative[:, 2:] / 2
    corners = np.concatenate([relative[:, :2] - half, relative[:, :2] + half], axis=1)
    if not np.allclose(corners * np.array([width, height] * 2), sample["gt_bbox"], rtol=0, atol=0.1):  # pixels
        raise UserError(f"Gt2YoloTarget: gt_cxcywh_relative of {describe(sample)} does not fit gt_bbox; {fix}")
    return relative
