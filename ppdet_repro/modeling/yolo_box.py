"""YOLO's decoding: every anchor's box and scores.

B images, N anchors of all levels, K classes.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.boxes import swapped
from ppdet_repro.modeling.yolo_predictions import YOLOCandidates, scaled_sigmoid, xyxy_from_cells


@register
class YOLOBox:
    """Boxes in pixels of the original images; box and scores are zero where the objectness is below `conf_thresh`.

    `downsample_ratio` is the coarsest level's stride and `scale_x_y` the loss's; the detector checks both.
    """

    def __init__(
        self, conf_thresh: float = 0.005, downsample_ratio: int = 32, clip_bbox: bool = True, scale_x_y: float = 1.0
    ):
        self.conf_thresh = conf_thresh
        self.downsample_ratio = downsample_ratio
        self.fit = inside if clip_bbox else as_predicted
        self.scale_x_y = scale_x_y

    def __call__(self, found: YOLOCandidates, im_shape: paddle.Tensor, scale_factor: paddle.Tensor):
        """Candidates, `im_shape` (h, w) and `scale_factor` (y, x) [B, 2] -> boxes [B, N, 4], scores [B, K, N]."""
        original = (im_shape / scale_factor).astype("int32").astype("float32")  # [B, 2] whole pixels, cut off
        w_h = swapped(original)
        size = paddle.concat([w_h, w_h], axis=-1).unsqueeze(1)  # [B, 1, 4]
        centre = scaled_sigmoid(found.centre, self.scale_x_y)
        boxes = self.fit(xyxy_from_cells(centre, found.log_size, found.grid) * size, size)  # [B, N, 4]
        counts = (found.confidence >= self.conf_thresh).astype("float32")  # [B, N]
        scores = F.sigmoid(found.classes).transpose([0, 2, 1]) * (found.confidence * counts).unsqueeze(1)
        return boxes * counts.unsqueeze(-1), scores  # [B, N, 4], [B, K, N]


def inside(boxes: paddle.Tensor, size: paddle.Tensor) -> paddle.Tensor:
    """Cut boxes [B, N, 4] to images of `size` [B, 1, 4] (w, h, w, h): the upper left corner at 0, the lower right
    at size - 1."""
    return paddle.concat([boxes[:, :, :2].clip(min=0), paddle.minimum(boxes[:, :, 2:], size[:, :, 2:] - 1)], axis=-1)


def as_predicted(boxes: paddle.Tensor, size: paddle.Tensor) -> paddle.Tensor:
    """The boxes themselves."""
    return boxes
