"""CSPDarkNet-53, YOLOv4's backbone.

Source: Wang et al., "CSPNet: A New Backbone that can Enhance Learning Capability of CNN", CVPR Workshops 2020;
activation and widths: Bochkovskiy et al., "YOLOv4", 2020.
"""

from __future__ import annotations

from typing import List, Literal, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.layers import batch_norm, freeze
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

BLOCKS = {53: (1, 2, 8, 8, 4)}
STEM = 32
WIDTHS = (64, 128, 256, 512, 1024)


class ConvNorm(nn.Layer):
    """Convolution without bias, batch norm, mish; dilation pads as much."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, norm_type: str, stride: int = 1, dilation: int = 1
    ):
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            bias_attr=False,
        )
        self.norm = batch_norm(out_channels, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.mish(self.norm(self.conv(x)))


class Block(nn.Layer):
    """Residual block: 1x1 convolution to `mid_channels`, 3x3 back."""

    def __init__(self, channels: int, mid_channels: int, norm_type: str, dilation: int):
        super().__init__()
        self.conv1 = ConvNorm(channels, mid_channels, 1, norm_type)
        self.conv2 = ConvNorm(mid_channels, channels, 3, norm_type, dilation=dilation)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.conv2(self.conv1(x))


class Stage(nn.Layer):
    """A convolution of `stride`, then two ways: a 1x1 convolution, and a 1x1 convolution, `count` blocks and another
    1x1 convolution; both joined by a last one. Each way has half the channels, but the first stage's all."""

    def __init__(self, in_channels: int, channels: int, count: int, norm_type: str, stride: int, dilation: int):
        super().__init__()
        first = in_channels == STEM
        way, mid = (channels, channels // 2) if first else (channels // 2, channels // 2)
        self.down = ConvNorm(in_channels, channels, 3, norm_type, stride, dilation)
        self.short = ConvNorm(channels, way, 1, norm_type)
        self.long = nn.Sequential(
            ConvNorm(channels, way, 1, norm_type),
            *[Block(way, mid, norm_type, dilation) for _ in range(count)],
            ConvNorm(way, way, 1, norm_type),
        )
        self.join = ConvNorm(2 * way, channels, 1, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.down(x)
        return self.join(paddle.concat([self.long(x), self.short(x)], axis=1))


@register
class CSPDarkNet53(nn.Layer):
    """CSPDarkNet-53 that returns the maps of the stages in `return_idx` (0 to 4, strides 2 to 32).

    `freeze_at` n stops the gradients of the stem and of stages 0..n (-1: none; batch norms go on normalising by the
    batch); `dilate_last` gives the last stage stride 1 and dilation 2 (DC5, stride 16; the same weights).
    """

    def __init__(
        self,
        depth: Literal[53] = 53,
        return_idx: Optional[List[int]] = None,
        freeze_at: int = -1,
        dilate_last: bool = False,
        norm_type: Shared[str] = "bn",
    ):
        super().__init__()
        stages = len(WIDTHS)
        self.return_idx = [stages - 1] if return_idx is None else list(return_idx)
        if any(not 0 <= i < stages for i in self.return_idx):
            raise UserError(f"CSPDarkNet53: return_idx {self.return_idx} names a stage outside 0..{stages - 1}")
        self.stem = ConvNorm(3, STEM, 3, norm_type)
        self.stages = nn.LayerList()
        strides, in_channels = [], STEM
        for i, (channels, count) in enumerate(zip(WIDTHS, BLOCKS[depth])):
            stride, dilation = (1, 2) if dilate_last and i == stages - 1 else (2, 1)
            self.stages.append(Stage(in_channels, channels, count, norm_type, stride, dilation))
            strides.append(stride * (strides[-1] if strides else 1))
            in_channels = channels
        self.out_shape = [ShapeSpec(WIDTHS[i], strides[i]) for i in self.return_idx]
        if freeze_at >= 0:
            for layer in [self.stem, *self.stages[: freeze_at + 1]]:
                freeze(layer)

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the chosen maps, finest first."""
        x = self.stem(image)
        feats = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.return_idx:
                feats.append(x)
        return feats
