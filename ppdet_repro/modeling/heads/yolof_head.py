"""YOLOF's head: two branches on one map, objectness without a loss of its own, uniform matching.

B images, H, W the map, A anchors a place, N = H*W*A anchors, K classes, G ground truths, P matched pairs.
Source: Chen et al., "You Only Look One-level Feature", CVPR 2021, sections 4.1, 4.2 and supplementary A.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, Literal, NamedTuple, Optional

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal

from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.modeling.assigners.matches import IGNORED
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment
from ppdet_repro.modeling.boxes import clip_to_image, decode_deltas, to_original_image
from ppdet_repro.modeling.ground_truth import one_hot_targets, without_padding
from ppdet_repro.modeling.implicit_objectness import implicit_objectness
from ppdet_repro.modeling.layers import activation, batch_norm, reduce_mean
from ppdet_repro.modeling.nms import at_most, take_rows
from ppdet_repro.utils.errors import UserError


class YOLOFOutputs(NamedTuple):
    """`anchors` [N, 4] xyxy pixels; `logits` [B, N, K], objectness merged; `deltas` [B, N, 4]."""

    anchors: paddle.Tensor
    logits: paddle.Tensor
    deltas: paddle.Tensor


def conv3x3(in_channels: int, out_channels: int, bias: float = 0.0) -> nn.Conv2D:
    """3x3 convolution of unchanged size, weights N(0, 0.01), constant bias."""
    return nn.Conv2D(
        in_channels,
        out_channels,
        3,
        padding=1,
        weight_attr=ParamAttr(initializer=Normal(0.0, 0.01)),
        bias_attr=ParamAttr(initializer=Constant(bias)),
    )


def branch(in_channels: int, channels: int, depth: int, act: str) -> nn.Sequential:
    """`depth` times 3x3 convolution, batch norm without decay, activation."""
    layers: List[nn.Layer] = []
    for i in range(depth):
        layers += [conv3x3(in_channels if i == 0 else channels, channels), batch_norm(channels), activation(act)]
    return nn.Sequential(*layers)


@register
class YOLOFFeat(nn.Layer):
    """The head's two branches, unequal in depth."""

    def __init__(
        self,
        feat_in: int = 256,
        feat_out: int = 256,
        num_cls_convs: int = 2,
        num_reg_convs: int = 4,
        norm_type: str = "bn",
        act: Literal["relu", "leaky"] = "relu",
    ):
        super().__init__()
        if norm_type not in ("bn", "sync_bn"):
            raise UserError(f"YOLOFFeat: norm_type {norm_type!r} is not bn or sync_bn")
        self.feat_out = feat_out
        self.cls_subnet = branch(feat_in, feat_out, num_cls_convs, act)
        self.reg_subnet = branch(feat_in, feat_out, num_reg_convs, act)

    def forward(self, feat: paddle.Tensor):
        """[B, C, H, W] -> features for the classes, features for boxes and objectness."""
        return self.cls_subnet(feat), self.reg_subnet(feat)


def flatten(maps: paddle.Tensor, width: int) -> paddle.Tensor:
    """[B, A*width, H, W], anchors outermost, -> [B, H*W*A, width]."""
    return maps.transpose([0, 2, 3, 1]).reshape([0, -1, width])


