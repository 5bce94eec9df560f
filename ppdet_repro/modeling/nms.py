"""Non-maximum suppression. B images, N candidate boxes, K classes."""

from __future__ import annotations

from typing import Optional, Tuple

import paddle
from paddle import Tensor

from ppdet_repro.core.contract import Detections
from ppdet_repro.core.registry import register
from ppdet_repro.modeling.sizes import Size, sizes
from ppdet_repro.paddle_private.operators import matrix_nms, multiclass_nms
from ppdet_repro.utils.errors import UserError


@register
class MultiClassNMS:
    """Hard non-maximum suppression per class.

    Rows are grouped by class and ordered by score within a class.

    Args:
        score_threshold: Boxes with this score or less are dropped.
        nms_top_k: How many boxes per class take part; -1 for all.
        keep_top_k: How many boxes per image are kept; -1 for all.
        nms_threshold: A box whose IoU with a better box of its class is larger than this is dropped.
        normalized: Whether a box is as wide as x2 - x1. If not, it is one pixel wider, and likewise higher.
        nms_eta: Factor on `nms_threshold` after each box that is kept, as long as it is above 0.5; 1 for none.
        background_label: The class to leave out; -1 for none.
        cpu, trt, return_index, return_rois_num: Accepted for compatibility, without effect.
    """

    name = "MultiClassNMS"

    def __init__(
        self,
        score_threshold: float = 0.05,
        nms_top_k: int = -1,
        keep_top_k: int = 100,
        nms_threshold: float = 0.5,
        normalized: bool = True,
        nms_eta: float = 1.0,
        background_label: int = -1,
        cpu: bool = False,
        trt: bool = False,
        return_index: bool = False,
        return_rois_num: bool = True,
    ):
        self.settings = {
            "background_label": background_label,
            "score_threshold": score_threshold,
            "nms_top_k": nms_top_k,
            "nms_threshold": nms_threshold,
            "keep_top_k": keep_top_k,
            "nms_eta": nms_eta,
            "normalized": normalized,
        }

    def __call__(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Boxes [B, N, 4] xyxy and scores [B, K, N] -> detections."""
        return Detections(*multiclass_nms(boxes, scores, self.settings))


@register
class MatrixNMS:
    """Soft non-maximum suppression: the score of a box decays with its overlap with the better boxes of its class.

    Among the boxes of a class with scores above `score_threshold`, best first, the i-th decays by the minimum over
    j < i of (1 - iou_ij) / (1 - max_k<j iou_kj), at most 1, or of exp(s (max^2 - iou^2)) with `use_gaussian`. Rows are
    ordered by decayed score over all classes.

    Args:
        score_threshold: Boxes with this score or less do not take part.
        post_threshold: Boxes with this decayed score or less are dropped.
        nms_top_k: How many boxes per class take part; -1 for all.
        keep_top_k: How many boxes per image are kept.
        use_gaussian: Use the Gaussian decay.
        gaussian_sigma: s of the Gaussian decay.
        normalized: Whether a box is as wide as x2 - x1. If not, it is one pixel wider, and likewise higher.
        background_label: The class to leave out; -1 for none.
        candidates: How many pairs of box and class per image take part, the best ones; None for all. This changes
            nothing as long as the lowest score kept is above the best score left out, because scores only decrease and
            a decay depends only on better boxes of the class. It makes an untrained network's outputs affordable.

    Source: Wang et al., "SOLOv2", NeurIPS 2020 ("Matrix NMS").
    """

    name = "MatrixNMS"

    def __init__(
        self,
        score_threshold: float = 0.05,
        post_threshold: float = 0.05,
        nms_top_k: int = -1,
        keep_top_k: int = 100,
        use_gaussian: bool = False,
        gaussian_sigma: float = 2.0,
        normalized: bool = False,
        background_label: int = 0,
        candidates: Optional[int] = 2048,
    ):
        if candidates is not None and not 0 < keep_top_k <= candidates:
            raise UserError(
                f"MatrixNMS: keep_top_k {keep_top_k} is not in 1..candidates ({candidates}); to keep more write "
                "candidates: null"
            )
        self.attributes = {
            "score_threshold": score_threshold,
            "nms_top_k": nms_top_k,
            "keep_top_k": keep_top_k,
            "post_threshold": post_threshold,
            "use_gaussian": use_gaussian,
            "gaussian_sigma": gaussian_sigma,
            "background_label": background_label,
            "normalized": normalized,
        }
        self.candidates = candidates
        self.settings = {**self.attributes, "candidates": candidates}

    def __call__(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Boxes [B, N, 4] xyxy and scores [B, K, N] -> detections."""
        if self.candidates is not None:
            boxes, scores = best_pairs(boxes, scores, self.candidates)
        return Detections(*matrix_nms(boxes, scores, self.attributes))


def best_boxes(boxes: Tensor, scores: Tensor, limit: int) -> Tuple[Tensor, Tensor]:
    """The `limit` boxes of each image whose best class scores highest; all where there are fewer.

    Boxes [B, N, 4], scores [B, K, N] -> [B, n, 4], [B, K, n].
    """
    best = scores.max(axis=1)  # [B, N]
    index = best.topk(at_most(limit, best))[1]  # [B, n]
    return take_rows(boxes, index), take_rows(scores.transpose([0, 2, 1]), index).transpose([0, 2, 1])


def best_pairs(boxes: Tensor, scores: Tensor, limit: int) -> Tuple[Tensor, Tensor]:
    """The boxes of each image's `limit` best pairs of box and class, and the scores of these pairs.

    Boxes [B, N, 4], scores [B, K, N] -> [B, n, 4], [B, K, n] with n <= `limit`. Scores of all other pairs are 0. Pairs
    that tie with the last one are kept.
    """
    boxes, scores = best_boxes(boxes, scores, limit)  # these have the best pairs
    flat = scores.reshape([0, -1])  # [B, K*n]
    last = flat.topk(at_most(limit, flat))[0][:, -1:].unsqueeze(-1)  # [B, 1, 1]
    return boxes, scores * (scores >= last).astype(scores.dtype)


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """The rows of each image with the given indices: [B, N, D], [B, n] -> [B, n, D].

    One gather for the whole batch: Paddle-Lite has it, but lacks take_along_axis.
    """
    images, count, width = sizes(values)
    first = paddle.arange(images, dtype="int32").unsqueeze(1) * count  # [B, 1]
    flat = (index.astype("int32") + first).reshape([-1])  # [B*n]
    return values.reshape([-1, width]).gather(flat).reshape([images, -1, width])


def at_most(limit: int, values: Tensor) -> Size:
    """The limit, or the number of columns of `values` [B, n] where that is smaller.

    An integer where the number of columns is known (Paddle-Lite's top-k needs one), otherwise a tensor.
    """
    columns = sizes(values)[1]
    if isinstance(columns, int):
        return min(limit, columns)
    return paddle.minimum(columns, paddle.full([], limit, columns.dtype))  # int32 in Paddle 2, int64 in Paddle 3
