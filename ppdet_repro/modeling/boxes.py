"""Box formats, overlaps and delta decoding. The only place where box arithmetic lives.

N, M boxes; the formats are in the names: xyxy (x1, y1, x2, y2), cxcywh (centre, size); units are
pixels of whatever frame the caller is in. Every function broadcasts over leading dimensions.
"""

from __future__ import annotations

import math
from typing import Optional, Sequence

import paddle

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""A predicted log width or height above this is cut, so that exp() stays finite."""


def cxcywh_from_xyxy(boxes: paddle.Tensor) -> paddle.Tensor:
    """[..., 4] corners to centre and size."""
    corner1, corner2 = boxes[..., :2], boxes[..., 2:]  # not unbind: Paddle-Lite's corrupts its memory
    return paddle.concat([(corner1 + corner2) / 2, corner2 - corner1], axis=-1)  # [..., 4]


def xyxy_from_cxcywh(boxes: paddle.Tensor) -> paddle.Tensor:
    """[..., 4] centre and size to corners."""
    cx, cy, w, h = boxes.unbind(-1)
    return paddle.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)  # [..., 4]


def xyxy_from_distances(points: paddle.Tensor, distances: paddle.Tensor) -> paddle.Tensor:
    """Corners from points (x, y) [..., 2] and distances to left, top, right, bottom [..., 4] -> [..., 4]."""
    return paddle.concat([points - distances[..., :2], points + distances[..., 2:]], axis=-1)  # [..., 4]


def area(boxes: paddle.Tensor) -> paddle.Tensor:
    """Area of xyxy boxes: [..., 4] -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(a: paddle.Tensor, b: paddle.Tensor) -> paddle.Tensor:
    """Overlapping area of xyxy boxes, broadcast: [..., 4], [..., 4] -> [...]."""
    corner1 = paddle.maximum(a[..., :2], b[..., :2])
    corner2 = paddle.minimum(a[..., 2:], b[..., 2:])
    sides = (corner2 - corner1).clip(min=0)  # [..., 2]
    return sides[..., 0] * sides[..., 1]


def iou(a: paddle.Tensor, b: paddle.Tensor, eps: float = 1e-6) -> paddle.Tensor:
    """Intersection over union of xyxy boxes, broadcast: [..., 4], [..., 4] -> [...] in [0, 1].

    The union is at least `eps`, so two boxes without area overlap by 0.
    """
    overlap = intersection(a, b)
    union = area(a) + area(b) - overlap
    return overlap / union.clip(min=eps)


def iou_plus_eps(a: paddle.Tensor, b: paddle.Tensor, eps: float = 1e-9) -> paddle.Tensor:
    """IoU with `eps` added to the union, broadcast: [..., 4], [..., 4] -> [...].

    The form of PaddleDetection's YOLO losses; theirs are boxes relative to the image, so small ones feel it.
    """
    overlap = intersection(a, b)
    return overlap / (area(a) + area(b) - overlap + eps)


def pairwise_iou(a: paddle.Tensor, b: paddle.Tensor, eps: float = 1e-6) -> paddle.Tensor:
    """IoU of every box of `a` [N, 4] with every box of `b` [M, 4] -> [N, M]."""
    return iou(a.unsqueeze(1), b.unsqueeze(0), eps)


