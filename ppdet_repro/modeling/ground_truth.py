"""Ground truth in the form that losses need.

G ground truths of an image, N anchors or points, K classes.
"""

from __future__ import annotations

from typing import List, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppdet_repro.core.contract import Batch
from ppdet_repro.modeling.boxes import has_area


class GroundTruth(NamedTuple):
    """The objects of one image."""

    boxes: Tensor  # [G, 4] xyxy, input pixels
    classes: Tensor  # [G]


def ground_truths(batch: Batch) -> List[GroundTruth]:
    """The objects of each image of a batch, from `gt_bbox` and `gt_class`, without padding."""
    return [without_padding(*truth) for truth in zip(batch["gt_bbox"], batch["gt_class"])]


def without_padding(gt_boxes: Tensor, gt_classes: Tensor) -> GroundTruth:
    """One image's boxes that have an area, and their classes: [G, 4], [G] or [G, 1]."""
    kept = paddle.nonzero(has_area(gt_boxes)).reshape([-1])
    return GroundTruth(gt_boxes.gather(kept), gt_classes.reshape([-1]).gather(kept))


def one_hot_targets(labels: Tensor, gt_classes: Tensor, num_classes: int) -> Tensor:
    """Classification targets of anchors or points [N, K]: 1 for the class of the ground truth, else 0.

    `labels` are the indices of their ground truths [N], negative for none; `gt_classes` is [G].
    """
    classes = paddle.concat([gt_classes.astype("int64"), paddle.full([1], num_classes, "int64")])  # [G + 1]
    index = paddle.where(labels >= 0, labels.astype("int64"), paddle.full_like(labels, len(classes) - 1, "int64"))
    return F.one_hot(classes.gather(index), num_classes + 1)[:, :num_classes]
