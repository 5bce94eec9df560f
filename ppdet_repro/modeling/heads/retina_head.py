"""RetinaNet's head: anchors on every level of a pyramid, two subnets shared by the levels, focal loss.

B images, H, W size of a level's map, A anchors per location, N anchors of all levels, K classes, G ground truths,
P matched pairs.
The parameters' names are PaddleDetection's, so published detectors load.
Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
"""

from __future__ import annotations

import math
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Normal

from ppdet_repro.core.contract import Batch, Losses, Suppressor
from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.anchors import rows_per_anchor
from ppdet_repro.modeling.assigners.matches import Matcher, Matches
from ppdet_repro.modeling.assignment_drawing import Assignment, anchor_assignment
from ppdet_repro.modeling.boxes import decode_deltas, encode_deltas, to_original_image
from ppdet_repro.modeling.ground_truth import GroundTruth, ground_truths
from ppdet_repro.modeling.layers import ConvNorm, batch_norm, conv2d, conv3x3, prior_bias
from ppdet_repro.modeling.losses.anchor_loss import anchor_losses, count_positives
from ppdet_repro.modeling.nms import best_boxes
from ppdet_repro.utils.errors import UserError

GROUPS = 32  # of a group norm


class RetinaOutputs(NamedTuple):
    """One tensor per level, finest first."""

    logits: List[Tensor]  # [B, H*W*A, K]
    deltas: List[Tensor]  # [B, H*W*A, 4]
    anchors: List[Tensor]  # [H*W*A, 4] xyxy, input pixels


def conv_norm_relu(in_channels: int, out_channels: int, norm_type: Optional[str]) -> ConvNorm:
    """3x3 convolution whose bias has twice the learning rate, norm (of 32 groups for `gn`, none for None), ReLU."""
    weight, bias = ParamAttr(initializer=Normal(0.0, 0.01)), ParamAttr(initializer=Constant(0.0), learning_rate=2.0)
    conv = conv2d(in_channels, out_channels, 3, weight_attr=weight, bias_attr=bias)
    if norm_type is None:
        return ConvNorm(conv, nn.Identity(), F.relu)
    norm = nn.GroupNorm(GROUPS, out_channels) if norm_type == "gn" else batch_norm(out_channels, norm_type)
    return ConvNorm(conv, norm, F.relu)


@register
class RetinaFeat(nn.Layer):
    """The two subnets without their last layers, shared by all levels. `norm_type` is bn, sync_bn, gn or None.

    Args:
        use_dcn: must be false
    """

    def __init__(
        self,
        feat_in: int = 256,
        feat_out: int = 256,
        num_convs: int = 4,
        norm_type: Optional[str] = "bn",
        use_dcn: bool = False,
    ):
        super().__init__()
        if use_dcn:
            raise UserError("RetinaFeat: use_dcn: true does not exist; leave it out")
        self.feat_out = feat_out
        self.names = [[f"fcos_head_{branch}_tower_conv_{i}" for i in range(num_convs)] for branch in ("cls", "reg")]
        for name in sum(self.names, []):
            channels = feat_in if name.endswith("_0") else feat_out
            self.add_sublayer(name, conv_norm_relu(channels, feat_out, norm_type))

    def forward(self, feat: Tensor) -> Tuple[Tensor, Tensor]:
        """A feature map [B, C, H, W] -> features for the classes, features for the boxes."""
        for_classes = for_boxes = feat
        for cls_name, reg_name in zip(*self.names):
            for_classes, for_boxes = getattr(self, cls_name)(for_classes), getattr(self, reg_name)(for_boxes)
        return for_classes, for_boxes


