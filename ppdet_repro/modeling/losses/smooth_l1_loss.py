"""Smooth L1 loss: Girshick, "Fast R-CNN", ICCV 2015, equation 3."""

from __future__ import annotations

from paddle import Tensor, nn

from ppdet_repro.core.registry import register
from ppdet_repro.utils.errors import UserError


@register
class SmoothL1Loss(nn.Layer):
    """|d| - beta / 2 for |d| >= beta, and d^2 / (2 beta) below. With `beta` 0 it is |d| (L1)."""

    def __init__(self, beta: float = 1.0, loss_weight: float = 1.0):
        super().__init__()
        if beta < 0:
            raise UserError(f"SmoothL1Loss: beta {beta} is negative")
        self.beta = beta
        self.loss_weight = loss_weight

    def forward(self, values: Tensor, targets: Tensor) -> Tensor:
        """Values and targets of the same shape -> the loss of every element."""
        distance = (values - targets).abs()
        near = distance.clip(max=self.beta)
        parabola = near**2 / (2 * self.beta) if self.beta > 0 else near
        return (distance - near + parabola) * self.loss_weight
