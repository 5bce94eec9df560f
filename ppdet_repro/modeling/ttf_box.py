"""TTFNet's decoding: the peaks of the heat map are the detections, no suppression follows.

B images, K classes, H, W the map, N peaks an image. Source: CenterNet ("Objects as Points", 2019), section 4;
TTFNet, section 3.2.
"""

from __future__ import annotations

from typing import Dict

import paddle
import paddle.nn.functional as F

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.boxes import to_original_image, xyxy_from_distances
from ppdet_repro.modeling.nms import Detections, at_most, take_rows


@register
class TTFBox:
    """The `max_per_img` highest peaks of an image, those with a score above `score_thresh` kept.

    A peak equals the maximum of its 3x3 neighbourhood (all places of a plateau do); its box reaches from its
    corner of the grid, `down_ratio` pixels a cell, by the four predicted distances, and is not clipped.

    Every image's rows end with [-1, 1, 0, 0, 0, 0], which `bbox_num` counts: PaddleDetection appends it so
    that no image is without rows. A row whose class is negative is no detection; whoever evaluates or draws
    drops it. With `fixed_size` every image has max_per_img rows instead, by descending score, and those not
    above the threshold have class -1: for runtimes that want static shapes (Paddle-Lite).
    """

    def __init__(
        self, max_per_img: int = 100, score_thresh: float = 0.01, down_ratio: Shared[int] = 4, fixed_size: bool = False
    ):
        self.max_per_img = max_per_img
        self.score_thresh = score_thresh
        self.down_ratio = down_ratio
        self.select = self.all_rows if fixed_size else self.rows_above_threshold

    @property
    def settings(self) -> Dict[str, float]:
        """What whoever selects outside Paddle needs to know."""
        return {"score_thresh": self.score_thresh}

    def __call__(self, raw, im_shape: paddle.Tensor, scale_factor: paddle.Tensor):
        """Heat map logits [B, K, H, W] and distances [B, 4, H, W] (`TTFOutputs`) -> boxes [B, N, 4] in pixels
        of the original images and scores [B, K, N], zero but for a peak's class; by descending score."""
        heatmap = local_maxima(F.sigmoid(raw.logits))
        num_classes, height, width = heatmap.shape[1:]
        flat = heatmap.reshape([0, -1])  # [B, K*H*W]
        scores, index = flat.topk(at_most(self.max_per_img, flat))  # [B, N] each
        classes, place = index // (height * width), index % (height * width)
        points = paddle.stack([place % width, place // width], axis=-1) * self.down_ratio  # [B, N, 2]
        distances = raw.distances.reshape([0, 4, -1]).transpose([0, 2, 1])  # [B, H*W, 4]
        distances = take_rows(distances, place)
        boxes = xyxy_from_distances(points.astype(distances.dtype), distances)  # [B, N, 4]
        own_class = classes.unsqueeze(1) == paddle.arange(num_classes).reshape([1, -1, 1])  # [B, K, N]
        scores = scores.unsqueeze(1) * own_class.astype(scores.dtype)  # [B, K, N]
        return to_original_image(boxes, scale_factor), scores

    def rows_above_threshold(self, boxes: paddle.Tensor, scores: paddle.Tensor) -> Detections:
        """Decoded boxes [B, N, 4], scores [B, K, N] -> detections, an image's filler row last."""
        rows = best_class_rows(boxes, scores)  # [B, N, 6]
        filler = paddle.to_tensor([-1.0, 1.0, 0.0, 0.0, 0.0, 0.0], rows.dtype).expand_as(rows[:, :1])
        rows = paddle.concat([rows, filler], axis=1)  # [B, N + 1, 6]
        kept = rows[:, :, 1] > self.score_thresh  # [B, N + 1]
        index = paddle.nonzero(kept.reshape([-1])).reshape([-1])
        count = kept.astype("int32").sum(axis=1).astype("int32")
        return Detections(rows.reshape([-1, 6]).gather(index), count)

    def all_rows(self, boxes: paddle.Tensor, scores: paddle.Tensor) -> Detections:
        """Decoded boxes [B, N, 4], scores [B, K, N] -> N detections an image, the unfit ones of class -1."""
        rows = best_class_rows(boxes, scores)  # [B, N, 6]
        classes, rest = rows[:, :, :1], rows[:, :, 1:]
        classes = paddle.where(rest[:, :, :1] > self.score_thresh, classes, paddle.full_like(classes, -1.0))
        count = paddle.ones_like(classes[:, :, 0], "int32").sum(axis=1).astype("int32")
        return Detections(paddle.concat([classes, rest], axis=-1).reshape([-1, 6]), count)


def local_maxima(heatmap: paddle.Tensor) -> paddle.Tensor:
    """The map [B, K, H, W] with zeros where a neighbour (of 8) is larger."""
    return heatmap * (F.max_pool2d(heatmap, 3, stride=1, padding=1) == heatmap).astype(heatmap.dtype)


def best_class_rows(boxes: paddle.Tensor, scores: paddle.Tensor) -> paddle.Tensor:
    """Boxes [B, N, 4], scores [B, K, N] -> rows of class, score, box [B, N, 6]."""
    classes = scores.argmax(axis=1).astype(boxes.dtype)  # [B, N]
    return paddle.concat([classes.unsqueeze(-1), scores.max(axis=1).unsqueeze(-1), boxes], axis=-1)
