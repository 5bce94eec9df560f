"""Losses on the overlap of boxes."""

from __future__ import annotations

from functools import partial
from typing import Callable, Dict, Literal, Union

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.boxes import diou, giou, iou_plus_eps
from ppdet_repro.modeling.losses.cross_entropy import binary_cross_entropy
from ppdet_repro.utils.errors import UserError

Factor = Union[Tensor, float]
OVERLAPS: Dict[str, Callable[..., Tensor]] = {
    "giou": partial(giou, eps=1e-9),
    "diou": diou,
    "ciou": partial(diou, complete=True),
}


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
        loss = (1.0 - giou_factor * self.overlap(boxes, targets)) * weight * self.loss_weight
        if self.reduction == "none":
            return loss
        return loss.sum() if self.reduction == "sum" else loss.mean()

    def overlap(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """How well the boxes fit, at most 1: [..., 4], [..., 4] -> [...]."""
        return giou(boxes, targets, self.eps)


@register
class DIouLoss(GIoULoss):
    """1 - Complete IoU of xyxy boxes; 1 - Distance-IoU if `use_complete_iou_loss` is false.

    As in PaddleDetection, the default is the mean over the boxes, which heads divide by the number of objects once
    more. `reduction: none` or `sum` weighs it like the other losses.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        eps: float = 1e-10,
        use_complete_iou_loss: bool = True,
        reduction: Literal["none", "mean", "sum"] = "mean",
    ):
        super().__init__(loss_weight, eps, reduction)
        self.complete = use_complete_iou_loss

    def overlap(self, boxes: Tensor, targets: Tensor) -> Tensor:
        return diou(boxes, targets, self.eps, self.complete)


@register
class IouLoss(nn.Layer):
    """1 - IoU^2 of xyxy boxes; 1 - IoU if `loss_square` is false. Source: Long et al., "PP-YOLO", 2020.

    One of `giou`, `diou` and `ciou` takes the Generalized, Distance- or Complete IoU in place of the IoU.
    """

    def __init__(
        self,
        loss_weight: float = 2.5,
        loss_square: bool = True,
        giou: bool = False,
        diou: bool = False,
        ciou: bool = False,
    ):
        super().__init__()
        chosen = [name for name, wanted in (("giou", giou), ("diou", diou), ("ciou", ciou)) if wanted]
        if len(chosen) > 1:
            raise UserError(f"IouLoss: {' and '.join(chosen)} exclude each other; give one of them")
        self.loss_weight = loss_weight
        self.power = 2 if loss_square else 1
        self.overlap = OVERLAPS[chosen[0]] if chosen else iou_plus_eps

    def forward(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """Boxes and targets [..., 4] -> [...]."""
        return (1.0 - self.overlap(boxes, targets) ** self.power) * self.loss_weight


@register
class IouAwareLoss(nn.Layer):
    """How well a logit p predicts the IoU t of a box with its target. No gradient flows through t.

    soft_label   -t log s(p) - (1 - t) log(1 - s(p)): PP-YOLOv2, equation 1. PaddleDetection uses it today for PP-YOLO
                 as well.
    soft_weight  -t log s(p): PP-YOLO's, in its first code. The IoU is only a weight, so the best p is infinite for
                 any t: the loss that "will drop to 1e-5 in hundreds of iterations" (PP-YOLOv2, section 4.2).

    Args:
        form: soft_label or soft_weight
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
