"""Losses on the overlap of boxes."""

from __future__ import annotations

from typing import Literal, Union

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.boxes import giou, iou_plus_eps
from ppdet_repro.modeling.losses.cross_entropy import binary_cross_entropy

Factor = Union[Tensor, float]


@register
class GIoULoss(nn.Layer):
    """1 - GIoU of xyxy boxes. `eps` keeps the loss of boxes without area finite."""

    def __init__(
        self, loss_weight: float = 1.0, eps: float = 1e-10, reduction: Literal["none", "mean", "sum"] = "none"
    ):
        super().__init__()
        self.loss_weight = loss_weight
        self.eps = eps
        self.reduction = reduction

    def forward(self, boxes: Tensor, targets: Tensor, weight: Factor = 1.0, giou_factor: Factor = 1.0) -> Tensor:
        """weight * (1 - giou_factor * GIoU) of boxes: [..., 4], [..., 4], [...], [...] -> [...], or its reduction."""
        loss = (1.0 - giou_factor * giou(boxes, targets, self.eps)) * weight * self.loss_weight
        if self.reduction == "none":
            return loss
        return loss.sum() if self.reduction == "sum" else loss.mean()


@register
class IouLoss(nn.Layer):
    """1 - IoU^2 of xyxy boxes; 1 - IoU if `loss_square` is false. Source: Long et al., "PP-YOLO", 2020."""

    def __init__(self, loss_weight: float = 2.5, loss_square: bool = True):
        super().__init__()
        self.loss_weight = loss_weight
        self.power = 2 if loss_square else 1

    def forward(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """Boxes and targets [..., 4] -> [...]."""
        return (1.0 - iou_plus_eps(boxes, targets) ** self.power) * self.loss_weight


@register
class IouAwareLoss(nn.Layer):
    """How well a logit p predicts the IoU t of a box with its target. No gradient flows through t.

    soft_label   -t log s(p) - (1 - t) log(1 - s(p)): PP-YOLOv2, equation 1. PaddleDetection uses it today for PP-YOLO
                 as well.
    soft_weight  -t log s(p): PP-YOLO's, in its first code. The IoU is only a weight, so the best p is infinite for
                 any t: the loss that "will drop to 1e-5 in hundreds of iterations" (PP-YOLOv2, section 4.2).
    """

    def __init__(self, loss_weight: float = 1.0, form: Literal["soft_label", "soft_weight"] = "soft_label"):
        super().__init__()
        self.loss_weight = loss_weight
        self.form = form

    def forward(self, logits: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
        """Logits [...], xyxy boxes and targets [..., 4] -> [...]."""
        iou = iou_plus_eps(boxes, targets).detach()
        if self.form == "soft_weight":
            return -iou * F.log_sigmoid(logits) * self.loss_weight
        return binary_cross_entropy(logits, iou) * self.loss_weight
