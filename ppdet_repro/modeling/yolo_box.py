"""YOLO's decoding: the box and the scores of every anchor. B images, N anchors of all levels, K classes."""

from __future__ import annotations

from typing import Optional, Tuple

import paddle.nn.functional as F
from paddle import Tensor

from ppdet_repro.core.contract import Suppressor
from ppdet_repro.core.registry import register
from ppdet_repro.modeling.boxes import clip_to_last_pixel, per_coordinate
from ppdet_repro.modeling.yolo_predictions import YOLOCandidates, scaled_sigmoid, xyxy_from_cells


@register
class YOLOBox:
    """Boxes in pixels of the original images. Boxes and scores are 0 where the confidence is below `conf_thresh`.

    Args:
        conf_thresh: The lowest confidence (probability of an object) that counts.
        downsample_ratio: Stride of the coarsest level; the detector checks it.
        clip_bbox: Whether boxes are clipped to the image.
        scale_x_y: Scale of the sigmoid, as in the loss; the detector checks it.
    """

    select: Optional[Suppressor] = None

    def __init__(
        self, conf_thresh: float = 0.005, downsample_ratio: int = 32, clip_bbox: bool = True, scale_x_y: float = 1.0
    ):
        self.conf_thresh = conf_thresh
        self.downsample_ratio = downsample_ratio
        self.clip_bbox = clip_bbox
        self.scale_x_y = scale_x_y

    def __call__(self, found: YOLOCandidates, im_shape: Tensor, scale_factor: Tensor) -> Tuple[Tensor, Tensor]:
        """Candidates, `im_shape` (h, w) and `scale_factor` (y, x) [B, 2] -> boxes [B, N, 4], scores [B, K, N]."""
        size = per_coordinate((im_shape / scale_factor).astype("int32").astype("float32"))  # [B, 1, 4], rounded down
        center = scaled_sigmoid(found.center, self.scale_x_y)
        boxes = xyxy_from_cells(center, found.log_size, found.grid) * size  # [B, N, 4]
        if self.clip_bbox:
            boxes = clip_to_last_pixel(boxes, size)
        counts = (found.confidence >= self.conf_thresh).astype("float32")  # [B, N]
        scores = F.sigmoid(found.classes).transpose([0, 2, 1]) * (found.confidence * counts).unsqueeze(1)
        return boxes * counts.unsqueeze(-1), scores  # [B, N, 4], [B, K, N]
