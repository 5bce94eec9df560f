"""What the heads of detectors predict at every location, in one form, so that a student and a teacher can be compared.

B images, N predicted boxes, K classes; H, W size of a map.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ppdet_repro.core.contract import RawOutputs
from ppdet_repro.modeling.anchor_points import make_points, rows
from ppdet_repro.modeling.boxes import xyxy_from_distances
from ppdet_repro.modeling.heads.ab_fsaf_head import ABFSAFHead
from ppdet_repro.modeling.heads.retina_head import RetinaHead
from ppdet_repro.modeling.heads.sapd_head import PointBranch
from ppdet_repro.modeling.heads.ttf_head import TTFHead, TTFOutputs
from ppdet_repro.modeling.heads.yolof_head import YOLOFHead
from ppdet_repro.modeling.heads.yolov3_head import YOLOv3Head
from ppdet_repro.utils.errors import UserError


class DenseOutputs(NamedTuple):
    """A head's predictions in float32, one row per box."""

    logits: Tensor  # [B, N, K]
    boxes: Tensor  # [B, N, 4] xyxy, input pixels, not clipped to the image


def dense_outputs(head: nn.Layer, raw: RawOutputs, size: Optional[Sequence[int]] = None) -> DenseOutputs:
    """The outputs of a head that `geometry` knows, except YOLOv3Head. `size` [H, W] resizes the maps of a TTFHead."""
    if isinstance(head, YOLOFHead):
        return DenseOutputs(raw.logits.astype("float32"), head.boxes(raw.deltas.astype("float32"), raw.anchors))
    if isinstance(head, RetinaHead):
        logits, deltas = (paddle.concat(levels, axis=1).astype("float32") for levels in (raw.logits, raw.deltas))
        return DenseOutputs(logits, head.boxes(deltas, paddle.concat(raw.anchors)))
    if isinstance(head, PointBranch):
        logits, distances = (paddle.concat([rows(m) for m in maps], axis=1).astype("float32") for maps in raw[:2])
        points = make_points(raw.logits, head.strides, head.z)
        return DenseOutputs(logits, xyxy_from_distances(points.centers, distances * points.units))
    if isinstance(head, ABFSAFHead):
        branches = dense_outputs(head.anchors, raw.anchors), dense_outputs(head.points, raw.points)
        return DenseOutputs(*(paddle.concat(parts, axis=1) for parts in zip(*branches)))
    return ttf_outputs(head, raw, size or raw.logits.shape[2:])


def ttf_outputs(head: TTFHead, raw: TTFOutputs, size: Sequence[int]) -> DenseOutputs:
    """The heat map and the boxes, on a grid of `size` [H, W].

    A finer heat map is reduced by its maxima, so that peaks keep their height; a coarser one is interpolated. A cell of
    the grid gets the box of the nearest cell.
    """
    logits, distances = raw.logits.astype("float32"), raw.distances.astype("float32")
    height, width = logits.shape[2:]
    y, x = (paddle.arange(length, dtype="float32") * head.down_ratio for length in (height, width))
    y, x = paddle.meshgrid(y, x)  # [H, W] each
    boxes = xyxy_from_distances(paddle.stack([x, y], axis=-1), distances.transpose([0, 2, 3, 1]))  # [B, H, W, 4]
    boxes = boxes.transpose([0, 3, 1, 2])
    if [height, width] != list(size):
        boxes = F.interpolate(boxes, size=size, mode="nearest")
        finer = height >= size[0] and width >= size[1]
        logits = F.adaptive_max_pool2d(logits, size) if finer else F.interpolate(logits, size=size, mode="bilinear")
    return DenseOutputs(rows(logits), rows(boxes))


def geometry(head: nn.Layer) -> Optional[Dict[str, Any]]:
    """By name, what a student's and a teacher's head must have in common; None if the head is of an unknown kind.

    `classes` is their number, `strides` those of the levels in pixels, `anchors` those of each level. A TTFHead has
    neither: its boxes are in pixels, and its map can be resized.
    """
    if isinstance(head, TTFHead):
        return {"classes": head.hm_head.head.weight.shape[0], "strides": "any", "anchors": "none"}
    if isinstance(head, (YOLOFHead, RetinaHead)):
        generator = head.anchor_generator
        anchors: List[Any] = [generator.levels, f"offset {generator.offset}"]
        return {"classes": head.num_classes, "strides": generator.strides, "anchors": anchors}
    if isinstance(head, PointBranch):
        return {"classes": head.cls_score.weight.shape[0], "strides": head.strides, "anchors": "points"}
    if isinstance(head, ABFSAFHead):
        branches = geometry(head.anchors), geometry(head.points)
        return {name: [branch[name] for branch in branches if branch] for name in ("classes", "strides", "anchors")}
    if isinstance(head, YOLOv3Head):
        return {"classes": head.num_classes, "strides": list(head.strides), "anchors": head.anchors}
    return None


def check_geometry(student: nn.Layer, teacher: nn.Layer) -> None:
    """Raise a UserError if the outputs of these heads cannot be compared."""
    own, theirs = geometry(student), geometry(teacher)
    names = f"{type(student).__name__} and {type(teacher).__name__}"
    if own is None or theirs is None:
        raise UserError(f"the outputs of {names} cannot be compared")
    for name in own:
        if own[name] != theirs[name]:
            raise UserError(f"the {name} of the student and the teacher differ: {own[name]} and {theirs[name]}")
