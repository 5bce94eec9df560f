"""The losses of an anchor-based head, given which anchor learns which object.

B images, N anchors of all levels, K classes, G ground truths of an image, P matched pairs.
"""

from __future__ import annotations

from typing import Callable, Sequence, Union

from paddle import Tensor

from ppdet_repro.core.contract import Losses
from ppdet_repro.modeling.assigners.matches import IGNORED, Matches
from ppdet_repro.modeling.ground_truth import GroundTruth, one_hot_targets

ClassLoss = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets in [0, 1], [N, K] each -> the loss of every element."""

BoxLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""What a head predicts of boxes, the anchors and the boxes to learn, [P, 4] each -> the loss of every pair."""


def anchor_losses(
    logits: Tensor,
    predictions: Tensor,
    anchors: Tensor,
    truths: Sequence[GroundTruth],
    matches: Sequence[Matches],
    class_loss: ClassLoss,
    box_loss: BoxLoss,
    normalizer: Union[Tensor, float],
) -> Losses:
    """`loss_cls`, `loss_reg` and their sum `loss`; both are sums over the batch, divided by the normalizer.

    Classes are learned by all anchors that are not ignored, boxes by the matched pairs: an anchor that is matched
    twice counts twice. Logits are [B, N, K], predictions [B, N, 4] in the form that `box_loss` takes, anchors [N, 4]
    xyxy in input pixels.
    """
    class_losses, box_losses = [], []
    for image, truth, matched in zip(range(len(truths)), truths, matches):
        targets = one_hot_targets(matched.labels, truth.classes, logits.shape[-1])  # [N, K]
        counted = (matched.labels != IGNORED).astype("float32").unsqueeze(-1)  # [N, 1]
        class_losses.append((class_loss(logits[image], targets) * counted).sum())
        if len(matched.anchors):
            predicted, wanted = predictions[image].gather(matched.anchors), truth.boxes.gather(matched.gts)  # [P, 4]
            box_losses.append(box_loss(predicted, anchors.gather(matched.anchors), wanted).sum())
    loss_cls = sum(class_losses) / normalizer
    loss_reg = sum(box_losses, predictions.sum() * 0.0) / normalizer
    return {"loss": loss_cls + loss_reg, "loss_cls": loss_cls, "loss_reg": loss_reg}


def count_positives(matches: Matches) -> int:
    """The number of anchors whose label is a ground truth."""
    return int((matches.labels >= 0).sum())
