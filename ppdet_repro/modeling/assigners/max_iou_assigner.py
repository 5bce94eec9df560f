"""Matching of N anchors with G ground truths by their IoU."""

from __future__ import annotations

from typing import Sequence

import paddle
from paddle import Tensor

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.assigners.matches import IGNORED, NEGATIVE, Matches, matches_of, no_matches
from ppdet_repro.modeling.boxes import pairwise_iou
from ppdet_repro.utils.errors import UserError

TIE = 1e-8
"""IoUs that differ by less count as equal: a small box has the same IoU, up to rounding, with every anchor of one size
that contains it. PaddleDetection compares with `==`, which has this tolerance in Paddle 2 and none in Paddle 3; its
RetinaNets were published for Paddle 2.
"""


@register
class MaxIoUAssigner:
    """An anchor learns the object with which it has the largest IoU, if that is large enough.

    Source: RetinaNet, section 4; Faster R-CNN, section 3.1.2.

    Args:
        positive_overlap: From this IoU on, an anchor learns the box.
        negative_overlap: Below this IoU, an anchor is background. In between it is ignored.
        allow_low_quality: For each box, the anchors with the largest IoU with it are positive whatever that IoU is.
            They learn the box with which they have the largest IoU themselves, which may be another one.
    """

    def __init__(self, positive_overlap: float, negative_overlap: float, allow_low_quality: bool = True):
        if negative_overlap > positive_overlap:
            raise UserError(
                f"MaxIoUAssigner: negative_overlap {negative_overlap} is above positive_overlap {positive_overlap}"
            )
        self.positive_overlap, self.negative_overlap = positive_overlap, negative_overlap
        self.allow_low_quality = allow_low_quality

    @paddle.no_grad()
    def __call__(self, predictions: Tensor, anchors: Tensor, gt_boxes: Tensor, levels: Sequence[int] = ()) -> Matches:
        """See `Matcher`. Predictions and levels are not used."""
        if len(gt_boxes) == 0:
            return no_matches(len(anchors))
        overlaps = pairwise_iou(gt_boxes, anchors)  # [G, N]
        best = overlaps.max(axis=0)  # [N]
        positive = best >= self.positive_overlap
        if self.allow_low_quality:
            of_each_box = overlaps.max(axis=1, keepdim=True)  # [G, 1]
            positive = positive | ((of_each_box - overlaps <= TIE) & (overlaps > 0)).any(axis=0)
        negative, ignored = (paddle.full([len(anchors)], value, "int64") for value in (NEGATIVE, IGNORED))
        others = paddle.where(best < self.negative_overlap, negative, ignored)
        return matches_of(paddle.where(positive, overlaps.argmax(axis=0), others))
