"""RetinaNet's head: anchors on every level of a pyramid, two subnets shared by the levels, focal loss.

B images, H, W a level's map, A anchors a place, N anchors of all levels, K classes, G ground truths.
The parameter names are PaddleDetection's, so published detectors load.
Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal

from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.modeling.assigners.matches import IGNORED, Matches
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment
from ppdet_repro.modeling.boxes import decode_deltas, encode_deltas, to_original_image
from ppdet_repro.modeling.ground_truth import one_hot_targets, without_padding
from ppdet_repro.modeling.layers import ConvNorm, batch_norm, conv2d
from ppdet_repro.modeling.nms import best_boxes
from ppdet_repro.utils.errors import UserError

GROUPS = 32  # of a group norm


class RetinaOutputs(NamedTuple):
    """Of each level: `logits` [B, H*W*A, K], `deltas` [B, H*W*A, 4], `anchors` [H*W*A, 4] xyxy pixels."""

    logits: List[paddle.Tensor]
    deltas: List[paddle.Tensor]
    anchors: List[paddle.Tensor]


def conv_norm_relu(in_channels: int, out_channels: int, norm_type: Optional[str]) -> ConvNorm:
    """3x3 convolution whose bias has twice the learning rate, the norm that `norm_of` chooses, ReLU."""
    conv = conv2d(
        in_channels,
        out_channels,
        3,
        weight_attr=ParamAttr(initializer=Normal(0.0, 0.01)),
        bias_attr=ParamAttr(initializer=Constant(0.0), learning_rate=2.0),
    )
    return ConvNorm(conv, norm_of(norm_type, out_channels), F.relu)


def norm_of(norm_type: Optional[str], channels: int) -> nn.Layer:
    """None: no norm; gn: group norm of 32 groups; else a batch norm."""
    if norm_type is None:
        return nn.Identity()
    return nn.GroupNorm(GROUPS, channels) if norm_type == "gn" else batch_norm(channels, norm_type)


@register
class RetinaFeat(nn.Layer):
    """The two subnets without their last layers, shared by all levels. `norm_type`: bn, sync_bn, gn or null."""

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

    def forward(self, feat: paddle.Tensor):
        """[B, C, H, W] -> features for the classes, features for the boxes."""
        features = []
        for names in self.names:
            x = feat
            for name in names:
                x = getattr(self, name)(x)
            features.append(x)
        return tuple(features)


def conv3x3(in_channels: int, out_channels: int, bias: float) -> nn.Conv2D:
    """3x3 convolution of unchanged size, weights N(0, 0.01), constant bias."""
    return nn.Conv2D(
        in_channels,
        out_channels,
        3,
        padding=1,
        weight_attr=ParamAttr(initializer=Normal(0.0, 0.01)),
        bias_attr=ParamAttr(initializer=Constant(bias)),
    )


def flatten(maps: paddle.Tensor, width: int) -> paddle.Tensor:
    """[B, A*width, H, W], anchors outermost, -> [B, H*W*A, width]."""
    return maps.transpose([0, 2, 3, 1]).reshape([0, -1, width])


@register
class RetinaHead(nn.Layer):
    """Class and box predictions at every anchor, their losses, and decoding.

    `weights` multiply the box's deltas (dx, dy, dw, dh); `nms_pre` anchors of each level and image with the best
    class scores reach the NMS.
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
        self.bbox_assigner = bbox_assigner
        self.loss_class = loss_class
        self.loss_bbox = loss_bbox
        self.nms = nms
        self.nms_pre = nms_pre
        self.delta_std = [1.0 / weight for weight in weights or [1.0] * 4]
        width, num_anchors = conv_feat.feat_out, anchor_generator.num_anchors
        self.retina_cls = conv3x3(width, num_anchors * num_classes, bias=-math.log((1 - prior_prob) / prior_prob))
        self.retina_reg = conv3x3(width, num_anchors * 4, bias=0.0)

    def forward(self, feats: List[paddle.Tensor]) -> RetinaOutputs:
        """[B, C, H, W] of each level, finest first -> raw outputs."""
        return self.predict([self.conv_feat(feat) for feat in feats], feats)

    def predict(
        self, features: Sequence[Tuple[paddle.Tensor, paddle.Tensor]], feats: Sequence[paddle.Tensor]
    ) -> RetinaOutputs:
        """Of each level the subnets' features and the map [B, C, H, W] that they saw -> raw outputs."""
        logits = [self.class_logits(for_classes, for_boxes) for for_classes, for_boxes in features]
        deltas = [flatten(self.retina_reg(for_boxes), 4) for _, for_boxes in features]
        return RetinaOutputs(logits, deltas, self.anchor_generator(feats))

    def class_logits(self, for_classes: paddle.Tensor, for_boxes: paddle.Tensor) -> paddle.Tensor:
        """A level's features [B, C, H, W] of both subnets -> [B, H*W*A, K]; RetinaNet's boxes have no say in it."""
        return flatten(self.retina_cls(for_classes), self.num_classes)

    def losses(self, raw: RetinaOutputs, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        """`loss_cls`, `loss_reg` and their sum `loss`.

        `batch` holds `gt_bbox` (B tensors [G, 4] xyxy input pixels) and `gt_class` (B tensors [G, 1]); boxes
        without area are padding. Both losses are divided by the number of positive anchors of the batch, at least
        1; each process normalises by its own images, as in PaddleDetection.
        """
        anchors = paddle.concat(raw.anchors)  # [N, 4]
        logits, deltas = (paddle.concat(t, axis=1).astype("float32") for t in (raw.logits, raw.deltas))
        class_losses, box_losses, num_pos = [], [], 0
        for i, truth in enumerate(zip(batch["gt_bbox"], batch["gt_class"])):
            gt_boxes, gt_classes = without_padding(*truth)
            matches = self.match(deltas[i], raw.anchors, gt_boxes)
            targets = one_hot_targets(matches.labels, gt_classes, self.num_classes)  # [N, K]
            counted = (matches.labels != IGNORED).astype("float32").unsqueeze(-1)  # [N, 1]
            class_losses.append((self.loss_class(logits[i], targets) * counted).sum())
            num_pos += int((matches.labels >= 0).sum())
            if len(matches.anchors):
                chosen, wanted = deltas[i].gather(matches.anchors), gt_boxes.gather(matches.gts)  # [P, 4] each
                box_losses.append(self.box_losses(chosen, anchors.gather(matches.anchors), wanted).sum())
        normaliser = max(1.0, float(num_pos))
        loss_cls = sum(class_losses) / normaliser
        loss_reg = sum(box_losses, deltas.sum() * 0.0) / normaliser
        return {"loss": loss_cls + loss_reg, "loss_cls": loss_cls, "loss_reg": loss_reg}

    @paddle.no_grad()
    def match(self, deltas: paddle.Tensor, anchors: Sequence[paddle.Tensor], gt_boxes: paddle.Tensor) -> Matches:
        """The matches of one image: deltas [N, 4], each level's anchors, ground truth [G, 4]."""
        every = paddle.concat(anchors)  # [N, 4]
        predictions = self.boxes(deltas.astype("float32"), every)
        return self.bbox_assigner(predictions, every, gt_boxes, [len(level) for level in anchors])

    def boxes(self, deltas: paddle.Tensor, anchors: paddle.Tensor) -> paddle.Tensor:
        """Predicted boxes [..., 4] in input pixels; log sizes are cut above only, as in PaddleDetection."""
        return decode_deltas(deltas, anchors, std=self.delta_std, centre_clip=math.inf)

    def box_losses(self, deltas: paddle.Tensor, anchors: paddle.Tensor, wanted: paddle.Tensor) -> paddle.Tensor:
        """The loss of matched pairs: deltas, anchors and the boxes to learn, [P, 4] each."""
        return self.loss_bbox(deltas, encode_deltas(wanted, anchors, std=self.delta_std))

    @paddle.no_grad()
    def assignment(self, raw: RetinaOutputs, batch: Dict[str, Any]) -> List[Assignment]:
        """For each image its positive anchors and the ignored ones."""
        assignments, places = [], paddle.concat(raw.anchors).numpy()
        deltas = paddle.concat(raw.deltas, axis=1)
        for i, truth in enumerate(zip(batch["gt_bbox"], batch["gt_class"])):
            gt_boxes, _ = without_padding(*truth)
            labels = self.match(deltas[i], raw.anchors, gt_boxes).labels.numpy()
            ignored = places[labels == IGNORED]
            positive = AssignedBoxes("positive anchors", places[labels >= 0], labels[labels >= 0])
            left_out = AssignedBoxes("ignored anchors", ignored, np.full(len(ignored), -1))
            assignments.append(Assignment(gt_boxes.numpy(), [positive, left_out], []))
        return assignments

    def decode(self, raw: RetinaOutputs, im_shape: paddle.Tensor, scale_factor: paddle.Tensor):
        """Candidates for the NMS: boxes [B, n, 4] in pixels of the original images and scores [B, K, n]; n is
        `nms_pre` a level, or all its anchors where there are fewer. As in PaddleDetection, boxes may reach beyond
        the image."""
        boxes, scores = [], []
        for logits, deltas, anchors in zip(*raw):
            best = best_boxes(self.boxes(deltas, anchors), F.sigmoid(logits).transpose([0, 2, 1]), self.nms_pre)
            boxes.append(best[0])
            scores.append(best[1])
        return to_original_image(paddle.concat(boxes, axis=1), scale_factor), paddle.concat(scores, axis=2)

    @property
    def suppress(self) -> Any:
        """Candidates [B, n, 4], [B, K, n] -> detections."""
        return self.nms
