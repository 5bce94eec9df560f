"""Convolutions that TTFFPN and TTFHead are made of."""

from __future__ import annotations

from typing import Optional

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, XavierUniform
from paddle.regularizer import L2Decay
from paddle.vision.ops import DeformConv2D

from ppdet_repro.modeling.layers import batch_norm, deform, offset_conv


def bias_attr(value: float = 0.0) -> ParamAttr:
    """A bias with twice the learning rate and no decay, as TTFNet has them."""
    return ParamAttr(initializer=Constant(value), learning_rate=2.0, regularizer=L2Decay(0.0))


class DeformConv(nn.Layer):
    """3x3 modulated deformable convolution of unchanged size; `bias` is that of both convolutions in it, None
    leaves the deformable one without."""

    def __init__(self, in_channels: int, out_channels: int, weight: ParamAttr, bias: Optional[ParamAttr] = None):
        super().__init__()
        self.conv_offset = offset_conv(in_channels, 3, 1, bias)
        self.conv_dcn = DeformConv2D(
            in_channels, out_channels, 3, padding=1, weight_attr=weight, bias_attr=bias or False
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return deform(x, self.conv_offset, self.conv_dcn)


class ConvNorm(nn.Layer):
    """Convolution of unchanged size without bias, batch norm without decay; no activation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, norm_type: str, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            padding=(kernel_size - 1) // 2,
            groups=groups,
            weight_attr=ParamAttr(initializer=XavierUniform()),
            bias_attr=False,
        )
        self.norm = batch_norm(out_channels, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.norm(self.conv(x))


class LiteConv(nn.Layer):
    """Depthwise 5x5, 1x1, 1x1, depthwise 5x5, each with batch norm and ReLU6.

    `with_act` false leaves out the second and the fourth ReLU6. Source: PAFNet, figure 4.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_type: str, with_act: bool = True):
        super().__init__()
        optional = nn.ReLU6 if with_act else nn.Identity
        self.lite_conv = nn.Sequential(
            ("conv1", ConvNorm(in_channels, in_channels, 5, norm_type, groups=in_channels)),
            ("relu6_1", nn.ReLU6()),
            ("conv2", ConvNorm(in_channels, out_channels, 1, norm_type)),
            ("relu6_2", optional()),
            ("conv3", ConvNorm(out_channels, out_channels, 1, norm_type)),
            ("relu6_3", nn.ReLU6()),
            ("conv4", ConvNorm(out_channels, out_channels, 5, norm_type, groups=out_channels)),
            ("relu6_4", optional()),
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.lite_conv(x)
