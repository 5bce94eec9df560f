"""YOLOv3's head, with PP-YOLO's branch that predicts the IoU.

B images, H, W size of a level's map, A anchors per cell, K classes, N anchors of all levels, G ground truths.
Source: Redmon and Farhadi, "YOLOv3", 2018; Wu et al., "IoU-aware Single-stage Object Detector", 2019, which
PP-YOLO and PP-YOLOv2 build on.
"""

from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, cast

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.regularizer import L2Decay

from ppdet_repro.core.contract import Batch, Losses
from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment, owners_of
from ppdet_repro.modeling.boxes import xyxy_from_center_size, xyxy_from_cxcywh
from ppdet_repro.modeling.yolo_predictions import YOLOCandidates, YOLOPredictions, make_grid, rows, xyxy_from_cells
from ppdet_repro.utils.errors import UserError

COCO_ANCHORS = [[10, 13], [16, 30], [33, 23], [30, 61], [62, 45], [59, 119], [116, 90], [156, 198], [373, 326]]
COCO_MASKS = [[6, 7, 8], [3, 4, 5], [0, 1, 2]]


class YOLOv3Outputs(NamedTuple):
    """One map per level, coarsest first.

    Its channels are, anchor by anchor, x, y, w, h, objectness and classes. With `iou_aware`, the A channels of the IoU
    logits come before them.
    """

    maps: List[Tensor]  # [B, A*(5 + K), H, W], or [B, A*(6 + K), H, W] with `iou_aware`


