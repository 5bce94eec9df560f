"""YOLOv3's losses, with PP-YOLO's on the IoU.

B images, N anchors of all levels, K classes, G ground truths, P anchors that have an object.
"""

from __future__ import annotations

from typing import List, Optional

import paddle
from paddle import Tensor, nn

from ppdet_repro.core.contract import Losses
from ppdet_repro.core.registry import Part, Shared, register
from ppdet_repro.modeling.boxes import iou_plus_eps, xyxy_from_cxcywh
from ppdet_repro.modeling.losses.cross_entropy import binary_cross_entropy
from ppdet_repro.modeling.yolo_predictions import Grid, YOLOPredictions, scaled_sigmoid, xyxy_from_cells
from ppdet_repro.utils.errors import UserError


@register
class YOLOv3Loss(nn.Layer):
    """Sums over the anchors, divided by the normalizer (the number of images, not of boxes).

    loss_xy         of the position in the cell: L1 of the scaled sigmoid, or cross entropy if `scale_x_y` is 1
    loss_wh         L1 of the log sizes
    loss_iou        `iou_loss` of the boxes, if there is one
    loss_iou_aware  `iou_aware_loss` of the predicted IoU, if there is one
    loss_obj        cross entropy; an anchor without an object does not count if the IoU of its predicted box with a
                    ground truth is larger than `ignore_thresh`
    loss_cls        cross entropy; with `label_smooth` the targets are d and 1 - d, d = min(1/K, 1/40)

    Every term of an anchor with an object is weighted by the object's score, the first three also by 2 - its area
    (relative to the input). `downsample` are the strides of the levels; the head checks them.
    """

    def __init__(
        self,
        num_classes: Shared[int] = 80,
        ignore_thresh: float = 0.7,
        label_smooth: bool = False,
        downsample: Optional[List[int]] = None,
        scale_x_y: float = 1.0,
        iou_loss: Optional[Part[nn.Layer]] = None,
        iou_aware_loss: Optional[Part[nn.Layer]] = None,
    ):
        super().__init__()
        if getattr(iou_loss, "reduction", "none") != "none":
            raise UserError("YOLOv3Loss: iou_loss needs reduction: none, because every box has its own weight")
        self.ignore_thresh = ignore_thresh
        self.smoothing = min(1 / num_classes, 1 / 40) if label_smooth else 0.0
        self.downsample = downsample or [32, 16, 8]
        self.scale_x_y = scale_x_y
        self.iou_loss, self.iou_aware_loss = iou_loss, iou_aware_loss

    def forward(self, predictions: YOLOPredictions, targets: Tensor, gt_boxes: Tensor, normalizer: float) -> Losses:
        """The losses above and their sum `loss`.

        Targets are x, y, log w, log h, scale, score and classes of every anchor [B, N, 6 + K] (see `Gt2YoloTarget`),
        `gt_boxes` cxcywh relative to the input [B, G, 4], padded with zeros.
        """
        index = paddle.nonzero(targets[:, :, 5] > 0)  # [P, 2]: image, anchor
        # One more row, whose loss counts 0, so that sums are defined without objects, too
        index = paddle.concat([index, paddle.zeros([1, 2], index.dtype)])  # [P + 1, 2]
        target = targets.gather_nd(index)  # [P + 1, 6 + K]
        score = target[:, 5] * (paddle.arange(len(index)) < len(index) - 1).astype("float32")  # [P + 1]
        scaled = score * target[:, 4]  # [P + 1]
        center, log_size, classes = (
            t.gather_nd(index) for t in (predictions.center, predictions.log_size, predictions.classes)
        )
        grid = Grid(*(t.gather(index[:, 1]) for t in predictions.grid))
        boxes = xyxy_from_cells(scaled_sigmoid(center, self.scale_x_y), log_size, grid)  # [P + 1, 4]
        truth = xyxy_from_cells(target[:, :2], target[:, 2:4], grid)  # [P + 1, 4]
        losses = {
            "loss_xy": (self.center_loss(center, target[:, :2]).sum(axis=-1) * scaled).sum(),
            "loss_wh": ((log_size - target[:, 2:4]).abs().sum(axis=-1) * scaled).sum(),
        }
        if self.iou_loss is not None:
            losses["loss_iou"] = (self.iou_loss(boxes, truth) * scaled).sum()
        if self.iou_aware_loss is not None and predictions.iou is not None:
            iou = predictions.iou.gather_nd(index)  # [P + 1]
            losses["loss_iou_aware"] = (self.iou_aware_loss(iou, boxes, truth) * score).sum()
        losses["loss_obj"] = self.objectness_loss(predictions, targets[:, :, 5], gt_boxes)
        losses["loss_cls"] = (self.class_loss(classes, target[:, 6:]).sum(axis=-1) * score).sum()
        losses = {name: value / normalizer for name, value in losses.items()}
        return {**losses, "loss": sum(losses.values())}

    def center_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of positions in the cell: both [P, 2] -> [P, 2]."""
        if self.scale_x_y == 1:
            return binary_cross_entropy(logits, targets)
        return (scaled_sigmoid(logits, self.scale_x_y) - targets).abs()

    def class_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Both [P, K] -> [P, K]. Positive targets count as 1 before smoothing."""
        targets = (targets > 0).astype("float32") * (1 - 2 * self.smoothing) + self.smoothing
        return binary_cross_entropy(logits, targets)

    def objectness_loss(self, predictions: YOLOPredictions, scores: Tensor, gt_boxes: Tensor) -> Tensor:
        """The sum over all anchors, from the scores of their objects [B, N] (0: no object) and `gt_boxes` [B, G, 4]."""
        has_box = (scores > 0).astype("float32")  # [B, N]
        counts = (self.best_overlap(predictions, gt_boxes) <= self.ignore_thresh).astype("float32")  # [B, N]
        loss = binary_cross_entropy(predictions.objectness, has_box)
        return (loss * (scores + (1 - has_box) * counts)).sum()

    @paddle.no_grad()
    def best_overlap(self, predictions: YOLOPredictions, gt_boxes: Tensor) -> Tensor:
        """The largest IoU [B, N] of each predicted box with any ground truth of its image."""
        truth = without_padding(gt_boxes)  # [B, g, 4]
        if truth.shape[1] == 0:
            return paddle.zeros_like(predictions.objectness)
        center = scaled_sigmoid(predictions.center, self.scale_x_y)
        boxes = xyxy_from_cells(center, predictions.log_size, predictions.grid)  # [B, N, 4]
        return iou_plus_eps(boxes.unsqueeze(2), xyxy_from_cxcywh(truth).unsqueeze(1)).max(axis=-1)


def without_padding(gt_boxes: Tensor) -> Tensor:
    """cxcywh boxes [B, G, 4] without the last columns, those that are padding in every image."""
    filled = paddle.nonzero(gt_boxes[:, :, 2] > 0)  # [n, 2]: image, column
    return gt_boxes[:, : int(filled[:, 1].max()) + 1] if len(filled) else gt_boxes[:, :0]
