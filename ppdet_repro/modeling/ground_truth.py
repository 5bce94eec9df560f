"""Ground truth as losses want it. G boxes, N anchors or points, K classes."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F


def without_padding(gt_boxes: paddle.Tensor, gt_classes: paddle.Tensor):
    """The boxes [G, 4] that have an area, and their classes as [G]."""
    kept = paddle.nonzero((gt_boxes[:, 2] > gt_boxes[:, 0]) & (gt_boxes[:, 3] > gt_boxes[:, 1])).reshape([-1])
    return gt_boxes.gather(kept), gt_classes.reshape([-1]).gather(kept)


def one_hot_targets(labels: paddle.Tensor, gt_classes: paddle.Tensor, num_classes: int) -> paddle.Tensor:
    """Labels [N] (index of a ground truth, negative: none) and classes [G] -> [N, K] of zeros and ones."""
    background = paddle.full([1], num_classes, "int64")
    classes = paddle.concat([gt_classes.astype("int64"), background])  # [G + 1]
    index = paddle.where(labels >= 0, labels.astype("int64"), paddle.full_like(labels, len(classes) - 1, "int64"))
    return F.one_hot(classes.gather(index), num_classes + 1)[:, :num_classes]
