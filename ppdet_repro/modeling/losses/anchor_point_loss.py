"""The loss of an anchor-point detector: focal for the classes, -ln IoU for the box, each point with a weight.

B images, N points of all levels, K classes, P points.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import paddle
from paddle import nn

from ppdet_repro.modeling.anchor_points import AnchorPoints, iou_of_distances
from ppdet_repro.modeling.assigners.anchor_point_assigner import Objects, PointTargets, assign_points
from ppdet_repro.modeling.ground_truth import one_hot_targets

MIN_IOU = 1e-6


class PointPredictions(NamedTuple):
    """`logits` [B, N, K]; `distances` [B, N, 4] in the units of `points`, not negative."""

    logits: paddle.Tensor
    distances: paddle.Tensor
    points: AnchorPoints


class AnchorPointLosses(NamedTuple):
    """Sums over points and images, divided by the sum of the positive points' weights (1 at least)."""

    classes: paddle.Tensor
    boxes: paddle.Tensor


def box_loss(distances: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
    """-ln IoU of boxes around the same points: [..., 4], [..., 4] -> [...]. An IoU below 1e-6 counts as that, so
    that boxes which do not overlap cost a finite amount."""
    return -iou_of_distances(distances, targets).clip(min=MIN_IOU).log()


class AnchorPointLoss:
    """Targets and losses of SAPD and FSAF.

    `class_loss`(logits, targets in [0, 1]) is elementwise; `eta` is the steepness of the weights from a box's
    centre to its sides (0: all 1, FSAF); `epsilon` the share of a box's sides whose points learn it.
    """

    def __init__(self, class_loss: nn.Layer, eta: float, epsilon: float):
        self.class_loss = class_loss
        self.eta = eta
        self.epsilon = epsilon

    def of_points(self, logits, one_hot, distances, targets) -> paddle.Tensor:
        """SAPD, equation 2, of positive points: [P, K], [P, K], [P, 4], [P, 4] -> [P]."""
        return self.class_loss(logits, one_hot).sum(axis=-1) + box_loss(distances, targets)

    def targets(self, predictions: PointPredictions, objects: Sequence[Objects], top_k: int) -> List[PointTargets]:
        """What the points of each image learn, on the `top_k` best levels of each object."""
        return [
            assign_points(
                image,
                predictions.points,
                predictions.logits[i],
                predictions.distances[i],
                self.of_points,
                top_k=top_k,
                eta=self.eta,
                epsilon=self.epsilon,
            )
            for i, image in enumerate(objects)
        ]

    def losses(
        self, predictions: PointPredictions, objects: Sequence[Objects], targets: Sequence[PointTargets]
    ) -> AnchorPointLosses:
        """SAPD, equation 6 without its last term."""
        classes = predictions.logits.shape[-1]
        one_hot = paddle.stack(
            [one_hot_targets(target.owners, image.classes, classes) for target, image in zip(targets, objects)]
        )  # [B, N, K]
        sides, weights, owners = (
            paddle.stack([getattr(target, name) for target in targets]) for name in ("distances", "weights", "owners")
        )  # [B, N, 4], [B, N], [B, N]
        positive = weights * (owners >= 0).astype("float32")
        normaliser = positive.sum().clip(min=1.0)
        class_losses = self.class_loss(predictions.logits, one_hot).sum(axis=-1)  # [B, N]
        box_losses = box_loss(predictions.distances, sides)  # [B, N]
        return AnchorPointLosses(
            (class_losses * weights).sum() / normaliser, (box_losses * positive).sum() / normaliser
        )
