"""Focal loss: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5."""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor, nn

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.losses.cross_entropy import without_zeros
from ppdet_repro.utils.errors import UserError


@register
class FocalLoss(nn.Layer):
    """Sigmoid focal loss, elementwise.

    Args:
        use_sigmoid: must be true
        alpha: weight of positive entries; that of negative ones is 1 - alpha
        gamma: how much less predictions count that are nearly right; 0 is cross-entropy
    """

    def __init__(self, use_sigmoid: bool = True, alpha: float = 0.25, gamma: float = 2.0, loss_weight: float = 1.0):
        super().__init__()
        if not use_sigmoid:
            raise UserError("FocalLoss: only the sigmoid form exists; leave use_sigmoid out")
        self.alpha, self.gamma = alpha, gamma
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits and targets in [0, 1], of the same shape -> the loss of every element."""
        settings = {"alpha": self.alpha, "gamma": self.gamma, "reduction": "none"}
        return F.sigmoid_focal_loss(without_zeros(logits), targets, **settings) * self.loss_weight
