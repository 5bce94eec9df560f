"""The loss of an anchor-point detector: focal loss for the classes, -ln IoU for the boxes, and a weight per point.

B images, N points of all levels, K classes, P points.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import paddle
from paddle import Tensor, nn

from ppdet_repro.core.contract import Losses
from ppdet_repro.modeling.anchor_points import AnchorPoints
from ppdet_repro.modeling.assigners.anchor_point_assigner import Objects, PointTargets, assign_points
from ppdet_repro.modeling.boxes import iou_of_distances
from ppdet_repro.modeling.ground_truth import one_hot_targets

MIN_IOU = 1e-6


class PointPredictions(NamedTuple):
    """The predictions of all points."""

    logits: Tensor  # [B, N, K]
    distances: Tensor  # [B, N, 4], not negative, in the units of `points`
    points: AnchorPoints


def box_loss(distances: Tensor, targets: Tensor) -> Tensor:
    """-ln IoU of boxes around the same points: [..., 4], [..., 4] -> [...]. Finite: the IoU is at least 1e-6."""
    return -iou_of_distances(distances, targets).clip(min=MIN_IOU).log()


def positive_weights(targets: Sequence[PointTargets]) -> Tensor:
    """The weights of the points that learn an object, 0 for background: [B, N]."""
    return paddle.stack([target.weights * (target.owners >= 0).astype("float32") for target in targets])


class AnchorPointLoss:
    """Targets and losses of SAPD and FSAF. For the parameters see `PointBranch`."""

    def __init__(self, class_loss: nn.Layer, eta: float, epsilon: float):
        self.class_loss = class_loss
        self.eta, self.epsilon = eta, epsilon

    def of_points(self, logits: Tensor, one_hot: Tensor, distances: Tensor, targets: Tensor) -> Tensor:
        """SAPD, equation 2, of positive points: [P, K], [P, K], [P, 4], [P, 4] -> [P]."""
        return self.class_loss(logits, one_hot).sum(axis=-1) + box_loss(distances, targets)

    def targets(self, predictions: PointPredictions, objects: Sequence[Objects], top_k: int) -> List[PointTargets]:
        """What the points of each image learn; an object is learned on its `top_k` best levels."""
        logits, distances, points = predictions
        return [
            assign_points(image, points, logits[i], distances[i], self.of_points, top_k, self.eta, self.epsilon)
            for i, image in enumerate(objects)
        ]

    def losses(
        self, predictions: PointPredictions, objects: List[Objects], targets: List[PointTargets], normalizer: Tensor
    ) -> Losses:
        """`loss_cls` and `loss_reg`: sums over points and images, divided by the normalizer.

        SAPD, equation 6 without its last term; there the normalizer is the sum of `positive_weights`.
        """
        classes = predictions.logits.shape[-1]
        one_hot = paddle.stack([one_hot_targets(t.owners, i.classes, classes) for t, i in zip(targets, objects)])
        sides = paddle.stack([target.distances for target in targets])  # [B, N, 4]
        weights = paddle.stack([target.weights for target in targets])  # [B, N]
        class_losses = self.class_loss(predictions.logits, one_hot).sum(axis=-1)  # [B, N]
        box_losses = box_loss(predictions.distances, sides)  # [B, N]
        sums = (class_losses * weights).sum(), (box_losses * positive_weights(targets)).sum()
        return {"loss_cls": sums[0] / normalizer, "loss_reg": sums[1] / normalizer}
