"""YOLOv3's head, with PP-YOLO's branch that predicts the IoU.

B images, H, W a level's map, A anchors a cell, K classes, N anchors of all levels, G ground truths.
Source: Redmon and Farhadi, "YOLOv3", 2018; Wu et al., "IoU-aware Single-stage Object Detector", 2019, which
PP-YOLO and PP-YOLOv2 build on.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.regularizer import L2Decay

from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment, owners_of
from ppdet_repro.modeling.boxes import xyxy_from_cxcywh
from ppdet_repro.modeling.yolo_predictions import YOLOCandidates, YOLOPredictions, make_grid, rows, xyxy_from_cells
from ppdet_repro.utils.errors import UserError

COCO_ANCHORS = [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
COCO_MASKS = [[6, 7, 8], [3, 4, 5], [0, 1, 2]]
EPS = 1e-7


class YOLOv3Outputs(NamedTuple):
    """`maps`: [B, A*(5 + K), H, W] a level, coarsest first; A*(6 + K) with IoU logits, which come first.

    Then, anchor by anchor: x, y, w, h, objectness, classes.
    """

    maps: List[paddle.Tensor]


@register
class YOLOv3Head(nn.Layer):
    """A 1x1 convolution a level, the losses, and what decoding needs.

    `anchors` are (width, height) in input pixels, `anchor_masks` the indices of each level's, coarsest level first.
    `iou_aware` adds an IoU a box; at inference the objectness is objectness^(1 - f) * IoU^f with f =
    `iou_aware_factor`. `prior_prob` is the objectness that a new head gives, for training from scratch (RetinaNet,
    section 4.1); with None it gives 0.5, and the first hundreds of updates go into unlearning that.
    """

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        anchors: Shared[Optional[List[List[float]]]] = None,
        anchor_masks: Shared[Optional[List[List[int]]]] = None,
        num_classes: Shared[int] = 80,
        loss: Part[nn.Layer] = "YOLOv3Loss",
        iou_aware: bool = False,
        iou_aware_factor: float = 0.4,
        prior_prob: Optional[float] = None,
    ):
        super().__init__()
        anchors, masks = anchors or COCO_ANCHORS, anchor_masks or COCO_MASKS
        check(anchors, masks, strides, loss, iou_aware)
        self.all_anchors = anchors
        self.anchor_masks = masks
        self.anchors = [[anchors[i] for i in mask] for mask in masks]
        self.strides = strides
        self.num_classes = num_classes
        self.loss = loss
        self.split = split_iou if iou_aware else split_nothing
        self.confidence = IouAwareObjectness(iou_aware_factor) if iou_aware else objectness
        width = num_classes + (6 if iou_aware else 5)
        self.yolo_output = nn.LayerList(
            [
                nn.Conv2D(c, len(mask) * width, 1, bias_attr=ParamAttr(regularizer=L2Decay(0.0)))
                for c, mask in zip(in_channels, masks)
            ]
        )

        if prior_prob is not None:
            for conv, mask in zip(self.yolo_output, masks):
                expect_objects(conv.bias, len(mask), 5 + num_classes, prior_prob)

    def forward(self, feats: List[paddle.Tensor]) -> YOLOv3Outputs:
        """[B, C, H, W] a level, coarsest first -> raw outputs."""
        return YOLOv3Outputs([conv(feat) for conv, feat in zip(self.yolo_output, feats)])

    def predictions(self, raw: YOLOv3Outputs) -> YOLOPredictions:
        """All levels' outputs, anchor by anchor, in float32."""
        maps = [m.astype("float32") for m in raw.maps]
        ious, boxes = zip(*(self.split(m, len(anchors)) for m, anchors in zip(maps, self.anchors)))
        boxes = paddle.concat(boxes, axis=1)  # [B, N, 5 + K]
        return YOLOPredictions(
            centre=boxes[:, :, 0:2],
            log_size=boxes[:, :, 2:4],
            objectness=boxes[:, :, 4],
            classes=boxes[:, :, 5:],
            iou=None if ious[0] is None else paddle.concat(ious, axis=1),
            grid=make_grid(maps, self.anchors, self.strides),
        )

    def losses(self, raw: YOLOv3Outputs, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        """The loss's entries and their sum `loss`.

        `batch` holds `target0`, `target1`, ... [B, A, 6 + K, H, W], one a level (see `Gt2YoloTarget`), and
        `gt_cxcywh_relative` [B, G, 4], padded with zeros.
        """
        levels = enumerate(self.anchors)
        targets = [rows(batch[f"target{i}"], len(anchors)) for i, anchors in levels]
        return self.loss(self.predictions(raw), paddle.concat(targets, axis=1), batch["gt_cxcywh_relative"])

    @paddle.no_grad()
    def assignment(self, raw: YOLOv3Outputs, batch: Dict[str, Any]) -> List[Assignment]:
        """For each image the cells and anchors that have an object, and the cells whose anchors are ignored."""
        predictions = self.predictions(raw)
        targets = [rows(batch[f"target{i}"], len(anchors)) for i, anchors in enumerate(self.anchors)]
        targets = paddle.concat(targets, axis=1)  # [B, N, 6 + K]
        overlaps = self.loss.best_overlap(predictions, batch["gt_cxcywh_relative"])  # [B, N]
        height, width = (side * self.strides[0] for side in raw.maps[0].shape[2:])
        to_pixels = np.array([width, height] * 2, np.float32)
        corner, cell, anchor = (t.numpy() for t in predictions.grid)  # [N, 2] each
        cells = np.concatenate([corner, corner + cell], axis=1) * to_pixels  # [N, 4]
        middle, half = corner + cell / 2, anchor / 2
        anchors = np.concatenate([middle - half, middle + half], axis=1) * to_pixels  # [N, 4]
        truth = xyxy_from_cells(targets[:, :, :2], targets[:, :, 2:4], predictions.grid).numpy() * to_pixels
        assignments = []
        for i, boxes in enumerate(batch["gt_cxcywh_relative"]):
            objects = xyxy_from_cxcywh(boxes).numpy()[boxes[:, 2].numpy() > 0] * to_pixels  # [G, 4]
            positive = targets[i, :, 5].numpy() > 0
            ignored = ~positive & (overlaps[i].numpy() > self.loss.ignore_thresh)
            owners = owners_of(truth[i][positive], objects)
            shown = [
                AssignedBoxes("cells with an object", cells[positive], owners),
                AssignedBoxes("their anchors", anchors[positive], owners),
                AssignedBoxes("cells with an ignored anchor", cells[ignored], np.full(ignored.sum(), -1)),
            ]
            assignments.append(Assignment(objects, shown, []))
        return assignments

    def candidates(self, raw: YOLOv3Outputs) -> YOLOCandidates:
        """The predictions as inference reads them."""
        p = self.predictions(raw)
        return YOLOCandidates(p.centre, p.log_size, self.confidence(p), p.classes, p.grid)


def expect_objects(bias: paddle.Tensor, anchors: int, width: int, probability: float) -> None:
    """Set the objectness in a level's bias, `anchors` times `width` numbers behind what else there may be."""
    values = bias.numpy()
    values[-anchors * width :].reshape(anchors, width)[:, 4] = -math.log((1 - probability) / probability)
    bias.set_value(values)


def split_iou(maps: paddle.Tensor, anchors: int):
    """[B, A*(6 + K), H, W] -> IoU logits [B, A*H*W] and the rest [B, A*H*W, 5 + K]."""
    return maps[:, :anchors].reshape([0, -1]), rows(maps[:, anchors:], anchors)


def split_nothing(maps: paddle.Tensor, anchors: int):
    """[B, A*(5 + K), H, W] -> None and the rest [B, A*H*W, 5 + K]."""
    return None, rows(maps, anchors)


def objectness(predictions: YOLOPredictions) -> paddle.Tensor:
    """The probability of an object [B, N]."""
    return F.sigmoid(predictions.objectness)


class IouAwareObjectness:
    """objectness^(1 - factor) * IoU^factor [B, N], at least 1e-7 away from 0 and 1."""

    def __init__(self, factor: float):
        if not 0 <= factor <= 1:
            raise UserError(f"YOLOv3Head: iou_aware_factor {factor} is not in 0..1")
        self.factor = factor

    def __call__(self, predictions: YOLOPredictions) -> paddle.Tensor:
        iou = F.sigmoid(predictions.iou)
        return (objectness(predictions) ** (1 - self.factor) * iou**self.factor).clip(EPS, 1 - EPS)


def check(anchors, masks, strides, loss, iou_aware: bool) -> None:
    """UserError if what the head is given does not fit together."""
    if len(masks) != len(strides):
        raise UserError(f"YOLOv3Head: {len(masks)} anchor_masks for the {len(strides)} levels of the neck")
    unknown = sorted({i for mask in masks for i in mask if not 0 <= i < len(anchors)})
    if unknown:
        raise UserError(f"YOLOv3Head: anchor_masks name anchors {unknown}, there are {len(anchors)}")
    if any(len(anchor) != 2 for anchor in anchors):
        raise UserError("YOLOv3Head: an anchor is [width, height]")
    if list(loss.downsample[: len(strides)]) != list(strides):
        raise UserError(f"YOLOv3Head: YOLOv3Loss.downsample is {loss.downsample}, the neck's strides {strides}")
    if iou_aware != (loss.iou_aware_loss is not None):
        raise UserError("YOLOv3Head: iou_aware and YOLOv3Loss.iou_aware_loss belong together; give both or neither")
