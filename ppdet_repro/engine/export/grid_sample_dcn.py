"""Deformable convolutions out of operators that ONNX Runtime and OpenVINO have.

B images, C channels, O output channels, T taps of the kernel, H, W the map; H', W' what comes out.
"""

from __future__ import annotations

from typing import Optional

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.engine.export.fold import with_replaced
from ppdet_repro.paddle_private.layers import geometry


class GridSampleConv(nn.Layer):
    """A `DeformConv2D` with its own weights: all taps are sampled by one `grid_sample`, weighed by the mask, and
    summed by a 1x1 convolution. Samples outside the map are zero, as there."""

    def __init__(self, layer: DeformConv2D):
        super().__init__()
        settings = geometry(layer)
        if settings.deformable_groups != 1:
            raise ValueError("GridSampleConv: one deformable group only")
        out_channels, width, height_taps, width_taps = layer.weight.shape
        self.weight = paddle.create_parameter([out_channels, width * height_taps * width_taps, 1, 1], "float32")
        self.weight.set_value(layer.weight.reshape(self.weight.shape))  # channels outside, taps inside
        self.bias = layer.bias
        self.groups = settings.groups
        self.stride = pair(settings.stride)
        self.padding = pair(settings.padding)
        self.dilation = pair(settings.dilation)
        self.kernel = height_taps, width_taps

    def forward(self, x: paddle.Tensor, offset: paddle.Tensor, mask: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        """Map [B, C, H, W], offsets [B, 2*T, H', W'] (y, x a tap), mask [B, T, H', W'] -> [B, O, H', W']."""
        taps = self.kernel[0] * self.kernel[1]
        channels = x.shape[1]
        rows, columns = (
            self.places(axis, offset.shape[2 + axis]).reshape([1, taps, -1, 1] if axis == 0 else [1, taps, 1, -1])
            for axis in (0, 1)
        )
        shift = offset.reshape([offset.shape[0], taps, 2, offset.shape[2], offset.shape[3]])  # [B, T, 2, H', W']
        y = scaled(rows + shift[:, :, 0], x.shape[2])  # [B, T, H', W']
        x_place = scaled(columns + shift[:, :, 1], x.shape[3])
        grid = paddle.stack([x_place, y], axis=-1)  # [B, T, H', W', 2]
        grid = grid.reshape([grid.shape[0], -1, grid.shape[3], 2])  # [B, T*H', W', 2]
        sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = sampled.reshape([sampled.shape[0], channels, taps, -1, sampled.shape[3]])  # [B, C, T, H', W']
        if mask is not None:
            sampled = sampled * mask.unsqueeze(1)
        sampled = sampled.reshape([sampled.shape[0], channels * taps, -1, sampled.shape[4]])  # [B, C*T, H', W']
        return F.conv2d(sampled, self.weight, self.bias, groups=self.groups)

    def places(self, axis: int, size) -> paddle.Tensor:
        """Where each tap looks without offset, along an axis, in pixels of the map: [T, size]."""
        tap = [i // self.kernel[1] if axis == 0 else i % self.kernel[1] for i in range(self.kernel[0] * self.kernel[1])]
        first = paddle.to_tensor([i * self.dilation[axis] - self.padding[axis] for i in tap], "float32")
        return first.unsqueeze(1) + paddle.arange(size, dtype="float32").unsqueeze(0) * self.stride[axis]


def pair(value):
    """An int or a pair as a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)


def scaled(places: paddle.Tensor, size) -> paddle.Tensor:
    """Pixels as grid_sample counts them: the map's edges, half a pixel outside its first and last, are -1 and 1."""
    if not isinstance(size, int):
        size = size.astype("float32")
    return (places * 2.0 + 1.0) / size - 1.0


def with_grid_samples(model: nn.Layer) -> nn.Layer:
    """A copy of the model in eval mode without deformable convolutions."""
    return with_replaced(model, DeformConv2D, GridSampleConv)
