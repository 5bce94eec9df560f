"""Training targets of YOLOv3 and PP-YOLO heads.

G ground truths, A anchors of all levels, M anchors of one level, C classes, H x W its cells.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.data.transform.base import BatchTransform, Context, Sample
from ppdet_repro.utils.errors import UserError


def shape_iou(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of boxes [G, 2] and anchors [A, 2] (width, height) as if all had the same corner: [G, A]."""
    both = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)  # [G, A]
    return both / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - both)


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
    """The target of one level: [M, 6 + C, H, W] float32.

    boxes       [G, 4] float32: centre x, y, width, height, relative to the input; an empty box, or one
                whose score is 0, counts as padding
    classes     [G] int
    scores      [G]; 1, or the weight that Mixup gave
    input_size  (height, width) in pixels
    anchors     [A, 2] (width, height) in pixels, of all levels
    mask        which of them are this level's
    iou_thresh  below 1: anchors of this level whose shape IoU with a box exceeds it take the box too,
                where nothing else has

    A box belongs to the anchor of best shape (the first of equals) and to the cell with its centre. The
    six entries: the centre's place in the cell, x and y; log of width and height over the anchor's;
    2 - relative area; score. Then the classes. A later box in the same place overwrites the six, but
    classes add up.
    """
    height, width = input_size
    grid_h, grid_w = height // stride, width // stride
    target = np.zeros((len(mask), 6 + num_classes, grid_h, grid_w), np.float32)
    areas = boxes[:, 2] * boxes[:, 3]  # in float32, all else in float64, as the reference rounds
    boxes = boxes.astype(np.float64)
    real = np.flatnonzero((boxes[:, 2] > 0) & (boxes[:, 3] > 0) & (scores > 0))
    ious = shape_iou(boxes[:, 2:], anchors / np.array([width, height]))  # [G, A]
    for g in real:
        x, y, w, h = boxes[g]
        column, row = min(int(x * grid_w), grid_w - 1), min(int(y * grid_h), grid_h - 1)
        best = ious[g].argmax()
        for slot, anchor in enumerate(mask):
            cell = target[slot, :, row, column]  # [6 + C]
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
    """Adds target0, target1, ... (`yolo_target`), one for each level; removes gt_class and gt_score.

    anchors            [width, height] in pixels, of all levels
    anchor_masks       for each level, the indices of its anchors
    downsample_ratios  for each level, its stride
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
                "downsample_ratios; give one of each a level"
            )
        unknown = {index for mask in anchor_masks for index in mask if not 0 <= index < len(anchors)}
        if unknown:
            raise UserError(f"Gt2YoloTarget: anchor_masks name anchors {sorted(unknown)}, there are {len(anchors)}")
        self.anchors = np.array(anchors, np.float64)
        self.anchor_masks, self.downsample_ratios = anchor_masks, downsample_ratios
        self.num_classes, self.iou_thresh = num_classes, iou_thresh

    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]:
        input_size = samples[0]["image"].shape[1:]
        for sample in samples:
            boxes, classes = sample["gt_bbox"], np.ravel(sample.pop("gt_class"))
            scores = np.ravel(sample.pop("gt_score", np.ones(len(boxes), np.float32)))
            for level, (mask, stride) in enumerate(zip(self.anchor_masks, self.downsample_ratios)):
                sample[f"target{level}"] = yolo_target(
                    boxes, classes, scores, input_size, self.anchors, mask, stride, self.num_classes, self.iou_thresh
                )
        return samples
