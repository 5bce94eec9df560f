"""Non-maximum suppression.

B images, N candidate boxes, C classes, M rows kept over the whole batch.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional

import paddle

from ppdet_repro.core.registry import register
from ppdet_repro.paddle_private.operators import matrix_nms, multiclass_nms
from ppdet_repro.utils.errors import UserError


class Detections(NamedTuple):
    """`bbox` [M, 6]: class, score, x1, y1, x2, y2; `bbox_num` [B] int32: rows of each image."""

    bbox: paddle.Tensor
    bbox_num: paddle.Tensor


@register
class MultiClassNMS:
    """Hard suppression a class: score > `score_threshold`, the best `nms_top_k` of a class (-1: all),
    a box with IoU > `nms_threshold` to a better one is dropped, the best `keep_top_k` of an image stay.

    Rows come grouped by class, by score inside a class. `normalized: false` counts pixels with +1.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        nms_top_k: int = -1,
        keep_top_k: int = 100,
        nms_threshold: float = 0.5,
        normalized: bool = True,
        nms_eta: float = 1.0,
        background_label: int = -1,
    ):
        self.attributes = {
            "background_label": background_label,
            "score_threshold": score_threshold,
            "nms_top_k": nms_top_k,
            "nms_threshold": nms_threshold,
            "keep_top_k": keep_top_k,
            "nms_eta": nms_eta,
            "normalized": normalized,
        }

    @property
    def settings(self) -> Dict[str, Any]:
        """The constructor's arguments, for whoever suppresses outside Paddle."""
        return self.attributes

    def __call__(self, boxes: paddle.Tensor, scores: paddle.Tensor) -> Detections:
        """Boxes [B, N, 4] xyxy, scores [B, C, N]."""
        return Detections(*multiclass_nms(boxes, scores, self.attributes))


@register
class MatrixNMS:
    """Soft suppression: a box's score decays with its overlap with the better boxes of its class, all at once.

    Among the boxes of a class with scores above `score_threshold`, best first, the i-th decays by the least over
    j < i of (1 - iou_ij) / (1 - max_k<j iou_kj), at most 1, or of exp(s (max^2 - iou^2)) with `use_gaussian`. The
    best `keep_top_k` of an image above `post_threshold` stay, ordered by decayed score over all classes.
    `normalized: false` counts pixels with +1; `nms_top_k` bounds the boxes of a class (-1: all).

    Only the best `candidates` pairs of box and class of an image take part (null: all). This changes nothing as
    long as the lowest score kept is above the best score left out: a decay depends on better boxes of the class
    alone, and those take part, and no score grows. It is what makes an untrained network's outputs affordable.

    Source: Wang et al., "SOLOv2", NeurIPS 2020 ("Matrix NMS").
    """

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

    @property
    def settings(self) -> Dict[str, Any]:
        """The constructor's arguments, for whoever suppresses outside Paddle."""
        return {**self.attributes, "candidates": self.candidates}

    def __call__(self, boxes: paddle.Tensor, scores: paddle.Tensor) -> Detections:
        """Boxes [B, N, 4] xyxy, scores [B, C, N]."""
        if self.candidates is not None:
            boxes, scores = best_pairs(boxes, scores, self.candidates)
        return Detections(*matrix_nms(boxes, scores, self.attributes))


def best_boxes(boxes: paddle.Tensor, scores: paddle.Tensor, limit: int):
    """The boxes [B, n, 4] of each image that are best in their best class, and their scores [B, C, n]; n is `limit`, or
    N where that is smaller."""
    best = scores.max(axis=1)  # [B, N]
    index = best.topk(at_most(limit, best))[1]  # [B, n]
    return take_rows(boxes, index), take_rows(scores.transpose([0, 2, 1]), index).transpose([0, 2, 1])


def best_pairs(boxes: paddle.Tensor, scores: paddle.Tensor, limit: int):
    """The boxes [B, n, 4] of the `limit` best pairs of box and class of each image, and their scores [B, C, n], zero
    for other pairs; n is at most `limit`. What ties with the last one stays with it."""
    boxes, scores = best_boxes(boxes, scores, limit)  # these have the best pairs
    flat = scores.reshape([0, -1])  # [B, C*n]
    last = flat.topk(at_most(limit, flat))[0][:, -1:].unsqueeze(-1)  # [B, 1, 1]
    return boxes, scores * (scores >= last).astype(scores.dtype)


def take_rows(values: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """Of each image's rows those with the indices [B, n]: [B, N, D] -> [B, n, D]. One gather for the batch, which
    Paddle-Lite has; it lacks take_along_axis."""
    images, count, width = values.shape
    first = paddle.arange(images, dtype="int32").unsqueeze(1) * count  # [B, 1]
    places = (index.astype("int32") + first).reshape([-1])  # [B*n]
    return values.reshape([-1, width]).gather(places).reshape([images, -1, width])


def at_most(limit: int, values: paddle.Tensor):
    """The limit, or the number of columns of `values` [B, n] where that is smaller; a number where that is known
    (Paddle-Lite's top-k wants one), else a tensor."""
    columns = values.shape[1]
    if isinstance(columns, int) and columns >= 0:
        return min(limit, columns)
    return paddle.minimum(paddle.shape(values)[1], paddle.full([], limit, "int32"))
