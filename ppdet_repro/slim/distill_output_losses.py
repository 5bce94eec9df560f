"""Distillation losses between the outputs of a student's and a teacher's head.

B images, N predicted boxes, K classes, A anchors per cell; H, W size of a level's map.
"""

from __future__ import annotations

from typing import Any

import paddle.nn.functional as F
from paddle import Tensor

from ppdet_repro.core.contract import Losses
from ppdet_repro.core.registry import register
from ppdet_repro.modeling.architectures.detector import Detector
from ppdet_repro.modeling.boxes import giou
from ppdet_repro.modeling.heads.ttf_head import TTFHead
from ppdet_repro.modeling.heads.yolov3_head import YOLOv3Head
from ppdet_repro.modeling.losses.cross_entropy import binary_cross_entropy
from ppdet_repro.slim.distill_outputs import check_geometry, dense_outputs
from ppdet_repro.slim.distill_pass import Pass, PassLoss
from ppdet_repro.utils.errors import UserError


@register
class DistillDenseLoss(PassLoss):
    """The student's classes and boxes learn the teacher's at every location: YOLOF, RetinaNet, SAPD, FSAF, TTFNet,
    PAFNet.

    distill_cls  quality focal loss of the teacher's probabilities t: |t - s|^beta times the cross entropy of the
                 student's s with t (Li et al., "Generalized Focal Loss", NeurIPS 2020, equation 3)
    distill_box  1 - GIoU of the two boxes, weighted by the teacher's best class probability

    Boxes of the teacher whose best probability is less than `min_score` have the weight 0. Both losses are sums,
    divided by the sum of the weights over the batch, at least 1; each process normalizes by its own images.

    Args:
        cls_weight, box_weight: factors on the two losses
        beta: how much more a large difference of probabilities counts
        min_score: see above
    """

    def __init__(self, cls_weight: float = 1.0, box_weight: float = 1.0, beta: float = 2.0, min_score: float = 0.1):
        super().__init__()
        self.cls_weight, self.box_weight = cls_weight, box_weight
        self.beta, self.min_score = beta, min_score

    def connect(self, student: Detector, teacher: Detector) -> None:
        """Raises UserError if classes, strides or anchors differ."""
        if isinstance(student.head, YOLOv3Head):
            raise UserError("DistillDenseLoss does not fit YOLOv3Head; take DistillYOLOv3Loss")
        check_geometry(student.head, teacher.head)

    def forward(self, student: Pass, teacher: Pass) -> Losses:
        """The losses by name."""
        own = dense_outputs(student.detector.head, student.raw)
        size = student.raw.logits.shape[2:] if isinstance(student.detector.head, TTFHead) else None
        theirs = dense_outputs(teacher.detector.head, teacher.raw, size)
        target = F.sigmoid(theirs.logits)  # [B, N, K]
        best = target.max(axis=-1)  # [B, N]
        weight = best * (best >= self.min_score).astype("float32")
        normalizer = weight.sum().clip(min=1.0)
        classes = quality_focal_loss(own.logits, target, self.beta).sum()
        boxes = ((1.0 - giou(own.boxes, theirs.boxes)) * weight).sum()
        return {
            "distill_cls": self.cls_weight * classes / normalizer,
            "distill_box": self.box_weight * boxes / normalizer,
        }


def quality_focal_loss(logits: Tensor, targets: Tensor, beta: float) -> Tensor:
    """|t - s(x)|^beta times the binary cross entropy of logits x with targets t in [0, 1], elementwise."""
    return (F.sigmoid(logits) - targets).abs() ** beta * binary_cross_entropy(logits, targets)


@register
class DistillYOLOv3Loss(PassLoss):
    """The student's raw outputs learn the teacher's, level by level: YOLOv3, PP-YOLO and PP-YOLOv2.

    distill_reg  cross entropy of x and y with the teacher's sigmoids, L1 of the log sizes w and h
    distill_obj  cross entropy of the objectness with 1 where the teacher's logit is positive, else 0
    distill_cls  cross entropy of the classes with the teacher's sigmoids

    Each is a mean over images, anchors, cells (and classes), summed over the levels. The first and the last are
    weighted by the teacher's objectness. Predicted IoUs are not compared, so either head may have them or not. This is
    PaddleDetection's loss of this name; there the teacher runs in training mode, here in evaluation mode. Source:
    Mehta and Ozturk, "Object detection at 200 Frames Per Second", 2018, from which it departs.

    Args:
        weight: factor on all three
    """

    def __init__(self, weight: float = 1000.0):
        super().__init__()
        self.weight = weight

    def connect(self, student: Detector, teacher: Detector) -> None:
        """Raises UserError if these are not YOLOv3 heads, or classes, strides or anchors differ."""
        for head in (student.head, teacher.head):
            if not isinstance(head, YOLOv3Head):
                raise UserError(f"DistillYOLOv3Loss does not fit {type(head).__name__}; take DistillDenseLoss")
        check_geometry(student.head, teacher.head)

    def forward(self, student: Pass, teacher: Pass) -> Losses:
        """The losses by name."""
        losses = [self.level(own, theirs) for own, theirs in zip(yolo_rows(student), yolo_rows(teacher))]
        names = "distill_reg", "distill_obj", "distill_cls"
        return {name: self.weight * sum(parts) for name, parts in zip(names, zip(*losses))}

    def level(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three means of a level, from two tensors [B, A*H*W, 5 + K]."""
        target = F.sigmoid(teacher)
        weight = target[:, :, 4:5]
        center = binary_cross_entropy(student[:, :, :2], target[:, :, :2]).sum(axis=-1, keepdim=True)
        size = (student[:, :, 2:4] - teacher[:, :, 2:4]).abs().sum(axis=-1, keepdim=True)
        positive = (teacher[:, :, 4] > 0).astype("float32")
        return (
            ((center + size) * weight).mean(),
            binary_cross_entropy(student[:, :, 4], positive).mean(),
            (binary_cross_entropy(student[:, :, 5:], target[:, :, 5:]) * weight).mean(),
        )


def yolo_rows(seen: Pass) -> list[Tensor]:
    """Each level's x, y, w, h, objectness and classes in float32, one row per anchor: [B, A*H*W, 5 + K]."""
    head: Any = seen.detector.head
    maps = seen.raw.maps
    return [head.split(m.astype("float32"), len(anchors))[1] for m, anchors in zip(maps, head.anchors)]
