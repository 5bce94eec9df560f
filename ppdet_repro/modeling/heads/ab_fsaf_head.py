"""AB+FSAF: RetinaNet's anchors and FSAF's anchor points on the same two subnets.

B images, n candidates, K classes.
Source: Zhu et al., "Feature Selective Anchor-Free Module for Single-Shot Object Detection", CVPR 2019, section 3; the
third method of SAPD's Table 5.
"""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import paddle
from paddle import Tensor, nn

from ppdet_repro.core.contract import Batch, Losses, Suppressor
from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.assignment_drawing import Assignment
from ppdet_repro.modeling.heads.retina_head import RetinaOutputs
from ppdet_repro.modeling.heads.sapd_head import SAPDOutputs


class ABFSAFOutputs(NamedTuple):
    """The outputs of both branches."""

    anchors: RetinaOutputs
    points: SAPDOutputs


@register
class ABFSAFHead(nn.Layer):
    """An anchor-based and an anchor-free branch, whose boxes go through one NMS.

    Args:
        anchors: The anchor-based head; its subnets and its NMS serve both branches.
        points: The anchor-free branch.
        point_weight: Weight of the losses of `points`.
    """

    def __init__(
        self, anchors: Part[nn.Layer] = "RetinaHead", points: Part[nn.Layer] = "PointBranch", point_weight: float = 0.5
    ):
        super().__init__()
        self.anchors = anchors
        self.points = points
        self.point_weight = point_weight
        self.suppress: Suppressor = anchors.suppress

    def forward(self, feats: List[Tensor]) -> ABFSAFOutputs:
        """Feature maps [B, C, H, W], one per level, finest first -> raw outputs."""
        features = [self.anchors.conv_feat(feat) for feat in feats]
        return ABFSAFOutputs(self.anchors.predict(features, feats), self.points.predict(features, feats))

    def losses(self, raw: ABFSAFOutputs, batch: Batch) -> Losses:
        """`loss_cls` and `loss_reg` of the anchors, `loss_point_cls` and `loss_point_reg`, and their sum `loss`."""
        anchors, points = self.anchors.losses(raw.anchors, batch), self.points.losses(raw.points, batch)
        losses = {name: anchors[name] for name in ("loss_cls", "loss_reg")}
        for name in ("cls", "reg"):
            losses[f"loss_point_{name}"] = points[f"loss_{name}"] * self.point_weight
        return {"loss": sum(losses.values()), **losses}

    def assignment(self, raw: ABFSAFOutputs, batch: Batch) -> List[Assignment]:
        """Each image's anchors and points that learn an object; see the branches."""
        branches = zip(self.anchors.assignment(raw.anchors, batch), self.points.assignment(raw.points, batch))
        return [Assignment(one.objects, one.boxes + other.boxes, other.maps) for one, other in branches]

    def decode(self, raw: ABFSAFOutputs, im_shape: Tensor, scale_factor: Tensor) -> Tuple[Tensor, Tensor]:
        """The candidates of both branches: boxes [B, n, 4] in pixels of the original images, scores [B, K, n]."""
        branches = (self.anchors, raw.anchors), (self.points, raw.points)
        boxes, scores = zip(*(branch.decode(outputs, im_shape, scale_factor) for branch, outputs in branches))
        return paddle.concat(boxes, axis=1), paddle.concat(scores, axis=2)
