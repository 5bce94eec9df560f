"""Box formats, overlaps and delta coding. All arithmetic on tensors of boxes is in this module.

Formats are in the names: xyxy (x1, y1, x2, y2); cxcywh (center, size); distances (from a point to the left, top, right
and bottom side of a box). Units are pixels of whatever frame the caller is in. Every function broadcasts over leading
dimensions. B images, N and M boxes.
"""

from __future__ import annotations

import math
from typing import Optional, Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""Predicted log widths and heights are clipped to this value, so that exp() stays finite."""


def cxcywh_from_xyxy(boxes: Tensor) -> Tensor:
    """Corners to center and size: [..., 4] -> [..., 4]."""
    corner1, corner2 = boxes[..., :2], boxes[..., 2:]  # not unbind: Paddle-Lite's corrupts its memory
    return paddle.concat([(corner1 + corner2) / 2, corner2 - corner1], axis=-1)  # [..., 4]


def xyxy_from_cxcywh(boxes: Tensor) -> Tensor:
    """Center and size to corners: [..., 4] -> [..., 4]."""
    return xyxy_from_center_size(boxes[..., :2], boxes[..., 2:])


def xyxy_from_center_size(center: Tensor, size: Tensor) -> Tensor:
    """Corners from centers (x, y) and sizes (width, height): [..., 2], [..., 2] -> [..., 4]."""
    half = 0.5 * size
    return paddle.concat([center - half, center + half], axis=-1)  # [..., 4]


def xyxy_from_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes from points (x, y) and the distances to their sides: [..., 2], [..., 4] -> [..., 4]."""
    return paddle.concat([points - distances[..., :2], points + distances[..., 2:]], axis=-1)  # [..., 4]