@register
class RetinaHead(nn.Layer):
    """Class and box predictions at every anchor, their losses, and decoding.

    Args:
        conv_feat: The two subnets; see `RetinaFeat`.
        prior_prob: The score that the head predicts before training.
        nms_pre: How many anchors per level and image, those with the best class scores, reach the NMS.
        weights: Factors on the target deltas (dx, dy, dw, dh).
    """

    def __init__(
        self,
        num_classes: Shared[int] = 80,
        conv_feat: Part[nn.Layer] = "RetinaFeat",
        anchor_generator: Part[nn.Layer] = "RetinaAnchorGenerator",
        bbox_assigner: Part[Any] = "MaxIoUAssigner",
        loss_class: Part[nn.Layer] = "FocalLoss",
        loss_bbox: Part[nn.Layer] = "SmoothL1Loss",
        nms: Part[Any] = "MultiClassNMS",
        prior_prob: float = 0.01,
        nms_pre: int = 1000,
        weights: Optional[List[float]] = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.conv_feat = conv_feat
        self.anchor_generator = anchor_generator
        self.bbox_assigner: Matcher = bbox_assigner
        self.loss_class, self.loss_bbox = loss_class, loss_bbox
        self.suppress: Suppressor = nms
        self.nms_pre = nms_pre
        self.delta_std = [1.0 / weight for weight in weights or [1.0] * 4]
        width, num_anchors = conv_feat.feat_out, anchor_generator.num_anchors
        self.retina_cls = conv3x3(width, num_anchors * num_classes, bias=prior_bias(prior_prob))
        self.retina_reg = conv3x3(width, num_anchors * 4)

    def forward(self, feats: List[Tensor]) -> RetinaOutputs:
        """Feature maps [B, C, H, W], one per level, finest first -> raw outputs."""
        return self.predict([self.conv_feat(feat) for feat in feats], feats)

    def predict(self, features: Sequence[Tuple[Tensor, Tensor]], feats: Sequence[Tensor]) -> RetinaOutputs:
        """The subnets' features of each level, and the feature maps [B, C, H, W] they are made from -> raw outputs."""
        logits = [self.class_logits(for_classes, for_boxes) for for_classes, for_boxes in features]
        deltas = [rows_per_anchor(self.retina_reg(for_boxes), 4) for _, for_boxes in features]
        return RetinaOutputs(logits, deltas, self.anchor_generator(feats))

    def class_logits(self, for_classes: Tensor, for_boxes: Tensor) -> Tensor:
        """One level's logits [B, H*W*A, K] from the features [B, C, H, W] of both subnets; RetinaNet uses the first."""
        return rows_per_anchor(self.retina_cls(for_classes), self.num_classes)

    def losses(self, raw: RetinaOutputs, batch: Batch) -> Losses:
        """`loss_cls`, `loss_reg` and their sum `loss`; see `anchor_losses`.

        Both are divided by the number of positive anchors of the batch, at least 1. Each process normalizes by its own
        images, as in PaddleDetection.
        """
        logits, deltas = (paddle.concat(t, axis=1).astype("float32") for t in (raw.logits, raw.deltas))
        anchors, truths = paddle.concat(raw.anchors), ground_truths(batch)
        matches = self.match(raw, truths)
        normalizer = max(1.0, float(sum(count_positives(matched) for matched in matches)))
        return anchor_losses(logits, deltas, anchors, truths, matches, self.loss_class, self.box_losses, normalizer)

    @paddle.no_grad()
    def match(self, raw: RetinaOutputs, truths: Sequence[GroundTruth]) -> List[Matches]:
        """The matches of each image."""
        anchors, sizes = paddle.concat(raw.anchors), [len(level) for level in raw.anchors]
        predictions = self.boxes(paddle.concat(raw.deltas, axis=1).astype("float32"), anchors)  # [B, N, 4]
        return [self.bbox_assigner(own, anchors, truth.boxes, sizes) for own, truth in zip(predictions, truths)]

    def boxes(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Predicted boxes [..., 4] in input pixels. Log sizes are clipped above only, as in PaddleDetection."""
        return decode_deltas(deltas, anchors, std=self.delta_std, center_clip=math.inf)

    def box_losses(self, deltas: Tensor, anchors: Tensor, wanted: Tensor) -> Tensor:
        """The loss of matched pairs: deltas, anchors and boxes to learn, [P, 4] each."""
        return self.loss_bbox(deltas, encode_deltas(wanted, anchors, std=self.delta_std))

    @paddle.no_grad()
    def assignment(self, raw: RetinaOutputs, batch: Batch) -> List[Assignment]:
        """The positive and the ignored anchors of each image."""
        anchors, truths = paddle.concat(raw.anchors), ground_truths(batch)
        return [anchor_assignment(truth, anchors, own) for truth, own in zip(truths, self.match(raw, truths))]

    def decode(self, raw: RetinaOutputs, im_shape: Tensor, scale_factor: Tensor) -> Tuple[Tensor, Tensor]:
        """At most `nms_pre` candidates per level: boxes [B, n, 4] in pixels of the original images, scores [B, K, n].

        Boxes are not clipped to the images, as in PaddleDetection.
        """
        boxes, scores = [], []
        for logits, deltas, anchors in zip(*raw):
            best = best_boxes(self.boxes(deltas, anchors), F.sigmoid(logits).transpose([0, 2, 1]), self.nms_pre)
            boxes.append(best[0])
            scores.append(best[1])
        return to_original_image(paddle.concat(boxes, axis=1), scale_factor), paddle.concat(scores, axis=2)
