"""ATSS: each ground truth draws its own line between positive and negative anchors.

N anchors, G ground truths, k candidates a level, C candidates of all levels.
Source: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
Selection", CVPR 2020, algorithm 1.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import paddle

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.assigners.matches import NEGATIVE, Matches, matches_of, no_matches
from ppdet_repro.modeling.boxes import cxcywh_from_xyxy, pairwise_iou
from ppdet_repro.utils.errors import UserError


@register
class ATSSAssigner:
    """Candidates of a box are on each level the `topk` anchors whose centres are nearest to its own. Positive are
    those whose IoU with it is at least the candidates' mean plus their standard deviation, if their centre lies
    inside it; an anchor that several boxes claim learns the one that it overlaps most. No anchor is ignored.

    Of equally near anchors (several of one place) the first ones are taken. The deviation is the sample's (divided
    by C - 1), as in the authors' code; that of a single candidate is 0.
    """

    def __init__(self, topk: int = 9):
        if topk < 1:
            raise UserError(f"ATSSAssigner: topk {topk} must be at least 1")
        self.topk = topk

    @paddle.no_grad()
    def __call__(
        self,
        predictions: paddle.Tensor,
        anchors: paddle.Tensor,
        gt_boxes: paddle.Tensor,
        level_sizes: Sequence[int] = (),
    ) -> Matches:
        """See `Matcher`; predictions do not count."""
        if len(gt_boxes) == 0:
            return no_matches(len(anchors))
        overlaps = pairwise_iou(gt_boxes, anchors).numpy()  # [G, N]
        centres, gt_centres = (cxcywh_from_xyxy(boxes)[:, :2].numpy() for boxes in (anchors, gt_boxes))
        boxes = gt_boxes.numpy()
        distances = np.linalg.norm(gt_centres[:, None] - centres[None], axis=-1)  # [G, N]
        candidates = nearest(distances, level_sizes or [len(anchors)], self.topk)  # [G, C]
        of_candidates = np.take_along_axis(overlaps, candidates, axis=1)  # [G, C]
        spread = of_candidates.std(axis=1, ddof=1) if candidates.shape[1] > 1 else np.zeros(len(boxes))
        threshold = of_candidates.mean(axis=1) + spread  # [G]
        places = centres[candidates]  # [G, C, 2]
        inside = ((places > boxes[:, None, :2]) & (places < boxes[:, None, 2:])).all(axis=-1)
        gts, columns = np.nonzero((of_candidates >= threshold[:, None]) & inside)
        claims = np.full(overlaps.shape, -1.0)
        claims[gts, candidates[gts, columns]] = of_candidates[gts, columns]
        labels = np.where(claims.max(axis=0) >= 0, claims.argmax(axis=0), NEGATIVE)
        return matches_of(paddle.to_tensor(labels.astype("int32")))


def nearest(distances: np.ndarray, level_sizes: Sequence[int], k: int) -> np.ndarray:
    """The `k` nearest anchors of each level, or all of a smaller one: distances [G, N] -> indices [G, C]."""
    starts = np.cumsum([0, *level_sizes])
    parts = [
        start + np.argsort(distances[:, start:end], axis=1, kind="stable")[:, :k]
        for start, end in zip(starts[:-1], starts[1:])
    ]
    return np.concatenate(parts, axis=1)
