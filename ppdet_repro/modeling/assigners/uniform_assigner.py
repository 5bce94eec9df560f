"""Uniform matching: every ground truth gets the same number of positive anchors, whatever its size.

N anchors, G ground truths, k nearest anchors, P pairs.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import paddle
from paddle import Tensor

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.assigners.matches import IGNORED, NEGATIVE, Matches, no_matches
from ppdet_repro.modeling.boxes import iou, l1_distance, pairwise_iou


@register
class UniformAssigner:
    """Matches each box with the nearest anchors, and with the anchors whose predictions are nearest.

    Nearest by L1 distance in (cx, cy, w, h), in pixels. Where pairs compete for an anchor's label, the last one wins:
    pairs of predictions come first, then pairs of anchors, each ordered by rank, then by ground truth. The last one may
    be ignored, although the anchor was positive for another box. (PaddleDetection writes all pairs in one indexed
    assignment, whose order is undefined. This is its sequential reading.)

    Source: YOLOF, section 4.2 and supplementary A.

    Args:
        pos_ignore_thr: A pair whose anchor has a smaller IoU with the box is ignored.
        neg_ignore_thr: Any other anchor whose prediction has a larger IoU with a box is ignored.
        match_times: How many anchors, and as many predictions, each box is matched with.
    """

    def __init__(self, pos_ignore_thr: float, neg_ignore_thr: float, match_times: int = 4):
        self.pos_ignore_thr, self.neg_ignore_thr = pos_ignore_thr, neg_ignore_thr
        self.match_times = match_times

    @paddle.no_grad()
    def __call__(self, predictions: Tensor, anchors: Tensor, gt_boxes: Tensor, levels: Sequence[int] = ()) -> Matches:
        """See `Matcher`. All levels are treated as one."""
        count, num_gts = anchors.shape[0], gt_boxes.shape[0]
        if num_gts == 0:
            return no_matches(count)
        k = min(self.match_times, count)
        nearest = [l1_distance(boxes, gt_boxes).topk(k, axis=0, largest=False)[1] for boxes in (predictions, anchors)]
        pair_anchors = paddle.concat(nearest).reshape([-1])  # [2*k, G] -> [P], rank outermost
        pair_gts = paddle.arange(num_gts).tile([2 * k])  # [P]
        overlaps = iou(anchors.gather(pair_anchors), gt_boxes.gather(pair_gts))  # [P]

        close = pairwise_iou(predictions, gt_boxes).max(axis=1) > self.neg_ignore_thr  # [N]
        labels = np.where(close.numpy(), IGNORED, NEGATIVE).astype("int32")
        positive = overlaps.numpy() >= self.pos_ignore_thr
        index, values = pair_anchors.numpy(), np.where(positive, pair_gts.numpy(), IGNORED)
        last = len(index) - 1 - np.unique(index[::-1], return_index=True)[1]  # the last pair of each anchor
        labels[index[last]] = values[last]

        kept = paddle.to_tensor(np.flatnonzero(positive))
        return Matches(paddle.to_tensor(labels), pair_anchors.gather(kept), pair_gts.gather(kept))
