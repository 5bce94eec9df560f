"""What a YOLO head predicts, at every anchor of every level.

B images, L levels, H, W a level's map, A its anchors a cell, K classes, N anchors of all levels. Anchors come in
the order level, anchor, y, x; positions and sizes are relative to the network's input (0 to 1).
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence

import paddle


class Grid(NamedTuple):
    """`corner` [N, 2]: the upper left of an anchor's cell (x, y); `cell` [N, 2]: the cell's width and height;
    `anchor` [N, 2]: the anchor's."""

    corner: paddle.Tensor
    cell: paddle.Tensor
    anchor: paddle.Tensor


class YOLOPredictions(NamedTuple):
    """`centre` [B, N, 2] logits of the place in the cell; `log_size` [B, N, 2] over the anchor's; `objectness`
    [B, N] and `classes` [B, N, K] logits; `iou` [B, N] logits of the overlap with the object, or None."""

    centre: paddle.Tensor
    log_size: paddle.Tensor
    objectness: paddle.Tensor
    classes: paddle.Tensor
    iou: Optional[paddle.Tensor]
    grid: Grid


class YOLOCandidates(NamedTuple):
    """What decoding reads: `centre`, `log_size`, `classes` and `grid` as predicted, and `confidence` [B, N], the
    probability that there is an object."""

    centre: paddle.Tensor
    log_size: paddle.Tensor
    confidence: paddle.Tensor
    classes: paddle.Tensor
    grid: Grid


def rows(maps: paddle.Tensor, anchors: int) -> paddle.Tensor:
    """One level's map [B, A*C, H, W] or [B, A, C, H, W] as [B, A*H*W, C]."""
    width = maps.shape[1] // anchors if maps.ndim == 4 else maps.shape[2]
    return maps.reshape([0, anchors, width, -1]).transpose([0, 1, 3, 2]).reshape([0, -1, width])


def level_grid(maps: paddle.Tensor, anchors: Sequence[Sequence[float]], stride: int) -> Grid:
    """The grid of one level: its map [B, C, H, W], anchors [A, 2] (w, h) and stride in input pixels."""
    y, x = (paddle.arange(size, dtype="float32") for size in maps.shape[2:])
    count = paddle.concat([x[-1:], y[-1:]]) + 1  # [2]: W, H
    y, x = paddle.meshgrid(y, x)  # [H, W] each
    corner = paddle.stack([x, y], axis=-1).reshape([1, -1, 2]) / count  # [1, H*W, 2]
    sizes = paddle.to_tensor([list(anchor) for anchor in anchors], "float32")  # [A, 2]
    per_anchor = paddle.ones_like(sizes).unsqueeze(1)  # [A, 1, 2]
    per_cell = paddle.ones_like(corner)  # [1, H*W, 2]
    everywhere = (
        corner * per_anchor,
        per_cell * per_anchor / count,
        per_cell * (sizes / (count * stride)).unsqueeze(1),
    )  # [A, H*W, 2] each
    return Grid(*(t.reshape([-1, 2]) for t in everywhere))


def make_grid(
    maps: Sequence[paddle.Tensor], anchors: Sequence[Sequence[Sequence[float]]], strides: Sequence[int]
) -> Grid:
    """The grid of all levels."""
    levels: List[Grid] = [level_grid(*level) for level in zip(maps, anchors, strides)]
    return Grid(*(paddle.concat(parts) for parts in zip(*levels)))


def scaled_sigmoid(logits: paddle.Tensor, scale: float) -> paddle.Tensor:
    """A sigmoid stretched about its middle, so that a cell's edges (0 and 1) are within reach.

    Source: Bochkovskiy et al., "YOLOv4", 2020 ("Eliminate grid sensitivity").
    """
    stretched = paddle.nn.functional.sigmoid(logits)
    return stretched if scale == 1 else scale * stretched - 0.5 * (scale - 1)


def xyxy_from_cells(centre: paddle.Tensor, log_size: paddle.Tensor, grid: Grid) -> paddle.Tensor:
    """Boxes [..., N, 4] from places in the cells [..., N, 2] (0 to 1) and log sizes over the anchors'."""
    middle = grid.corner + centre * grid.cell
    half = 0.5 * (log_size.exp() * grid.anchor)
    return paddle.concat([middle - half, middle + half], axis=-1)
