"""ATSS: each ground truth has its own IoU threshold between positive and negative anchors.

N anchors, G ground truths, k candidates per level, C candidates of all levels.
Source: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection", CVPR 2020, algorithm 1.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import paddle
from paddle import Tensor

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.assigners.matches import NEGATIVE, Matches, matches_of, no_matches
from ppdet_repro.modeling.boxes import cxcywh_from_xyxy, pairwise_iou
from ppdet_repro.utils.errors import UserError


@register
class ATSSAssigner:
    """Positive are the candidates whose IoU with the box is at least the candidates' mean plus standard deviation.

    Candidates of a box are, on each level, the `topk` anchors whose centers are nearest to its own; the first ones
    where several are equally near (those of one location). The center of a positive anchor also lies inside the box. An
    anchor that is positive for several boxes learns the one with the largest IoU. No anchor is ignored.

    The deviation is the sample's (divided by C - 1), as in the authors' code; that of a single candidate is 0.
    """

    def __init__(self, topk: int = 9):
        if topk < 1:
            raise UserError(f"ATSSAssigner: topk {topk} must be at least 1")
        self.topk = topk

    @paddle.no_grad()
    def __call__(self, predictions: Tensor, anchors: Tensor, gt_boxes: Tensor, levels: Sequence[int] = ()) -> Matches:
        """See `Matcher`. Predictions are not used."""
        if len(gt_boxes) == 0:
            return no_matches(len(anchors))
        overlaps = pairwise_iou(gt_boxes, anchors).numpy()  # [G, N]
        centers, gt_centers = (cxcywh_from_xyxy(boxes)[:, :2].numpy() for boxes in (anchors, gt_boxes))
        boxes = gt_boxes.numpy()
        distances = np.linalg.norm(gt_centers[:, None] - centers[None], axis=-1)  # [G, N]
        candidates = nearest(distances, levels or [len(anchors)], self.topk)  # [G, C]
        candidate_overlaps = np.take_along_axis(overlaps, candidates, axis=1)  # [G, C]
        spread = candidate_overlaps.std(axis=1, ddof=1) if candidates.shape[1] > 1 else np.zeros(len(boxes))
        threshold = candidate_overlaps.mean(axis=1) + spread  # [G]
        candidate_centers = centers[candidates]  # [G, C, 2]
        inside = ((candidate_centers > boxes[:, None, :2]) & (candidate_centers < boxes[:, None, 2:])).all(axis=-1)
        gts, columns = np.nonzero((candidate_overlaps >= threshold[:, None]) & inside)
        claims = np.full(overlaps.shape, -1.0)
        claims[gts, candidates[gts, columns]] = candidate_overlaps[gts, columns]
        labels = np.where(claims.max(axis=0) >= 0, claims.argmax(axis=0), NEGATIVE)
        return matches_of(paddle.to_tensor(labels.astype("int32")))


def nearest(distances: np.ndarray, sizes: Sequence[int], k: int) -> np.ndarray:
    """The `k` nearest anchors of each level, or all where there are fewer: distances [G, N] -> indices [G, C]."""
    ends = np.cumsum(sizes)
    spans = zip(ends - sizes, ends)
    parts = [start + np.argsort(distances[:, start:end], axis=1, kind="stable")[:, :k] for start, end in spans]
    return np.concatenate(parts, axis=1)
