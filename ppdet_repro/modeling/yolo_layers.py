"""Layers that PP-YOLO's necks are made of.

B images, C channels; H, W size of the map.
"""

from __future__ import annotations

from functools import partial
from typing import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.utils.errors import UserError

ACTIVATIONS = {
    "leaky": partial(F.leaky_relu, negative_slope=0.1),
    "mish": F.mish,
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
}


class ConvNormAct(nn.Layer):
    """Convolution without bias, batch norm without decay, activation (a name in ACTIVATIONS)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_type: str = "bn",
        act: str = "leaky",
        stride: int = 1,
        groups: int = 1,
        freeze_norm: bool = False,
    ):
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=(kernel_size - 1) // 2,
            groups=groups,
            bias_attr=False,
        )
        self.batch_norm = batch_norm(out_channels, norm_type, frozen=freeze_norm)
        self.act = ACTIVATIONS[act]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.act(self.batch_norm(self.conv(x)))


class CoordConv(nn.Layer):
    """A `ConvNormAct` that also sees where it is. Source: Liu et al., "CoordConv", NeurIPS 2018."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm_type: str = "bn",
        act: str = "leaky",
        freeze_norm: bool = False,
    ):
        super().__init__()
        self.conv = ConvNormAct(in_channels + 2, out_channels, kernel_size, norm_type, act, freeze_norm=freeze_norm)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv(with_coordinates(x))


def with_coordinates(x: paddle.Tensor) -> paddle.Tensor:
    """Two more channels: the column and the row, [B, C, H, W] -> [B, C + 2, H, W].

    They run from -1 to -0.5, not to 1 (-1 where the map has a single column or row): the form i / (2 (n - 1)) - 1
    is PaddleDetection's, and its published weights rely on it.
    """
    rows = paddle.arange(x.shape[2], dtype="float32")  # [H]
    columns = paddle.arange(x.shape[3], dtype="float32")  # [W]
    down, right = (places / (2 * places[-1:].clip(min=1.0)) - 1 for places in (rows, columns))
    down, right = paddle.meshgrid(down, right)  # [H, W] each
    coordinates = paddle.stack([right, down]).unsqueeze(0).astype(x.dtype)  # [1, 2, H, W]
    return paddle.concat([x, coordinates.expand([x.shape[0], -1, -1, -1])], axis=1)


class SPP(nn.Layer):
    """Spatial pyramid pooling: the map beside its maxima over windows of several sizes, then a convolution.

    Source: He et al., "Spatial Pyramid Pooling", ECCV 2014, in the form of YOLOv3-SPP.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm_type: str,
        act: str = "leaky",
        freeze_norm: bool = False,
        windows: Sequence[int] = (5, 9, 13),
    ):
        super().__init__()
        self.windows = windows
        channels = in_channels * (1 + len(windows))
        self.conv = ConvNormAct(channels, out_channels, 1, norm_type, act, freeze_norm=freeze_norm)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in self.windows]
        return self.conv(paddle.concat([x, *pooled], axis=1))


class DropBlock(nn.Layer):
    """In training, zero squares of `block_size` pixels, about 1 - `keep_prob` of the map.

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
    """[B, C, H, W] -> the same shape. Every channel of every image has its own squares; what stays is scaled by
    the tensor's size over the count of what stays.

    The probability is that of centres whose squares lie inside the map, but centres fall anywhere, as in
    PaddleDetection. A map smaller than a square counts as one place (there, a division by zero).
    """
    if not training or keep_prob == 1:
        return x
    probability = (1 - keep_prob) / block_size**2
    for size in x.shape[2:]:
        probability *= size / max(size - block_size + 1, 1)
    centres = (paddle.rand(x.shape) < probability).astype("float32")
    mask = 1 - F.max_pool2d(centres, block_size, stride=1, padding=block_size // 2)  # [B, C, H, W]
    scale = mask.size / mask.sum().clip(min=1.0)
    return x * (mask * scale).astype(x.dtype)
