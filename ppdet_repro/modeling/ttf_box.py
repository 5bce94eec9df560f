"""TTFNet's decoding: the peaks of the heat map are the detections; no NMS follows.

B images, K classes, H, W size of the map, N peaks per image.
Source: CenterNet ("Objects as Points", 2019), section 4; TTFNet, section 3.2.
"""

from __future__ import annotations

from typing import Tuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppdet_repro.core.contract import Detections, RawOutputs, Suppressor
from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.boxes import to_original_image, xyxy_from_distances
from ppdet_repro.modeling.nms import at_most, take_rows
from ppdet_repro.modeling.sizes import sizes


@register
class TTFBox:
    """The `max_per_img` highest peaks of each image; of these, those with a score above `score_thresh` are kept.

    A peak equals the maximum of its 3x3 neighborhood (every location of a plateau does). Its box extends by the four
    predicted distances from the upper left corner of its cell, which is `down_ratio` pixels wide. It is not clipped.

    Args:
        max_per_img: The largest number of detections per image.
        score_thresh: Detections must have a higher score.
        down_ratio: Stride of the maps in input pixels.
        fixed_size: Return `max_per_img` rows for every image (see `FixedSizeSelection`).
    """

    def __init__(
        self, max_per_img: int = 100, score_thresh: float = 0.01, down_ratio: Shared[int] = 4, fixed_size: bool = False
    ):
        self.max_per_img = max_per_img
        self.down_ratio = down_ratio
        self.select: Suppressor = (FixedSizeSelection if fixed_size else ScoreSelection)(score_thresh)

    def __call__(self, raw: RawOutputs, im_shape: Tensor, scale_factor: Tensor) -> Tuple[Tensor, Tensor]:
        """Boxes [B, N, 4] in original pixels, by descending score; scores [B, K, N], 0 except for the peak's class."""
        heatmap = local_maxima(F.sigmoid(raw.logits))
        num_classes, height, width = sizes(heatmap)[1:]
        flat = heatmap.reshape([0, -1])  # [B, K*H*W]
        scores, index = flat.topk(at_most(self.max_per_img, flat))  # [B, N] each
        cells = height * width
        corners = paddle.meshgrid(*(paddle.arange(side, dtype="float32") * self.down_ratio for side in (width, height)))
        points = paddle.stack(corners, axis=-1).transpose([1, 0, 2]).reshape([-1, 2])  # [H*W, 2]: x, y
        distances = raw.distances.reshape([0, 4, -1]).transpose([0, 2, 1])  # [B, H*W, 4]
        boxes = take_rows(xyxy_from_distances(points.astype(distances.dtype), distances), index % cells)  # [B, N, 4]
        # no division of the index: converters divide integers in floating point, and FP16 ends at 65504
        first = (paddle.arange(num_classes, dtype="int64") * cells).reshape([1, -1, 1])  # [1, K, 1]
        index = index.unsqueeze(1)  # [B, 1, N]
        own_class = paddle.logical_and(index >= first, index < first + cells)  # [B, K, N]
        scores = scores.unsqueeze(1) * own_class.astype(scores.dtype)  # [B, K, N]
        return to_original_image(boxes, scale_factor), scores


class ScoreSelection:
    """Keeps the boxes with a score above `score_thresh`.

    The rows of every image end with [-1, 1, 0, 0, 0, 0], which `bbox_num` counts: PaddleDetection appends it so that
    no image is without rows. A row with a negative class is not a detection; evaluation and drawing drop it.
    """

    name = "TTFBox"

    def __init__(self, score_thresh: float):
        self.score_thresh = score_thresh
        self.settings = {"score_thresh": score_thresh}

    def __call__(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Decoded boxes [B, N, 4] and scores [B, K, N] -> detections."""
        rows = best_class_rows(boxes, scores)  # [B, N, 6]
        filler = paddle.to_tensor([-1.0, 1.0, 0.0, 0.0, 0.0, 0.0], rows.dtype).expand_as(rows[:, :1])
        rows = paddle.concat([rows, filler], axis=1)  # [B, N + 1, 6]
        kept = rows[:, :, 1] > self.score_thresh  # [B, N + 1]
        index = paddle.nonzero(kept.reshape([-1])).reshape([-1])
        count = kept.astype("int32").sum(axis=1).astype("int32")
        return Detections(rows.reshape([-1, 6]).gather(index), count)


class FixedSizeSelection(ScoreSelection):
    """Keeps all N rows per image, by descending score, for runtimes that need static shapes (Paddle-Lite).

    The class of rows whose score is not above `score_thresh` becomes -1.
    """

    def __call__(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Decoded boxes [B, N, 4] and scores [B, K, N] -> detections."""
        rows = best_class_rows(boxes, scores)  # [B, N, 6]
        classes, rest = rows[:, :, :1], rows[:, :, 1:]
        classes = paddle.where(rest[:, :, :1] > self.score_thresh, classes, paddle.full_like(classes, -1.0))
        count = paddle.ones_like(classes[:, :, 0], "int32").sum(axis=1).astype("int32")
        return Detections(paddle.concat([classes, rest], axis=-1).reshape([-1, 6]), count)


def local_maxima(heatmap: Tensor) -> Tensor:
    """The heat map [B, K, H, W], set to 0 where one of the 8 neighbors is larger.

    Compared by >= with the largest, because == takes numbers for equal in Paddle 2 that differ by less than 1e-8.
    """
    return heatmap * (heatmap >= F.max_pool2d(heatmap, 3, stride=1, padding=1)).astype(heatmap.dtype)


def best_class_rows(boxes: Tensor, scores: Tensor) -> Tensor:
    """The best class of each box: [B, N, 4], [B, K, N] -> rows of class, score, box [B, N, 6]."""
    classes = scores.argmax(axis=1).astype(boxes.dtype)  # [B, N]
    return paddle.concat([classes.unsqueeze(-1), scores.max(axis=1).unsqueeze(-1), boxes], axis=-1)
