"""Anchor points: the cells of a feature pyramid, each a place in the image that predicts a box around itself.

B images, L levels, H, W a level's map, N points of all levels (level, y, x), G boxes. A distance is the way from a
point to a side of a box, in the order left, top, right, bottom.
Source: Zhu et al., "Soft Anchor-Point Object Detection", ECCV 2020, section 3.1.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import paddle

from ppdet_repro.modeling.boxes import xyxy_from_distances


class Grid(NamedTuple):
    """The points of one level in input pixels: `x` [W] of its columns, `y` [H] of its rows."""

    x: paddle.Tensor
    y: paddle.Tensor

    @property
    def centres(self) -> paddle.Tensor:
        """[H*W, 2]: x, y."""
        y, x = paddle.meshgrid(self.y, self.x)  # [H, W] each
        return paddle.stack([x, y], axis=-1).reshape([-1, 2])


class AnchorPoints(NamedTuple):
    """The points of a pyramid: its `grids`, their `centres` [N, 2] (x, y), the `units` [N, 1] of their distances, all
    in input pixels, and their `levels` [N] int64."""

    grids: List[Grid]
    centres: paddle.Tensor
    units: paddle.Tensor
    levels: paddle.Tensor


def make_grid(level: paddle.Tensor, stride: int) -> Grid:
    """The points of a map [B, C, H, W]: the middles of its cells."""
    return Grid(*((paddle.arange(level.shape[axis], dtype="float32") + 0.5) * stride for axis in (3, 2)))


def make_points(maps: Sequence[paddle.Tensor], strides: Sequence[int], z: float) -> AnchorPoints:
    """The points of all levels' maps [B, C, H, W]; `z` strides are a level's unit of distance."""
    grids = [make_grid(level, stride) for level, stride in zip(maps, strides)]
    centres = [grid.centres for grid in grids]
    units = [paddle.full([len(c), 1], z * stride) for c, stride in zip(centres, strides)]
    levels = [paddle.full([len(c)], i, "int64") for i, c in enumerate(centres)]
    return AnchorPoints(grids, *(paddle.concat(parts) for parts in (centres, units, levels)))


def rows(level: paddle.Tensor) -> paddle.Tensor:
    """A map [B, C, H, W] as [B, H*W, C]."""
    return level.flatten(2).transpose([0, 2, 1])


def distances_to_sides(centres: paddle.Tensor, boxes: paddle.Tensor, units: paddle.Tensor) -> paddle.Tensor:
    """Distances from points to the sides of xyxy boxes: [..., 2], [..., 4], units [..., 1] -> [..., 4].
    SAPD, equation 1."""
    return paddle.concat([centres - boxes[..., :2], boxes[..., 2:] - centres], axis=-1) / units


def boxes_from_distances(centres: paddle.Tensor, distances: paddle.Tensor, units) -> paddle.Tensor:
    """The inverse: xyxy boxes [..., 4]."""
    return xyxy_from_distances(centres, distances * units)


def iou_of_distances(a: paddle.Tensor, b: paddle.Tensor) -> paddle.Tensor:
    """IoU of two boxes around one point, given by distances that are not negative: [..., 4], [..., 4] -> [...]."""
    overlap = _area(paddle.minimum(a, b))
    return overlap / (_area(a) + _area(b) - overlap).clip(min=1e-12)


def _area(distances: paddle.Tensor) -> paddle.Tensor:
    left, top, right, bottom = distances.unbind(-1)
    return (left + right) * (top + bottom)


def centredness(distances: paddle.Tensor, eta: float) -> paddle.Tensor:
    """How near the middle of its box a point lies, from 1 to 0 at the sides; a larger `eta` falls steeper, 0 is 1
    everywhere: [..., 4] -> [...].

    SAPD, equation 4, as the BiFPN paper prints it (SAPD's print has two letters exchanged).
    """
    left, top, right, bottom = distances.unbind(-1)
    shortest = paddle.minimum(left, right) * paddle.minimum(top, bottom)
    return (shortest / (paddle.maximum(left, right) * paddle.maximum(top, bottom))) ** eta
