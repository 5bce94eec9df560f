"""Anchor boxes on feature maps.

L levels, A anchors a place; H, W size of a level's map.
"""

from __future__ import annotations

import math
from typing import List, Optional, Sequence, Union

import paddle
from paddle import nn

from ppdet_repro.core.registry import register
from ppdet_repro.utils.errors import UserError


def cell_anchors(sizes: Sequence[float], aspect_ratios: Sequence[float]) -> List[List[float]]:
    """xyxy anchors around the origin, sizes outermost: A = len(sizes) * len(aspect_ratios) rows.

    A size is the square root of the area in pixels, an aspect ratio is height / width.
    """
    anchors = []
    for size in sizes:
        for ratio in aspect_ratios:
            w = math.sqrt(size**2.0 / ratio)
            h = ratio * w
            anchors.append([-w / 2, -h / 2, w / 2, h / 2])
    return anchors


def grid_anchors(cells: paddle.Tensor, height, width, stride: float, offset: float) -> paddle.Tensor:
    """The cell's anchors [A, 4] at every place of a map, order y, x, anchor: [H*W*A, 4] xyxy pixels."""
    x = (paddle.arange(width, dtype="float32") + offset) * stride
    y = (paddle.arange(height, dtype="float32") + offset) * stride
    y, x = paddle.meshgrid(y, x)  # [H, W] each
    places = paddle.stack([x, y, x, y], axis=-1).reshape([-1, 1, 4])  # [H*W, 1, 4]
    return (places + cells).reshape([-1, 4])  # [H*W*A, 4]


@register
class AnchorGenerator(nn.Layer):
    """Anchors of every level.

    Sizes and ratios are one list for all levels or a list a level; `offset` is the place of the
    first centre in strides (0: the map's corner, as in PaddleDetection and YOLOF; 0.5: the cell's middle).
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
        """Anchors a place (the same on every level)."""
        return len(self.levels[0])

    def forward(self, feats: Sequence[paddle.Tensor]) -> List[paddle.Tensor]:
        """Feature maps [B, C, H, W] of all levels -> anchors [H*W*A, 4] of each."""
        return [
            grid_anchors(paddle.to_tensor(cells, "float32"), feat.shape[2], feat.shape[3], stride, self.offset)
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
        sizes = [[stride * octave_base_scale * scale for scale in octave] for stride in strides]
        super().__init__(sizes, aspect_ratios, strides, variance, offset)


def per_level(values: Sequence, levels: int, name: str) -> List[List[float]]:
    """One list for all levels, or a list a level, as a list of `levels` lists.

    UserError if the number of lists is neither 1 nor `levels`.
    """
    if not isinstance(values[0], (list, tuple)):
        return [list(values)] * levels
    if len(values) == 1:
        return [list(values[0])] * levels
    if len(values) != levels:
        raise UserError(f"{name} has {len(values)} lists for {levels} levels (strides)")
    return [list(v) for v in values]
