"""YOLOF's head: two branches on one feature map, objectness without a loss of its own, uniform matching.

B images, H, W size of the map, A anchors per location, N = H*W*A anchors, K classes, G ground truths of an image,
P matched pairs.
Source: Chen et al., "You Only Look One-level Feature", CVPR 2021, sections 4.1, 4.2 and supplementary A.
"""

from __future__ import annotations

from typing import Any, List, Literal, NamedTuple, Optional, Tuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppdet_repro.core.contract import Batch, Losses, Suppressor
from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.modeling.anchors import rows_per_anchor
from ppdet_repro.modeling.assigners.matches import Matcher
from ppdet_repro.modeling.assignment_drawing import Assignment, anchor_assignment
from ppdet_repro.modeling.boxes import clip_to_image, decode_deltas, to_original_image
from ppdet_repro.modeling.ground_truth import ground_truths
from ppdet_repro.modeling.layers import batch_norm, conv3x3, conv_tower, prior_bias, reduce_mean
from ppdet_repro.modeling.losses.anchor_loss import anchor_losses, count_positives
from ppdet_repro.modeling.nms import at_most, take_rows
from ppdet_repro.modeling.sizes import sizes
from ppdet_repro.utils.errors import UserError


class YOLOFOutputs(NamedTuple):
    """The predictions of all anchors."""

    anchors: Tensor  # [N, 4] xyxy, input pixels
    logits: Tensor  # [B, N, K], with the objectness
    deltas: Tensor  # [B, N, 4]


@register
class YOLOFFeat(nn.Layer):
    """The two branches of the head, of different depths. `norm_type` is bn or sync_bn.

    Args:
        num_cls_convs, num_reg_convs: number of 3x3 convolutions in each branch
        act: activation after every convolution
    """

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
        self.cls_subnet = conv_tower(feat_in, feat_out, num_cls_convs, batch_norm, act)
        self.reg_subnet = conv_tower(feat_in, feat_out, num_reg_convs, batch_norm, act)

    def forward(self, feat: Tensor) -> Tuple[Tensor, Tensor]:
        """A feature map [B, C, H, W] -> features for the classes, features for boxes and objectness."""
        return self.cls_subnet(feat), self.reg_subnet(feat)


