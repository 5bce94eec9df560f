"""The focal loss of heat maps with Gaussian targets."""

from __future__ import annotations

import paddle
from paddle import nn

from ppdet_repro.core.registry import register


@register
class CTFocalLoss(nn.Layer):
    """Focal loss where only a target of exactly 1 is positive, and a negative counts the less the nearer its
    target is to 1: positives -(1-p)^gamma log p, negatives -(1-t)^4 p^gamma log(1-p), the sum divided by the
    number of positives (by 1 if there is none). Positives may count by scores, then also in that number.

    Source: Law and Deng, "CornerNet", ECCV 2018, equation 1; used by CenterNet, TTFNet and PAFNet.
    """

    def __init__(self, loss_weight: float = 1.0, gamma: float = 2.0):
        super().__init__()
        self.loss_weight = loss_weight
        self.gamma = gamma

    def forward(self, probabilities: paddle.Tensor, targets: paddle.Tensor, scores=1.0) -> paddle.Tensor:
        """Probabilities in (0, 1) and targets in [0, 1], one shape, scores in [0, 1] that broadcast to it
        -> a scalar."""
        positive = (targets == 1).astype("float32") * scores
        pull = -(probabilities.log() * (1 - probabilities) ** self.gamma * positive).sum()
        push = -((1 - probabilities).log() * probabilities**self.gamma * (1 - targets) ** 4).sum()
        return (pull + push) / positive.sum().clip(min=1.0) * self.loss_weight