@register
class YOLOFHead(nn.Layer):
    """Class, box and objectness predictions, their losses, and decoding.

    `ctr_clip` (pixels) bounds how far a predicted centre may lie from its anchor's; `nms_pre` anchors of an
    image with the best class scores are decoded and reach the NMS.
    """

    def __init__(
        self,
        num_classes: Shared[int] = 80,
        conv_feat: Part[nn.Layer] = "YOLOFFeat",
        anchor_generator: Part[nn.Layer] = "AnchorGenerator",
        bbox_assigner: Part[Any] = "UniformAssigner",
        loss_class: Part[nn.Layer] = "FocalLoss",
        loss_bbox: Part[nn.Layer] = "GIoULoss",
        ctr_clip: Optional[float] = 32.0,
        delta_mean: Optional[List[float]] = None,
        delta_std: Optional[List[float]] = None,
        nms: Part[Any] = "MultiClassNMS",
        prior_prob: float = 0.01,
        nms_pre: int = 1000,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.conv_feat = conv_feat
        self.anchor_generator = anchor_generator
        self.bbox_assigner = bbox_assigner
        self.loss_class = loss_class
        self.loss_bbox = loss_bbox
        self.ctr_clip = ctr_clip
        self.delta_mean = delta_mean or [0.0] * 4
        self.delta_std = delta_std or [1.0] * 4
        self.nms = nms
        self.nms_pre = nms_pre
        width, num_anchors = conv_feat.feat_out, anchor_generator.num_anchors
        self.cls_score = conv3x3(width, num_anchors * num_classes, bias=-math.log((1 - prior_prob) / prior_prob))
        self.bbox_pred = conv3x3(width, num_anchors * 4)
        self.object_pred = conv3x3(width, num_anchors)

    def forward(self, feats: List[paddle.Tensor]) -> YOLOFOutputs:
        """[[B, C, H, W]] -> raw outputs."""
        for_classes, for_boxes = self.conv_feat(feats[0])
        class_logits = flatten(self.cls_score(for_classes), self.num_classes)  # [B, N, K]
        objectness = flatten(self.object_pred(for_boxes), 1)  # [B, N, 1]
        deltas = flatten(self.bbox_pred(for_boxes), 4)  # [B, N, 4]
        (anchors,) = self.anchor_generator(feats)
        return YOLOFOutputs(anchors, implicit_objectness(class_logits, objectness), deltas)

    def boxes(self, deltas: paddle.Tensor, anchors: paddle.Tensor) -> paddle.Tensor:
        """Predicted boxes [..., 4] in input pixels, not clipped to the image."""
        return decode_deltas(deltas, anchors, self.delta_mean, self.delta_std, self.ctr_clip)

    def losses(self, raw: YOLOFOutputs, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        """`loss_cls`, `loss_reg` and their sum `loss`.

        `batch` holds `gt_bbox` (B tensors [G, 4] xyxy input pixels) and `gt_class` (B tensors [G, 1]); boxes
        without area are padding. Both losses are divided by the number of anchors whose label is a ground
        truth, at least 1 an image, summed over images and averaged over processes. Boxes regress over the
        matched pairs, so an anchor matched twice counts twice.
        """
        logits, deltas = raw.logits.astype("float32"), raw.deltas.astype("float32")
        class_losses, box_losses, num_pos = [], [], 0
        for i, (gt_boxes, gt_classes) in enumerate(zip(batch["gt_bbox"], batch["gt_class"])):
            gt_boxes, gt_classes = without_padding(gt_boxes, gt_classes)
            predictions = self.boxes(deltas[i], raw.anchors)  # [N, 4]
            matches = self.bbox_assigner(predictions, raw.anchors, gt_boxes)
            num_pos += max(1, int((matches.labels >= 0).sum()))
            targets = one_hot_targets(matches.labels, gt_classes, self.num_classes)  # [N, K]
            counted = (matches.labels != IGNORED).astype("float32").unsqueeze(-1)  # [N, 1]
            class_losses.append((self.loss_class(logits[i], targets) * counted).sum())
            if matches.anchors.shape[0]:
                box_losses.append(
                    self.loss_bbox(predictions.gather(matches.anchors), gt_boxes.gather(matches.gts)).sum()
                )
        normaliser = reduce_mean(paddle.to_tensor(float(num_pos))).clip(min=1.0)
        loss_cls = sum(class_losses) / normaliser
        loss_reg = sum(box_losses, deltas.sum() * 0.0) / normaliser
        return {"loss": loss_cls + loss_reg, "loss_cls": loss_cls, "loss_reg": loss_reg}

    @paddle.no_grad()
    def assignment(self, raw: YOLOFOutputs, batch: Dict[str, Any]) -> List[Assignment]:
        """For each image its matched anchors and the ignored ones."""
        assignments = []
        for i, truth in enumerate(zip(batch["gt_bbox"], batch["gt_class"])):
            gt_boxes, _ = without_padding(*truth)
            predictions = self.boxes(raw.deltas[i].astype("float32"), raw.anchors)
            matches = self.bbox_assigner(predictions, raw.anchors, gt_boxes)
            anchors = raw.anchors.numpy()
            ignored = anchors[matches.labels.numpy() == IGNORED]
            positive = AssignedBoxes("matched anchors", anchors[matches.anchors.numpy()], matches.gts.numpy())
            left_out = AssignedBoxes("ignored anchors", ignored, np.full(len(ignored), -1))
            assignments.append(Assignment(gt_boxes.numpy(), [positive, left_out], []))
        return assignments

    def decode(self, raw: YOLOFOutputs, im_shape: paddle.Tensor, scale_factor: paddle.Tensor):
        """Candidates for the NMS: boxes [B, n, 4] in pixels of the original image, clipped to it, and scores
        [B, K, n]; n is `nms_pre`, or all N anchors where there are fewer."""
        anchors, logits, deltas = best_anchors(raw, self.nms_pre)
        boxes = clip_to_image(self.boxes(deltas, anchors), im_shape)
        return to_original_image(boxes, scale_factor), F.sigmoid(logits).transpose([0, 2, 1])

    @property
    def suppress(self) -> Any:
        """Candidates [B, n, 4], [B, K, n] -> detections."""
        return self.nms


def best_anchors(raw: YOLOFOutputs, limit: int) -> YOLOFOutputs:
    """The `limit` anchors of each image with the highest class logit; anchors become [B, n, 4]."""
    best = raw.logits.max(axis=-1)  # [B, N]
    count = at_most(limit, best)
    if isinstance(count, int) and count == best.shape[1]:
        return YOLOFOutputs(raw.anchors.unsqueeze(0), raw.logits, raw.deltas)  # all stay, in their order
    index = best.topk(count)[1]  # [B, n]
    anchors = raw.anchors.gather(index.reshape([-1])).reshape([best.shape[0], -1, 4])  # [B, n, 4]
    return YOLOFOutputs(anchors, take_rows(raw.logits, index), take_rows(raw.deltas, index))