@register
class YOLOv3Head(nn.Layer):
    """One 1x1 convolution per level, the losses, and the candidates for decoding.

    Args:
        in_channels: Channels of each level's feature map, coarsest first.
        strides: Stride of each level in input pixels.
        anchors: (width, height) in input pixels, of all levels. None: YOLOv3's for COCO.
        anchor_masks: For each level, coarsest first, the indices of its anchors.
        loss: The losses; see `YOLOv3Loss`.
        iou_aware: Predict the IoU of every box. At inference the confidence is then objectness^(1 - f) * IoU^f with
            f = `iou_aware_factor`.
        prior_prob: The objectness that a new head predicts, for training from scratch (RetinaNet, section 4.1). With
            None it is 0.5, and the first hundreds of updates are spent on reducing it.
        iou_aware_factor: f above: 0 leaves the objectness as it is
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
        every, masks = anchors or COCO_ANCHORS, anchor_masks or COCO_MASKS
        check(every, masks, strides, loss, iou_aware)
        if not 0 <= iou_aware_factor <= 1:
            raise UserError(f"YOLOv3Head: iou_aware_factor {iou_aware_factor} is not in 0..1")
        self.all_anchors = every
        self.anchor_masks = masks
        self.anchors = [[every[i] for i in mask] for mask in masks]
        self.strides = strides
        self.num_classes = num_classes
        self.loss = loss
        self.split = split_iou if iou_aware else split_nothing
        self.iou_aware_factor = iou_aware_factor
        width = num_classes + (6 if iou_aware else 5)
        convs = [
            nn.Conv2D(channels, len(mask) * width, 1, bias_attr=ParamAttr(regularizer=L2Decay(0.0)))
            for channels, mask in zip(in_channels, masks)
        ]
        for conv in convs:
            conv.skip_quant = True  # quantization-aware training leaves them in float32, as in PaddleDetection
        self.yolo_output = nn.LayerList(convs)
        if prior_prob is not None:
            for conv, mask in zip(self.yolo_output, masks):
                expect_objects(conv.bias, len(mask), 5 + num_classes, prior_prob)

    def forward(self, feats: List[Tensor]) -> YOLOv3Outputs:
        """Feature maps [B, C, H, W], one per level, coarsest first -> raw outputs."""
        return YOLOv3Outputs([conv(feat) for conv, feat in zip(self.yolo_output, feats)])

    def predictions(self, raw: YOLOv3Outputs) -> YOLOPredictions:
        """The outputs of all levels in float32, one row per anchor."""
        maps = [m.astype("float32") for m in raw.maps]
        ious, levels = zip(*(self.split(m, len(anchors)) for m, anchors in zip(maps, self.anchors)))
        boxes = paddle.concat(levels, axis=1)  # [B, N, 5 + K]
        return YOLOPredictions(
            center=boxes[:, :, 0:2],
            log_size=boxes[:, :, 2:4],
            objectness=boxes[:, :, 4],
            classes=boxes[:, :, 5:],
            iou=None if ious[0] is None else paddle.concat(ious, axis=1),
            grid=make_grid(maps, self.anchors, self.strides),
        )

    def losses(self, raw: YOLOv3Outputs, batch: Batch) -> Losses:
        """The entries of `YOLOv3Loss` and their sum `loss`, averaged over the images.

        `batch` holds the targets of each level (`target0`, ..., see `Gt2YoloTarget`) and `gt_cxcywh_relative`
        [B, G, 4], padded with zeros.
        """
        targets = self.targets(batch)
        return self.loss(self.predictions(raw), targets, batch["gt_cxcywh_relative"], normalizer=targets.shape[0])

    def targets(self, batch: Batch) -> Tensor:
        """The targets of all levels, one row per anchor: [B, N, 6 + K]."""
        by_name = cast(Dict[str, Tensor], batch)
        levels = enumerate(self.anchors)
        return paddle.concat([rows(by_name[f"target{i}"], len(anchors)) for i, anchors in levels], axis=1)

    @paddle.no_grad()
    def assignment(self, raw: YOLOv3Outputs, batch: Batch) -> List[Assignment]:
        """For each image, the cells and anchors that learn an object, and the cells with ignored anchors."""
        predictions, targets = self.predictions(raw), self.targets(batch)  # targets: [B, N, 6 + K]
        overlaps = self.loss.best_overlap(predictions, batch["gt_cxcywh_relative"])  # [B, N]
        height, width = (side * self.strides[0] for side in raw.maps[0].shape[2:])
        to_pixels = np.array([width, height] * 2, np.float32)
        corner, cell, anchor = predictions.grid  # [N, 2] each
        cells = paddle.concat([corner, corner + cell], axis=1).numpy() * to_pixels  # [N, 4]
        anchors = xyxy_from_center_size(corner + cell / 2, anchor).numpy() * to_pixels  # [N, 4]
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
        """The predictions that decoding needs."""
        p = self.predictions(raw)
        return YOLOCandidates(p.center, p.log_size, box_confidence(p, self.iou_aware_factor), p.classes, p.grid)


def expect_objects(bias: Tensor, anchors: int, width: int, probability: float) -> None:
    """Set the objectness that a level's `bias` gives, whose last `anchors` * `width` entries are the anchors'."""
    values = bias.numpy()
    values[-anchors * width :].reshape(anchors, width)[:, 4] = -math.log((1 - probability) / probability)
    bias.set_value(values)


def split_iou(maps: Tensor, anchors: int) -> Tuple[Optional[Tensor], Tensor]:
    """[B, A*(6 + K), H, W] -> IoU logits [B, A*H*W] and the rest [B, A*H*W, 5 + K]."""
    return maps[:, :anchors].reshape([0, -1]), rows(maps[:, anchors:], anchors)


def split_nothing(maps: Tensor, anchors: int) -> Tuple[Optional[Tensor], Tensor]:
    """[B, A*(5 + K), H, W] -> None and the rest [B, A*H*W, 5 + K]."""
    return None, rows(maps, anchors)


def box_confidence(predictions: YOLOPredictions, factor: float) -> Tensor:
    """Objectness, or with predicted IoUs objectness^(1 - factor) * IoU^factor, 1e-7 away from 0 and 1: [B, N]."""
    objectness = F.sigmoid(predictions.objectness)
    if predictions.iou is None:
        return objectness
    return (objectness ** (1 - factor) * F.sigmoid(predictions.iou) ** factor).clip(1e-7, 1 - 1e-7)


def check(
    anchors: Sequence[Sequence[float]], masks: List[List[int]], strides: List[int], loss: nn.Layer, iou_aware: bool
) -> None:
    """Raise a UserError if the head's arguments do not fit together."""
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
