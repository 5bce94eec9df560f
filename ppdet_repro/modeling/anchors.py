"""Anchor boxes on feature maps. B images, A anchors per location, H, W size of a level's feature map."""

from __future__ import annotations

import math
from typing import List, Optional, Sequence, Union

import paddle
from paddle import Tensor, nn

from ppdet_repro.core.registry import register
from ppdet_repro.modeling.sizes import Size, sizes
from ppdet_repro.utils.errors import UserError


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> List[List[float]]:
    """xyxy anchors around the origin, one per size and ratio, sizes outermost: A = len(sizes) * len(aspect_ratios).

    A size is the square root of the area in pixels, an aspect ratio is height / width.
    """
    anchors = []
    for size in sizes:
        for ratio in aspect_ratios:
            w = math.sqrt(size**2.0 / ratio)
            h = ratio * w
            anchors.append([-w / 2, -h / 2, w / 2, h / 2])
    return anchors


def grid_anchors(cells: Tensor, size: Sequence[Size], stride: float, offset: float) -> Tensor:
    """The anchors [A, 4] around the origin, moved to every location of a map of H x W: [H*W*A, 4] xyxy pixels.

    The order is y, x, anchor.
    """
    height, width = size
    x = (paddle.arange(width, dtype="float32") + offset) * stride
    y = (paddle.arange(height, dtype="float32") + offset) * stride
    y, x = paddle.meshgrid(y, x)  # [H, W] each
    locations = paddle.stack([x, y, x, y], axis=-1).reshape([-1, 1, 4])  # [H*W, 1, 4]
    return (locations + cells).reshape([-1, 4])  # [H*W*A, 4]


@register
class AnchorGenerator(nn.Layer):
    """Anchors of every level.

    Args:
        anchor_sizes: Sizes in pixels (see `cell_anchors`): one list for all levels, or one list per level.
        aspect_ratios: Heights over widths, likewise.
        strides: Stride of each level in input pixels.
        variance: PaddleDetection's parameter. Only 1 is accepted: deltas are scaled by the head's `delta_std`.
        offset: Where the first anchor's center is, in strides. 0 is the corner of the map (PaddleDetection,
            YOLOF), 0.5 the center of its first cell.
    """

    def __init__(
        self,
        anchor_sizes: Optional[List[Union[float, List[float]]]] = None,
        aspect_ratios: Optional[List[Union[float, List[float]]]] = None,
        strides: Optional[List[float]] = None,
        variance: Optional[List[float]] = None,
        offset: float = 0.0,
    ):
        super().__init__()
        self.strides = list(strides or [16.0])
        self.offset = offset
        if variance is not None and any(v != 1.0 for v in variance):
            raise UserError("AnchorGenerator: a 'variance' other than 1 belongs into the head's delta_std")
        sizes = per_level(anchor_sizes or [32, 64, 128, 256, 512], len(self.strides), "anchor_sizes")
        ratios = per_level(aspect_ratios or [0.5, 1.0, 2.0], len(self.strides), "aspect_ratios")
        self.levels = [cell_anchors(s, r) for s, r in zip(sizes, ratios)]

    @property
    def num_anchors(self) -> int:
        """Anchors per location, the same on every level."""
        return len(self.levels[0])

    def forward(self, feats: Sequence[Tensor]) -> List[Tensor]:
        """Feature maps [B, C, H, W], one per level -> anchors [H*W*A, 4] of each level."""
        return [
            grid_anchors(paddle.to_tensor(cells, "float32"), sizes(feat)[2:], stride, self.offset)
            for feat, cells, stride in zip(feats, self.levels, self.strides)
        ]


@register
class RetinaAnchorGenerator(AnchorGenerator):
    """Anchors whose sizes are a level's stride times `octave_base_scale` times 2^(i / `scales_per_octave`).

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4 ("Anchors").
    """

    def __init__(
        self,
        octave_base_scale: float = 4,
        scales_per_octave: int = 3,
        aspect_ratios: Optional[List[Union[float, List[float]]]] = None,
        strides: Optional[List[float]] = None,
        variance: Optional[List[float]] = None,
        offset: float = 0.0,
    ):
        strides = strides or [8.0, 16.0, 32.0, 64.0, 128.0]
        octave = [2 ** (i / scales_per_octave) for i in range(scales_per_octave)]
        sizes: List[Union[float, List[float]]] = [[s * octave_base_scale * scale for scale in octave] for s in strides]
        super().__init__(sizes, aspect_ratios, strides, variance, offset)


def per_level(values: Sequence[Union[float, List[float]]], levels: int, name: str) -> List[List[float]]:
    """One list of numbers per level, from one list for all levels or one list per level, else a UserError."""
    lists = [list(value) for value in values if isinstance(value, (list, tuple))]
    if not lists:
        return [[value for value in values if not isinstance(value, list)]] * levels
    if len(lists) == 1:
        return lists * levels
    if len(lists) != levels:
        raise UserError(f"{name} has {len(lists)} lists for {levels} levels (strides)")
    return lists


def rows_per_anchor(maps: Tensor, width: int) -> Tensor:
    """A head's output [B, A*width, H, W], anchors outermost, with one row per anchor: [B, H*W*A, width]."""
    return maps.transpose([0, 2, 3, 1]).reshape([0, -1, width])
