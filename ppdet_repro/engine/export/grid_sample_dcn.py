"""Deformable convolutions built from operators that ONNX Runtime and OpenVINO support.

B images, C channels, O output channels, T taps of the kernel, H x W input and H' x W' output.
"""

from __future__ import annotations

from typing import Optional

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.modeling.sizes import Size, sizes
from ppdet_repro.paddle_private.layers import geometry


class GridSampleConv(nn.Layer):
    """A `DeformConv2D` with the same weights and results. One `grid_sample` samples all taps. They are multiplied by
    the mask, and a 1x1 convolution sums them. Samples outside the feature map are zero."""

    def __init__(self, layer: DeformConv2D):
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups, deformable_groups = geometry(layer)
        if deformable_groups != 1:
            raise ValueError(f"GridSampleConv supports one deformable group, not {deformable_groups}")
        out_channels, width, height_taps, width_taps = layer.weight.shape
        self.weight = paddle.create_parameter([out_channels, width * height_taps * width_taps, 1, 1], "float32")
        self.weight.set_value(layer.weight.reshape(self.weight.shape))  # channels outside, taps inside
        self.bias = layer.bias
        self.kernel = height_taps, width_taps

    def forward(self, x: paddle.Tensor, offset: paddle.Tensor, mask: Optional[paddle.Tensor] = None) -> paddle.Tensor:
        """Feature map [B, C, H, W], offsets [B, 2*T, H', W'] (y, x per tap), mask [B, T, H', W'] -> [B, O, H', W']."""
        taps = self.kernel[0] * self.kernel[1]
        _, channels, height, width = sizes(x)
        batch, _, out_height, out_width = sizes(offset)
        rows = self.positions(0, out_height).reshape([1, taps, -1, 1])
        columns = self.positions(1, out_width).reshape([1, taps, 1, -1])
        shift = offset.reshape([batch, taps, 2, out_height, out_width])  # [B, T, 2, H', W']
        y = scaled(rows + shift[:, :, 0], height)  # [B, T, H', W']
        x_position = scaled(columns + shift[:, :, 1], width)
        grid = paddle.stack([x_position, y], axis=-1)  # [B, T, H', W', 2]
        grid = grid.reshape([batch, -1, out_width, 2])  # [B, T*H', W', 2]
        sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = sampled.reshape([batch, channels, taps, -1, out_width])  # [B, C, T, H', W']
        if mask is not None:
            sampled = sampled * mask.unsqueeze(1)
        sampled = sampled.reshape([batch, channels * taps, -1, out_width])  # [B, C*T, H', W']
        return F.conv2d(sampled, self.weight, self.bias, groups=self.groups)

    def positions(self, axis: int, size: Size) -> paddle.Tensor:
        """The positions of all taps without offsets along an axis, in pixels of the feature map: [T, size]."""
        tap = [i // self.kernel[1] if axis == 0 else i % self.kernel[1] for i in range(self.kernel[0] * self.kernel[1])]
        first = paddle.to_tensor([i * self.dilation[axis] - self.padding[axis] for i in tap], "float32")
        return first.unsqueeze(1) + paddle.arange(size, dtype="float32").unsqueeze(0) * self.stride[axis]


def scaled(positions: paddle.Tensor, size: Size) -> paddle.Tensor:
    """Convert pixels to grid_sample's coordinates: -1 and 1 are half a pixel outside the first and the last pixel."""
    if not isinstance(size, int):
        size = size.astype("float32")
    return (positions * 2.0 + 1.0) / size - 1.0
