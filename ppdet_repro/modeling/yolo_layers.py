"""Layers of DarkNet and of the necks of PP-YOLO. Parameters have the names of PaddleDetection."""

from __future__ import annotations

from typing import Sequence

import paddle
from paddle import nn

from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import ACTIVATIONS, ConvNorm, Norm, conv2d
from ppdet_repro.modeling.sizes import sizes
from ppdet_repro.utils.errors import UserError


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: Norm,
    act: str = "leaky",
    stride: int = 1,
    groups: int = 1,
) -> ConvNorm:
    """Convolution without bias, batch norm, activation (a name in `layers.ACTIVATIONS`)."""
    conv = conv2d(in_channels, out_channels, kernel_size, stride, groups)
    return ConvNorm(conv, norm(out_channels), ACTIVATIONS[act], ("conv", "batch_norm"))


class CoordConv(nn.Layer):
    """A `conv_norm_act` that also sees each location's coordinates. Source: Liu et al., "CoordConv", NeurIPS 2018."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm: Norm, act: str = "leaky"):
        super().__init__()
        self.conv = conv_norm_act(in_channels + 2, out_channels, kernel_size, norm, act)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv(with_coordinates(x))


def with_coordinates(x: paddle.Tensor) -> paddle.Tensor:
    """Append two channels, the column and the row of each location: [B, C, H, W] -> [B, C + 2, H, W].

    The coordinates are i / (2 (n - 1)) - 1, which is -1 to -0.5 instead of -1 to 1 (and -1 if the map has only one
    column or row). PaddleDetection computes them so, and its published weights depend on it.
    """
    batch, _, height, width = sizes(x)
    rows = paddle.arange(height, dtype="float32")  # [H]
    columns = paddle.arange(width, dtype="float32")  # [W]
    down, right = (indices / (2 * indices[-1:].clip(min=1.0)) - 1 for indices in (rows, columns))
    down, right = paddle.meshgrid(down, right)  # [H, W] each
    coordinates = paddle.stack([right, down]).unsqueeze(0).astype(x.dtype)  # [1, 2, H, W]
    return F.concat([x, coordinates.expand([batch, -1, -1, -1])], axis=1)


class SPP(nn.Layer):
    """Spatial pyramid pooling: the map and its maxima over windows of several sizes, concatenated, then a convolution.

    Source: He et al., "Spatial Pyramid Pooling", ECCV 2014, in the form of YOLOv3-SPP.
    """

    def __init__(
        self, in_channels: int, out_channels: int, norm: Norm, act: str = "leaky", windows: Sequence[int] = (5, 9, 13)
    ):
        super().__init__()
        self.windows = windows
        self.conv = conv_norm_act(in_channels * (1 + len(windows)), out_channels, 1, norm, act)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in self.windows]
        return self.conv(F.concat([x, *pooled], axis=1))


class DropBlock(nn.Layer):
    """In training, set squares of `block_size` x `block_size` to zero, about 1 - `keep_prob` of the map in total.

    Source: Ghiasi et al., "DropBlock", NeurIPS 2018, algorithm 1.
    """

    def __init__(self, block_size: int = 3, keep_prob: float = 0.9):
        super().__init__()
        if block_size < 1 or block_size % 2 == 0:
            raise UserError(f"DropBlock: block_size {block_size} is not odd")
        if not 0 < keep_prob <= 1:
            raise UserError(f"DropBlock: keep_prob {keep_prob} is not in (0, 1]")
        self.block_size = block_size
        self.keep_prob = keep_prob

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return drop_block(x, self.block_size, self.keep_prob, self.training)


def drop_block(x: paddle.Tensor, block_size: int, keep_prob: float, training: bool) -> paddle.Tensor:
    """[B, C, H, W] -> the same shape; outside training or at `keep_prob` 1, `x` itself.

    Every channel of every image has its own squares. What remains is multiplied by the tensor's size over the number of
    remaining values. As in PaddleDetection, the probability is that of centers whose squares lie inside the map, but
    centers are drawn everywhere. A map smaller than a square counts as one location (PaddleDetection divides by zero).
    """
    if not training or keep_prob == 1:
        return x
    probability = (1 - keep_prob) / block_size**2
    for size in x.shape[2:]:
        probability *= size / max(size - block_size + 1, 1)
    centers = (paddle.rand(x.shape) < probability).astype("float32")
    mask = 1 - F.max_pool2d(centers, block_size, stride=1, padding=block_size // 2)  # [B, C, H, W]
    scale = mask.size / mask.sum().clip(min=1.0)
    return x * (mask * scale).astype(x.dtype)