def giou(a: paddle.Tensor, b: paddle.Tensor, eps: float = 1e-10) -> paddle.Tensor:
    """Generalised IoU of xyxy boxes, broadcast: -> [...] in [-1, 1].

    `eps` is added to the union and to the enclosing area, as PaddleDetection does.
    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    overlap = intersection(a, b)
    union = area(a) + area(b) - overlap + eps
    corner1 = paddle.minimum(a[..., :2], b[..., :2])
    corner2 = paddle.maximum(a[..., 2:], b[..., 2:])
    sides = corner2 - corner1  # [..., 2]
    enclosing = sides[..., 0] * sides[..., 1] + eps
    return overlap / union - (enclosing - union) / enclosing


def l1_distance(a: paddle.Tensor, b: paddle.Tensor) -> paddle.Tensor:
    """L1 distance of (cx, cy, w, h) between all boxes of `a` [N, 4] and `b` [M, 4], xyxy -> [N, M] pixels."""
    difference = cxcywh_from_xyxy(a).unsqueeze(1) - cxcywh_from_xyxy(b)  # [N, M, 4]
    return paddle.norm(difference, p=1, axis=-1)


def encode_deltas(
    boxes: paddle.Tensor,
    anchors: paddle.Tensor,
    mean: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> paddle.Tensor:
    """The inverse of `decode_deltas` for boxes with an area: xyxy [..., 4], [..., 4] -> (dx, dy, dw, dh) [..., 4]."""
    box, anchor = cxcywh_from_xyxy(boxes), cxcywh_from_xyxy(anchors)
    shift = (box[..., :2] - anchor[..., :2]) / anchor[..., 2:]
    deltas = paddle.concat([shift, (box[..., 2:] / anchor[..., 2:]).log()], axis=-1)
    return (deltas - paddle.to_tensor(list(mean), deltas.dtype)) / paddle.to_tensor(list(std), deltas.dtype)


def decode_deltas(
    deltas: paddle.Tensor,
    anchors: paddle.Tensor,
    mean: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    centre_clip: Optional[float] = None,
) -> paddle.Tensor:
    """Boxes from (dx, dy, dw, dh) relative to anchors: [..., 4], [..., 4] xyxy -> [..., 4] xyxy.

    The centre moves by dx, dy times the anchor's size, the size is multiplied by exp(dw), exp(dh). With
    `centre_clip` (pixels) the shift is cut to +-centre_clip and the log size above MAX_LOG_SCALE only
    (YOLOF); without it the log size is cut on both sides. A cut value gets no gradient.
    """
    deltas = deltas * paddle.to_tensor(list(std), deltas.dtype) + paddle.to_tensor(list(mean), deltas.dtype)
    centre_size = cxcywh_from_xyxy(anchors)
    centre, size = centre_size[..., :2], centre_size[..., 2:]
    shift, log_scale = deltas[..., :2] * size, deltas[..., 2:]
    if centre_clip is None:
        log_scale = log_scale.clip(min=-MAX_LOG_SCALE, max=MAX_LOG_SCALE)
    else:
        shift = shift.clip(min=-centre_clip, max=centre_clip)
        log_scale = log_scale.clip(max=MAX_LOG_SCALE)
    centre, half = centre + shift, 0.5 * (size * log_scale.exp())
    return paddle.concat([centre - half, centre + half], axis=-1)  # [..., 4]


def clip_to_image(boxes: paddle.Tensor, im_shape: paddle.Tensor) -> paddle.Tensor:
    """Cut xyxy boxes [B, N, 4] to their images, `im_shape` [B, 2] being (h, w)."""
    w_h = swapped(im_shape)
    limit = paddle.concat([w_h, w_h], axis=-1).unsqueeze(1)  # [B, 1, 4]
    return paddle.minimum(boxes.clip(min=0), limit)


def to_original_image(boxes: paddle.Tensor, scale_factor: paddle.Tensor) -> paddle.Tensor:
    """From pixels of the network's input to the original image's: [B, N, 4], scale [B, 2] (y, x)."""
    x_y = swapped(scale_factor)
    return boxes / paddle.concat([x_y, x_y], axis=-1).unsqueeze(1)


def swapped(pairs: paddle.Tensor) -> paddle.Tensor:
    """(y, x) to (x, y), or back: [B, 2]. Not a slice of step -1: paddle2onnx 1.3.1 drops half of it."""
    return paddle.concat([pairs[:, 1:], pairs[:, :1]], axis=1)
