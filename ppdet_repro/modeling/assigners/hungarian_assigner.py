"""Hungarian matching of N anchors with G ground truths."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import paddle
from paddle import Tensor
from scipy.optimize import linear_sum_assignment

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.assigners.matches import NEGATIVE, Matches, matches_of, no_matches
from ppdet_repro.modeling.boxes import l1_distance


@register
class HungarianAssigner:
    """The one-to-one matching with the smallest total distance. All other anchors are negative.

    The distance of a pair is that of uniform matching: the L1 distances in (cx, cy, w, h) from the box to the anchor
    and to the anchor's prediction, added. YOLOF compares with DETR's matching (Table 5e) and says only that it is
    top-1 matching where no anchor has two boxes. DETR itself has no anchors, so its cost has no term for them.
    If there are more boxes than anchors, some boxes get none.
    Source: YOLOF, section 5.2; Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020,
    section 3.1.
    """

    @paddle.no_grad()
    def __call__(self, predictions: Tensor, anchors: Tensor, gt_boxes: Tensor, levels: Sequence[int] = ()) -> Matches:
        """See `Matcher`. All levels are treated as one."""
        if len(gt_boxes) == 0:
            return no_matches(len(anchors))
        cost = l1_distance(predictions, gt_boxes) + l1_distance(anchors, gt_boxes)  # [N, G]
        rows, columns = linear_sum_assignment(np.nan_to_num(cost.numpy(), nan=1e9, posinf=1e9))
        labels = np.full(len(anchors), NEGATIVE, "int32")
        labels[rows] = columns
        return matches_of(paddle.to_tensor(labels))
