"""Convolutions of `TTFFPN` and `TTFHead`."""

from __future__ import annotations

from typing import Optional

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, XavierUniform
from paddle.regularizer import L2Decay
from paddle.vision.ops import DeformConv2D

from ppdet_repro.modeling.layers import ConvNorm, batch_norm, conv2d, deform, offset_conv


def bias_attr(value: float = 0.0) -> ParamAttr:
    """A bias with twice the learning rate and no weight decay, as in TTFNet."""
    return ParamAttr(initializer=Constant(value), learning_rate=2.0, regularizer=L2Decay(0.0))


class DeformConv(nn.Layer):
    """3x3 modulated deformable convolution that keeps the map's size.

    `bias` is the attribute of the biases of this convolution and of the one that predicts its offsets. None leaves this
    one without a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, weight: ParamAttr, bias: Optional[ParamAttr] = None):
        super().__init__()
        self.conv_offset = offset_conv(in_channels, 3, 1, bias)
        attrs = {"weight_attr": weight, "bias_attr": bias or False}
        self.conv_dcn = DeformConv2D(in_channels, out_channels, 3, padding=1, **attrs)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return deform(x, self.conv_offset, self.conv_dcn)


def conv_norm(in_channels: int, out_channels: int, kernel_size: int, norm_type: str, groups: int = 1) -> ConvNorm:
    """Convolution that keeps the map's size, without bias, and batch norm without weight decay; no activation."""
    xavier = ParamAttr(initializer=XavierUniform())
    conv = conv2d(in_channels, out_channels, kernel_size, groups=groups, weight_attr=xavier)
    return ConvNorm(conv, batch_norm(out_channels, norm_type))


class LiteConv(nn.Sequential):
    """Depthwise 5x5, 1x1, 1x1 and depthwise 5x5 convolution, each with batch norm and ReLU6.

    `with_act=False` leaves out the second and the fourth ReLU6. Source: PAFNet, figure 4.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_type: str, with_act: bool = True):
        optional = nn.ReLU6 if with_act else nn.Identity
        layers = nn.Sequential(
            ("conv1", conv_norm(in_channels, in_channels, 5, norm_type, groups=in_channels)),
            ("relu6_1", nn.ReLU6()),
            ("conv2", conv_norm(in_channels, out_channels, 1, norm_type)),
            ("relu6_2", optional()),
            ("conv3", conv_norm(out_channels, out_channels, 1, norm_type)),
            ("relu6_3", nn.ReLU6()),
            ("conv4", conv_norm(out_channels, out_channels, 5, norm_type, groups=out_channels)),
            ("relu6_4", optional()),
        )
        super().__init__(("lite_conv", layers))