def distances_from_xyxy(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points (x, y) to the sides of boxes: [..., 2], [..., 4] -> [..., 4]. Negative outside the box."""
    return paddle.concat([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)  # [..., 4]


def area(boxes: Tensor) -> Tensor:
    """Area of xyxy boxes: [..., 4] -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def has_area(boxes: Tensor) -> Tensor:
    """Whether xyxy boxes have a positive width and height: [..., 4] -> bool [...]. Padding does not."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def larger(a: Tensor, b: Tensor) -> Tensor:
    """The larger number, elementwise. Where they are equal, only `b` gets the gradient.

    `paddle.maximum(a, b)` has this gradient in Paddle 2, with which PaddleDetection trained. In Paddle 3 it gives one
    half to each.
    """
    return paddle.fmax(b, a)


def smaller(a: Tensor, b: Tensor) -> Tensor:
    """The smaller number, elementwise. Where they are equal, only `b` gets the gradient, as in `larger`."""
    return paddle.fmin(b, a)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Overlapping area of xyxy boxes: [..., 4], [..., 4] -> [...].

    Without a gradient where the boxes only touch; `clip(min=0)` has one there in Paddle 3.
    """
    corner1 = larger(a[..., :2], b[..., :2])
    corner2 = smaller(a[..., 2:], b[..., 2:])
    sides = F.relu(corner2 - corner1)  # [..., 2]
    return sides[..., 0] * sides[..., 1]


def iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """IoU of xyxy boxes: [..., 4], [..., 4] -> [...] in [0, 1]. Without area it is 0: the union is at least `eps`."""
    overlap = intersection(a, b)
    union = area(a) + area(b) - overlap
    return overlap / union.clip(min=eps)


def iou_plus_eps(a: Tensor, b: Tensor, eps: float = 1e-9) -> Tensor:
    """IoU with `eps` added to the union: [..., 4], [..., 4] -> [...].

    PaddleDetection's YOLO losses use this form. Their boxes are relative to the image, so `eps` matters for small ones.
    """
    overlap = intersection(a, b)
    return overlap / (area(a) + area(b) - overlap + eps)


def iou_of_distances(a: Tensor, b: Tensor) -> Tensor:
    """IoU of two boxes around the same point, given by non-negative distances: [..., 4], [..., 4] -> [...]."""
    overlap = _area_of_distances(smaller(a, b))
    return overlap / (_area_of_distances(a) + _area_of_distances(b) - overlap).clip(min=1e-12)


def _area_of_distances(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(-1)
    return (left + right) * (top + bottom)


def pairwise_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """IoU of every box of `a` [N, 4] with every box of `b` [M, 4] -> [N, M]."""
    return iou(a.unsqueeze(1), b.unsqueeze(0), eps)


def giou(a: Tensor, b: Tensor, eps: float = 1e-10) -> Tensor:
    """Generalized IoU of xyxy boxes: [..., 4], [..., 4] -> [...] in [-1, 1].

    `eps` is added to the union and to the enclosing area, as in PaddleDetection.
    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    overlap = intersection(a, b)
    union = area(a) + area(b) - overlap + eps
    sides = enclosing_sides(a, b)  # [..., 2]
    enclosing = sides[..., 0] * sides[..., 1] + eps
    return overlap / union - (enclosing - union) / enclosing


def diou(a: Tensor, b: Tensor, eps: float = 1e-9, complete: bool = False) -> Tensor:
    """Distance-IoU of xyxy boxes: [..., 4], [..., 4] -> [...], the IoU less the relative distance of the centers.

    `complete` also subtracts how much the aspect ratios differ (Complete IoU); the weight of that term is a constant
    for the gradient. `eps` is added to the union, the diagonal and the heights, as in PaddleDetection.
    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, equations 7, 8, 10 and 11.
    """
    distance = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2  # [..., 2]
    diagonal = (enclosing_sides(a, b) ** 2).sum(axis=-1) + eps
    overlap = iou_plus_eps(a, b, eps)
    value = overlap - (distance**2).sum(axis=-1) / diagonal
    if not complete:
        return value
    angles = [paddle.atan((box[..., 2] - box[..., 0]) / (box[..., 3] - box[..., 1] + eps)) for box in (a, b)]
    difference = (angles[0] - angles[1]) ** 2 * (4 / math.pi**2)
    weight = (difference / (1 + eps - overlap + difference)).detach()
    return value - weight * difference


def enclosing_sides(a: Tensor, b: Tensor) -> Tensor:
    """Width and height of the smallest boxes around both xyxy boxes: [..., 4], [..., 4] -> [..., 2]."""
    return larger(a[..., 2:], b[..., 2:]) - smaller(a[..., :2], b[..., :2])


def l1_distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance in (cx, cy, w, h) of every xyxy box of `a` [N, 4] to every one of `b` [M, 4] -> [N, M]."""
    difference = cxcywh_from_xyxy(a).unsqueeze(1) - cxcywh_from_xyxy(b)  # [N, M, 4]
    return paddle.norm(difference, p=1, axis=-1)


def centerness(distances: Tensor, eta: float) -> Tensor:
    """How close a point is to the center of its box, from 1 at the center to 0 at the sides: [..., 4] -> [...].

    A larger `eta` makes it fall faster; with 0 it is 1 everywhere.
    Source: SAPD, equation 4, as printed in the BiFPN paper (SAPD's print exchanges two letters).
    """
    left, top, right, bottom = distances.unbind(-1)
    shortest = paddle.minimum(left, right) * paddle.minimum(top, bottom)
    return (shortest / (paddle.maximum(left, right) * paddle.maximum(top, bottom))) ** eta


def encode_deltas(boxes: Tensor, anchors: Tensor, std: Sequence[float]) -> Tensor:
    """The inverse of `decode_deltas` for boxes with an area: xyxy [..., 4], [..., 4] -> (dx, dy, dw, dh) [..., 4]."""
    box, anchor = cxcywh_from_xyxy(boxes), cxcywh_from_xyxy(anchors)
    shift = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    deltas = paddle.concat([shift, (box[..., 2:] / anchor[..., 2:]).log()], axis=-1)
    return deltas / paddle.to_tensor(list(std), deltas.dtype)


def decode_deltas(
    deltas: Tensor,
    anchors: Tensor,
    mean: Sequence[float] = (0.0,) * 4,
    std: Sequence[float] = (1.0,) * 4,
    center_clip: Optional[float] = None,
) -> Tensor:
    """Boxes from deltas relative to anchors: [..., 4], [..., 4] -> xyxy [..., 4].

    The center moves by dx, dy times the anchor's size; the size is multiplied by exp(dw), exp(dh).

    Args:
        deltas: (dx, dy, dw, dh) [..., 4], before they are multiplied by `std` and shifted by `mean`.
        anchors: xyxy [..., 4].
        center_clip: The largest shift of a center in pixels; log sizes are then clipped above only, to
            MAX_LOG_SCALE (YOLOF). With None, shifts are not clipped and log sizes are clipped above and below.
            A clipped value gets no gradient.
    """
    deltas = deltas * paddle.to_tensor(list(std), deltas.dtype) + paddle.to_tensor(list(mean), deltas.dtype)
    center_size = cxcywh_from_xyxy(anchors)
    center, size = center_size[..., :2], center_size[..., 2:]
    shift, log_scale = deltas[..., :2] * size, deltas[..., 2:]
    if center_clip is None:
        log_scale = log_scale.clip(min=-MAX_LOG_SCALE, max=MAX_LOG_SCALE)
    else:
        shift = shift.clip(min=-center_clip, max=center_clip)
        log_scale = log_scale.clip(max=MAX_LOG_SCALE)
    return xyxy_from_center_size(center + shift, size * log_scale.exp())


def clip_to_image(boxes: Tensor, im_shape: Tensor) -> Tensor:
    """Clip xyxy boxes [B, N, 4] to their images, of sizes `im_shape` [B, 2] (height, width)."""
    return paddle.minimum(boxes.clip(min=0), per_coordinate(im_shape))


def clip_to_last_pixel(boxes: Tensor, limit: Tensor) -> Tensor:
    """Clip xyxy boxes [B, N, 4] to images of `limit` [B, 1, 4] (w, h, w, h) as PaddleDetection's YOLO does.

    The upper left corner is at least 0, the lower right corner at most the last pixel (width - 1, height - 1).
    """
    return paddle.concat([boxes[:, :, :2].clip(min=0), paddle.minimum(boxes[:, :, 2:], limit[:, :, 2:] - 1)], axis=-1)


def to_original_image(boxes: Tensor, scale_factor: Tensor) -> Tensor:
    """From pixels of the network's input to those of the original images: [B, N, 4], scales [B, 2] (y, x)."""
    return boxes / per_coordinate(scale_factor)


def per_coordinate(pairs: Tensor) -> Tensor:
    """One factor per coordinate of an xyxy box, from pairs (y, x): [B, 2] -> [B, 1, 4] (x, y, x, y)."""
    xy = paddle.concat([pairs[:, 1:], pairs[:, :1]], axis=1)  # not a slice of step -1: paddle2onnx 1.3.1 drops half
    return paddle.concat([xy, xy], axis=-1).unsqueeze(1)
