"""YOLOF's encoder: one feature map in, one out, with a ladder of receptive fields.

Source: Chen et al., "You Only Look One-level Feature", CVPR 2021, section 4.1 and figure 5.
"""

from __future__ import annotations

from typing import List, Literal, Optional

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, KaimingUniform, Normal

from ppdet_repro.core.registry import Upstream, register
from ppdet_repro.modeling.layers import activation, batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError


def conv_norm_act(
    in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1, act: str = "relu"
) -> nn.Sequential:
    """Convolution with bias, weights N(0, 0.01), of unchanged size; batch norm without decay; activation."""
    return nn.Sequential(
        nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            weight_attr=ParamAttr(initializer=Normal(0.0, 0.01)),
            bias_attr=ParamAttr(initializer=Constant(0.0)),
        ),
        batch_norm(out_channels),
        activation(act),
    )


class PlainBlock(nn.Layer):
    """1x1 down, 3x3 dilated, 1x1 up (table 5c's encoder without shortcuts)."""

    def __init__(self, channels: int, mid_channels: int, dilation: int, act: str):
        super().__init__()
        self.conv1 = conv_norm_act(channels, mid_channels, 1, act=act)
        self.conv2 = conv_norm_act(mid_channels, mid_channels, 3, dilation, act)
        self.conv3 = conv_norm_act(mid_channels, channels, 1, act=act)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv3(self.conv2(self.conv1(x)))


class DilatedBlock(PlainBlock):
    """The same as a residual block. The sum has no activation after it."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.conv3(self.conv2(self.conv1(x)))


@register
class DilatedEncoder(nn.Layer):
    """Projector (1x1 and 3x3 convolution, each with batch norm and no ReLU), then dilated residual blocks.

    The first `num_residual_blocks` of `block_dilations` are built, none for 0: the projector alone. Without
    `shortcut` the blocks are not residual.
    """

    def __init__(
        self,
        in_channels: Upstream[Optional[List[int]]] = None,
        out_channels: Optional[List[int]] = None,
        block_mid_channels: int = 128,
        num_residual_blocks: int = 4,
        block_dilations: Optional[List[int]] = None,
        stride: Upstream[int] = 32,
        shortcut: bool = True,
        act: Literal["relu", "leaky"] = "relu",
    ):
        super().__init__()
        dilations = [2, 4, 6, 8] if block_dilations is None else block_dilations
        in_channels = only("in_channels", in_channels or [2048])
        channels = only("out_channels", out_channels or [512])
        if len(dilations) < num_residual_blocks:
            raise UserError(f"DilatedEncoder: {num_residual_blocks} blocks but only {len(dilations)} block_dilations")
        kaiming = ParamAttr(initializer=KaimingUniform(negative_slope=1, nonlinearity="leaky_relu"))
        self.lateral_conv = nn.Conv2D(in_channels, channels, 1, weight_attr=kaiming)
        self.lateral_norm = batch_norm(channels)
        self.fpn_conv = nn.Conv2D(channels, channels, 3, padding=1, weight_attr=kaiming)
        self.fpn_norm = batch_norm(channels)
        block = DilatedBlock if shortcut else PlainBlock
        self.dilated_encoder_blocks = nn.Sequential(
            *[block(channels, block_mid_channels, d, act) for d in dilations[:num_residual_blocks]]
        )
        self.out_shape = [ShapeSpec(channels, stride)]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[[B, C, H, W]] -> [[B, out_channels, H, W]]."""
        x = self.lateral_norm(self.lateral_conv(feats[0]))
        x = self.fpn_norm(self.fpn_conv(x))
        return [self.dilated_encoder_blocks(x)]


def only(key: str, values: List[int]) -> int:
    """The single value of a list. UserError if the list holds more: YOLOF has one level."""
    if len(values) != 1:
        raise UserError(f"DilatedEncoder: {key} {values} must have one value; the backbone's return_idx one stage")
    return values[0]
