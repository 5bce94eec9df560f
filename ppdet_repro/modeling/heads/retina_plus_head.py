"""RetinaNet+: RetinaNet's head with YOLOF's additions, so that the two compare fairly.

B images, H, W a level's map, A anchors a place, K classes, P matched pairs.
Source: YOLOF, section 5.1 ("Comparison with RetinaNet").
"""

from __future__ import annotations

from typing import Any, List, Optional

import paddle
from paddle import nn

from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.modeling.heads.retina_head import RetinaHead, conv3x3, flatten
from ppdet_repro.modeling.implicit_objectness import implicit_objectness


@register
class RetinaPlusHead(RetinaHead):
    """RetinaNet's head whose box subnet also predicts an objectness without a loss of its own, which multiplies the
    class scores, and whose `loss_bbox` sees boxes (GIoU) instead of deltas. The third addition, group norm, is
    `conv_feat`'s."""

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
        super().__init__(
            num_classes,
            conv_feat,
            anchor_generator,
            bbox_assigner,
            loss_class,
            loss_bbox,
            nms,
            prior_prob,
            nms_pre,
            weights,
        )
        self.retina_obj = conv3x3(conv_feat.feat_out, anchor_generator.num_anchors, bias=0.0)

    def class_logits(self, for_classes: paddle.Tensor, for_boxes: paddle.Tensor) -> paddle.Tensor:
        """A level's features [B, C, H, W] of both subnets -> [B, H*W*A, K], objectness merged."""
        logits = flatten(self.retina_cls(for_classes), self.num_classes)
        return implicit_objectness(logits, flatten(self.retina_obj(for_boxes), 1))

    def box_losses(self, deltas: paddle.Tensor, anchors: paddle.Tensor, wanted: paddle.Tensor) -> paddle.Tensor:
        """The loss of the decoded boxes: deltas, anchors and the boxes to learn, [P, 4] each."""
        return self.loss_bbox(self.boxes(deltas, anchors), wanted)
