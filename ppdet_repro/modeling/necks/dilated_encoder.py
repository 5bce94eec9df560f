"""The encoder of YOLOF: one feature map in, one out, with receptive fields of several sizes.

Source: Chen et al., "You Only Look One-level Feature", CVPR 2021, section 4.1 and figure 5.
"""

from __future__ import annotations

from typing import List, Literal, Optional

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, KaimingUniform, Normal

from ppdet_repro.core.registry import Upstream, register
from ppdet_repro.modeling.layers import activation, batch_norm, conv2d
from ppdet_repro.modeling.necks.encoders import single
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError


def conv_norm_act(
    in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1, act: str = "relu"
) -> nn.Sequential:
    """Convolution with bias and weights from N(0, 0.01), batch norm without weight decay, activation.

    It is a `Sequential` rather than a `ConvNorm` because the layers are numbered in PaddleDetection's checkpoints.
    """
    normal, zero = ParamAttr(initializer=Normal(0.0, 0.01)), ParamAttr(initializer=Constant(0.0))
    conv = conv2d(in_channels, out_channels, kernel_size, dilation=dilation, weight_attr=normal, bias_attr=zero)
    return nn.Sequential(conv, batch_norm(out_channels), activation(act))


class DilatedBlock(nn.Layer):
    """1x1 convolution to fewer channels, dilated 3x3, 1x1 back.

    With `shortcut` the input is added, without an activation after the sum. Table 5c has an encoder without shortcuts.
    """

    def __init__(self, channels: int, mid_channels: int, dilation: int, act: str, shortcut: bool):
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = conv_norm_act(channels, mid_channels, 1, act=act)
        self.conv2 = conv_norm_act(mid_channels, mid_channels, 3, dilation, act)
        self.conv3 = conv_norm_act(mid_channels, channels, 1, act=act)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        return x + y if self.shortcut else y


@register
class DilatedEncoder(nn.Layer):
    """A projector (1x1 and 3x3 convolution, each with batch norm and without activation), then dilated blocks.

    Args:
        in_channels: channels of the backbone's only map; a list of one number
        out_channels: channels of the output; a list of one number, by default 512
        block_mid_channels: channels of the 3x3 convolutions in the blocks
        num_residual_blocks: build this many of the blocks in `block_dilations`; 0 leaves only the projector
        block_dilations: dilations of the blocks, by default 2, 4, 6 and 8
        stride: of the backbone's map
        shortcut: use residual blocks
        act: activation in the blocks
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
        backbone_channels = single("DilatedEncoder: in_channels", in_channels or [2048])
        channels = single("DilatedEncoder: out_channels", out_channels or [512])
        if len(dilations) < num_residual_blocks:
            raise UserError(f"DilatedEncoder: {num_residual_blocks} blocks but only {len(dilations)} block_dilations")
        kaiming = ParamAttr(initializer=KaimingUniform(negative_slope=1, nonlinearity="leaky_relu"))
        self.lateral_conv = nn.Conv2D(backbone_channels, channels, 1, weight_attr=kaiming)
        self.lateral_norm = batch_norm(channels)
        self.fpn_conv = nn.Conv2D(channels, channels, 3, padding=1, weight_attr=kaiming)
        self.fpn_norm = batch_norm(channels)
        dilations = dilations[:num_residual_blocks]
        blocks = [DilatedBlock(channels, block_mid_channels, dilation, act, shortcut) for dilation in dilations]
        self.dilated_encoder_blocks = nn.Sequential(*blocks)
        self.out_shape = [ShapeSpec(channels, stride)]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """A list of one map [B, C, H, W] -> a list of one map [B, out_channels, H, W]."""
        x = self.lateral_norm(self.lateral_conv(feats[0]))
        x = self.fpn_norm(self.fpn_conv(x))
        return [self.dilated_encoder_blocks(x)]
