"""The focal loss of heat maps with Gaussian targets."""

from __future__ import annotations

from typing import Union

from paddle import Tensor, nn

from ppdet_repro.core.registry import register


@register
class CTFocalLoss(nn.Layer):
    """Focal loss where only targets of exactly 1 are positive.

    A positive costs -(1-p)^gamma log p. A negative costs -(1-t)^4 p^gamma log(1-p), so it counts less the closer its
    target is to 1.

    Source: Law and Deng, "CornerNet", ECCV 2018, equation 1; used by CenterNet, TTFNet and PAFNet.

    Args:
        gamma: how much less predictions count that are nearly right
    """

    def __init__(self, loss_weight: float = 1.0, gamma: float = 2.0):
        super().__init__()
        self.loss_weight = loss_weight
        self.gamma = gamma

    def forward(self, probabilities: Tensor, targets: Tensor, positives: Tensor, normalizer: Tensor) -> Tensor:
        """The sum over all elements, divided by the normalizer (in the papers the number of positives, at least 1).

        Probabilities are in (0, 1), targets in [0, 1]; `positives` are how much each element counts as a positive (see
        `positive_weights`).
        """
        pull = -(probabilities.log() * (1 - probabilities) ** self.gamma * positives).sum()
        push = -((1 - probabilities).log() * probabilities**self.gamma * (1 - targets) ** 4).sum()
        return (pull + push) / normalizer * self.loss_weight


def positive_weights(targets: Tensor, scores: Union[Tensor, float] = 1.0) -> Tensor:
    """The scores where the target is 1, else 0. `scores` are in [0, 1] and broadcast to the targets."""
    return (targets == 1).astype("float32") * scores