@register
class YOLOFHead(nn.Layer):
    """Class, box and objectness predictions, their losses, and decoding.

    Args:
        conv_feat: The two branches; see `YOLOFFeat`.
        ctr_clip: The largest distance between the centers of a predicted box and its anchor, in pixels (in x and y).
        delta_mean, delta_std: Mean and standard deviation of the target deltas (dx, dy, dw, dh).
        prior_prob: The score that the head predicts before training.
        nms_pre: How many anchors per image, those with the best class scores, are decoded and reach the NMS.
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
        self.bbox_assigner: Matcher = bbox_assigner
        self.loss_class, self.loss_bbox = loss_class, loss_bbox
        self.ctr_clip = ctr_clip
        self.delta_mean = delta_mean or [0.0] * 4
        self.delta_std = delta_std or [1.0] * 4
        self.suppress: Suppressor = nms
        self.nms_pre = nms_pre
        width, num_anchors = conv_feat.feat_out, anchor_generator.num_anchors
        self.cls_score = conv3x3(width, num_anchors * num_classes, bias=prior_bias(prior_prob))
        self.bbox_pred = conv3x3(width, num_anchors * 4)
        self.object_pred = conv3x3(width, num_anchors)

    def forward(self, feats: List[Tensor]) -> YOLOFOutputs:
        """One feature map [B, C, H, W] in a list -> raw outputs."""
        for_classes, for_boxes = self.conv_feat(feats[0])
        class_logits = rows_per_anchor(self.cls_score(for_classes), self.num_classes)  # [B, N, K]
        objectness = rows_per_anchor(self.object_pred(for_boxes), 1)  # [B, N, 1]
        deltas = rows_per_anchor(self.bbox_pred(for_boxes), 4)  # [B, N, 4]
        (anchors,) = self.anchor_generator(feats)
        return YOLOFOutputs(anchors, implicit_objectness(class_logits, objectness), deltas)

    def boxes(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Predicted boxes [..., 4] in input pixels, not clipped to the image."""
        return decode_deltas(deltas, anchors, self.delta_mean, self.delta_std, self.ctr_clip)

    def losses(self, raw: YOLOFOutputs, batch: Batch) -> Losses:
        """`loss_cls`, `loss_reg` and their sum `loss`; see `anchor_losses`.

        Both are divided by the number of anchors whose label is a ground truth, at least 1 per image, summed over the
        images and averaged over the processes.
        """
        predictions, truths = self.boxes(raw.deltas.astype("float32"), raw.anchors), ground_truths(batch)
        matches = [self.bbox_assigner(own, raw.anchors, truth.boxes) for own, truth in zip(predictions, truths)]
        positives = sum(max(1, count_positives(matched)) for matched in matches)
        normalizer = reduce_mean(paddle.to_tensor(float(positives))).clip(min=1.0)
        logits, losses = raw.logits.astype("float32"), (self.loss_class, self.box_losses)
        return anchor_losses(logits, predictions, raw.anchors, truths, matches, *losses, normalizer)

    def box_losses(self, boxes: Tensor, anchors: Tensor, wanted: Tensor) -> Tensor:
        """The loss of matched pairs: predicted boxes, anchors and boxes to learn, [P, 4] each."""
        return self.loss_bbox(boxes, wanted)

    @paddle.no_grad()
    def assignment(self, raw: YOLOFOutputs, batch: Batch) -> List[Assignment]:
        """The positive and the ignored anchors of each image."""
        predictions, truths = self.boxes(raw.deltas.astype("float32"), raw.anchors), ground_truths(batch)
        matches = [self.bbox_assigner(own, raw.anchors, truth.boxes) for own, truth in zip(predictions, truths)]
        return [anchor_assignment(truth, raw.anchors, matched) for truth, matched in zip(truths, matches)]

    def decode(self, raw: YOLOFOutputs, im_shape: Tensor, scale_factor: Tensor) -> Tuple[Tensor, Tensor]:
        """At most `nms_pre` candidates: boxes [B, n, 4] in pixels of the original images, clipped; scores [B, K, n]."""
        anchors, logits, deltas = best_anchors(raw, self.nms_pre)
        boxes = clip_to_image(self.boxes(deltas, anchors), im_shape)
        return to_original_image(boxes, scale_factor), F.sigmoid(logits).transpose([0, 2, 1])


def implicit_objectness(class_logits: Tensor, objectness: Tensor) -> Tensor:
    """The logit of sigmoid(class) * sigmoid(objectness): [..., K], [..., 1] -> [..., K].

    Exponentials are clipped to 1e8, so that large logits give finite results.
    Source: Zhu et al., "AutoAssign", 2020; YOLOF, section 4.3 ("Decoder").
    """
    exponentials = class_logits.exp().clip(max=1e8) + objectness.exp().clip(max=1e8)
    return class_logits + objectness - (1.0 + exponentials).log()


def best_anchors(raw: YOLOFOutputs, limit: int) -> YOLOFOutputs:
    """The `limit` anchors of each image with the highest class logits, where `anchors` is [B, n, 4]."""
    best = raw.logits.max(axis=-1)  # [B, N]
    count = at_most(limit, best)
    if isinstance(count, int) and count == best.shape[1]:
        return YOLOFOutputs(raw.anchors.unsqueeze(0), raw.logits, raw.deltas)  # all, in their order
    index = best.topk(count)[1]  # [B, n]
    anchors = raw.anchors.gather(index.reshape([-1])).reshape([sizes(best)[0], -1, 4])  # [B, n, 4]
    return YOLOFOutputs(anchors, take_rows(raw.logits, index), take_rows(raw.deltas, index))
