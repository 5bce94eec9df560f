"""Anchor points: the cells of a feature pyramid, each a location in the image that predicts a box around itself.

B images, H, W size of a level's feature map, N points of all levels in the order level, y, x.
Source: Zhu et al., "Soft Anchor-Point Object Detection", ECCV 2020, section 3.1.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import paddle
from paddle import Tensor

from ppdet_repro.modeling.sizes import sizes


class Grid(NamedTuple):
    """The points of one level in input pixels."""

    x: Tensor  # [W], of the columns
    y: Tensor  # [H], of the rows

    @property
    def centers(self) -> Tensor:
        """(x, y) of every point: [H*W, 2]."""
        y, x = paddle.meshgrid(self.y, self.x)  # [H, W] each
        return paddle.stack([x, y], axis=-1).reshape([-1, 2])


class AnchorPoints(NamedTuple):
    """The points of all levels of a pyramid."""

    grids: List[Grid]
    centers: Tensor  # [N, 2]: x, y in input pixels
    units: Tensor  # [N, 1]: input pixels per unit of distance
    levels: Tensor  # [N] int64


def make_grid(level: Tensor, stride: int) -> Grid:
    """The points of a feature map [B, C, H, W]: the centers of its cells."""
    return Grid(*((paddle.arange(sizes(level)[axis], dtype="float32") + 0.5) * stride for axis in (3, 2)))


def make_points(maps: Sequence[Tensor], strides: Sequence[int], z: float) -> AnchorPoints:
    """The points of all levels' feature maps [B, C, H, W]. Distances on a level are in units of `z` strides."""
    grids = [make_grid(level, stride) for level, stride in zip(maps, strides)]
    centers = [grid.centers for grid in grids]
    counts = [sizes(points)[0] for points in centers]
    units = [paddle.full([count, 1], z * stride) for count, stride in zip(counts, strides)]
    levels = [paddle.full([count], i, "int64") for i, count in enumerate(counts)]
    return AnchorPoints(grids, *(paddle.concat(parts) for parts in (centers, units, levels)))


def rows(level: Tensor) -> Tensor:
    """A feature map [B, C, H, W] as [B, H*W, C]."""
    return level.flatten(2).transpose([0, 2, 1])
