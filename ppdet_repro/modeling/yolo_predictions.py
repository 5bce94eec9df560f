"""What a YOLO head predicts at every anchor of every level.

B images, L levels, H, W size of a level's map, A anchors per cell, K classes, N anchors of all levels. Anchors are in
the order level, anchor, y, x. Positions and sizes are relative to the network's input (0 to 1).
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence

import paddle
from paddle import Tensor

from ppdet_repro.modeling.boxes import xyxy_from_center_size
from ppdet_repro.modeling.sizes import sizes


class Grid(NamedTuple):
    """The cell and the size of every anchor, [N, 2] each."""

    corner: Tensor  # x, y of the cell's upper left corner
    cell: Tensor  # width and height of the cell
    anchor: Tensor  # width and height of the anchor


class YOLOPredictions(NamedTuple):
    """The head's outputs, one row per anchor."""

    center: Tensor  # [B, N, 2] logits of the position in the cell
    log_size: Tensor  # [B, N, 2] log of the size over the anchor's
    objectness: Tensor  # [B, N] logits
    classes: Tensor  # [B, N, K] logits
    iou: Optional[Tensor]  # [B, N] logits of the IoU with the object, or None
    grid: Grid


class YOLOCandidates(NamedTuple):
    """The predictions that decoding needs."""

    center: Tensor  # as in YOLOPredictions
    log_size: Tensor
    confidence: Tensor  # [B, N], the probability that there is an object
    classes: Tensor
    grid: Grid


def rows(maps: Tensor, anchors: int) -> Tensor:
    """One level's map [B, A*C, H, W] or [B, A, C, H, W] as [B, A*H*W, C]."""
    width = maps.shape[1] // anchors if maps.ndim == 4 else maps.shape[2]
    return maps.reshape([0, anchors, width, -1]).transpose([0, 1, 3, 2]).reshape([0, -1, width])


def level_grid(maps: Tensor, anchors: Sequence[Sequence[float]], stride: int) -> Grid:
    """The grid of one level, from its map [B, C, H, W] and its anchors [A, 2] (w, h) and stride in input pixels."""
    y, x = (paddle.arange(size, dtype="float32") for size in sizes(maps)[2:])
    count = paddle.concat([x[-1:], y[-1:]]) + 1  # [2]: W, H
    y, x = paddle.meshgrid(y, x)  # [H, W] each
    corner = paddle.stack([x, y], axis=-1).reshape([1, -1, 2]) / count  # [1, H*W, 2]
    sides = paddle.to_tensor([list(anchor) for anchor in anchors], "float32")  # [A, 2]
    per_anchor = paddle.ones_like(sides).unsqueeze(1)  # [A, 1, 2]
    per_cell = paddle.ones_like(corner)  # [1, H*W, 2]
    everywhere = corner * per_anchor, per_cell * per_anchor / count, per_cell * (sides / (count * stride)).unsqueeze(1)
    return Grid(*(t.reshape([-1, 2]) for t in everywhere))  # from [A, H*W, 2] each


def make_grid(maps: Sequence[Tensor], anchors: Sequence[Sequence[Sequence[float]]], strides: Sequence[int]) -> Grid:
    """The grid of all levels."""
    levels: List[Grid] = [level_grid(*level) for level in zip(maps, anchors, strides)]
    return Grid(*(paddle.concat(parts) for parts in zip(*levels)))


def scaled_sigmoid(logits: Tensor, scale: float) -> Tensor:
    """A sigmoid scaled around its midpoint 0.5, so that finite logits reach a cell's edges (0 and 1).

    Source: Bochkovskiy et al., "YOLOv4", 2020 ("Eliminate grid sensitivity").
    """
    probability = paddle.nn.functional.sigmoid(logits)
    return probability if scale == 1 else scale * probability - 0.5 * (scale - 1)


def xyxy_from_cells(center: Tensor, log_size: Tensor, grid: Grid) -> Tensor:
    """Boxes [..., N, 4] from positions in the cells (0 to 1) and log sizes over the anchors', [..., N, 2] each."""
    return xyxy_from_center_size(grid.corner + center * grid.cell, log_size.exp() * grid.anchor)
