"""RetinaNet+: RetinaNet's head with YOLOF's additions, for a fair comparison of the two (YOLOF, section 5.1).

B images, H, W size of a level's map, A anchors per location, K classes, P matched pairs.
"""

from __future__ import annotations

from typing import Any, List, Optional

from paddle import Tensor, nn

from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.modeling.anchors import rows_per_anchor
from ppdet_repro.modeling.heads.retina_head import RetinaHead
from ppdet_repro.modeling.heads.yolof_head import implicit_objectness
from ppdet_repro.modeling.layers import conv3x3


@register
class RetinaPlusHead(RetinaHead):
    """RetinaNet's head with objectness and a loss on boxes.

    The box subnet also predicts an objectness without a loss of its own, which multiplies the class scores. `loss_bbox`
    compares boxes (GIoU) instead of deltas. The third addition, group norm, is a setting of `conv_feat`. The parameters
    are those of `RetinaHead`.
    """

    def __init__(
        self,
        num_classes: Shared[int] = 80,
        conv_feat: Part[nn.Layer] = "RetinaFeat",
        anchor_generator: Part[nn.Layer] = "RetinaAnchorGenerator",
        bbox_assigner: Part[Any] = "MaxIoUAssigner",
        loss_class: Part[nn.Layer] = "FocalLoss",
        loss_bbox: Part[nn.Layer] = "GIoULoss",
        nms: Part[Any] = "MultiClassNMS",
        prior_prob: float = 0.01,
        nms_pre: int = 1000,
        weights: Optional[List[float]] = None,
    ):
        parts = conv_feat, anchor_generator, bbox_assigner, loss_class, loss_bbox, nms
        super().__init__(num_classes, *parts, prior_prob, nms_pre, weights)
        self.retina_obj = conv3x3(conv_feat.feat_out, anchor_generator.num_anchors)

    def class_logits(self, for_classes: Tensor, for_boxes: Tensor) -> Tensor:
        """One level's logits [B, H*W*A, K], with the objectness, from the features [B, C, H, W] of both subnets."""
        logits = rows_per_anchor(self.retina_cls(for_classes), self.num_classes)
        return implicit_objectness(logits, rows_per_anchor(self.retina_obj(for_boxes), 1))

    def box_losses(self, deltas: Tensor, anchors: Tensor, wanted: Tensor) -> Tensor:
        """The loss of the decoded boxes: deltas, anchors and boxes to learn, [P, 4] each."""
        return self.loss_bbox(self.boxes(deltas, anchors), wanted)
