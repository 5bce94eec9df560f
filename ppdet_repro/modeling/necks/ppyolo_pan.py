"""PP-YOLOv2's neck: information runs down the pyramid and up again.

Source: PP-YOLOv2, section 3 ("Path Aggregation Network") and figure 2; after Liu et al., "PANet", CVPR 2018.
"""

from __future__ import annotations

from typing import List, Literal, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.core.registry import Shared, Upstream, register
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.modeling.yolo_layers import SPP, ConvNormAct, DropBlock
from ppdet_repro.utils.errors import UserError


class SplitBlock(nn.Layer):
    """Two 1x1 convolutions, a ladder of layers on the first, both concatenated, a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int, layers: List[Tuple[str, nn.Layer]], norm_type: str, act: str):
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, channels, 1, norm_type, act)
        self.conv2 = ConvNormAct(in_channels, channels, 1, norm_type, act)
        self.conv3 = ConvNormAct(2 * channels, 2 * channels, 1, norm_type, act)
        self.conv_module = nn.Sequential(*layers)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv3(paddle.concat([self.conv_module(self.conv1(x)), self.conv2(x)], axis=1))


@register
class PPYOLOPAN(nn.Layer):
    """Maps of the backbone (finest first) -> maps of the same strides, coarsest first.

    The blocks' ladders have `conv_block_num` pairs of 1x1 and 3x3 convolutions. `drop_block` puts a DropBlock
    after the second pair; `spp` replaces that pair's 3x3 convolution in the coarsest block on the way down.
    `width` is the coarsest block's, 512 in the paper; every finer one has half, and a map has twice its block's.
    """

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        norm_type: Shared[str] = "bn",
        act: Literal["mish", "silu", "swish", "leaky", "relu"] = "mish",
        conv_block_num: int = 3,
        drop_block: bool = False,
        block_size: int = 3,
        keep_prob: float = 0.9,
        spp: bool = False,
        width: int = 512,
    ):
        super().__init__()
        if conv_block_num < 2:
            raise UserError(f"PPYOLOPAN: conv_block_num {conv_block_num} is less than 2")
        levels = len(in_channels)
        if width % 2 ** (levels - 1):
            raise UserError(f"PPYOLOPAN: width {width} cannot be halved {levels - 1} times")
        widths = [width // 2**i for i in range(levels)]  # coarsest first, as all that follows

        def conv(c_in: int, c_out: int, kernel_size: int, stride: int = 1) -> ConvNormAct:
            return ConvNormAct(c_in, c_out, kernel_size, norm_type, act, stride)

        def block(c_in: int, channels: int, pools: bool = False) -> SplitBlock:
            ladder: List[Tuple[str, nn.Layer]] = []
            for i in range(conv_block_num):
                ladder.append((f"{i}.0", conv(channels, channels, 1)))
                if i == 1 and pools:
                    ladder.append(("spp", SPP(channels, channels, norm_type, act)))
                else:
                    ladder.append((f"{i}.1", conv(channels, channels, 3)))
                if i == 1 and drop_block:
                    ladder.append(("dropblock", DropBlock(block_size, keep_prob)))
            return SplitBlock(c_in, channels, ladder, norm_type, act)

        self.fpn, self.fpn_transition = nn.LayerList(), nn.LayerList()
        for i, channels in enumerate(reversed(in_channels)):
            if i > 0:
                self.fpn_transition.append(conv(2 * widths[i - 1], widths[i - 1], 1))
                channels += widths[i - 1]
            self.fpn.append(block(channels, widths[i], pools=spp and i == 0))
        self.pan, self.pan_transition = nn.LayerList(), nn.LayerList()
        for i in range(levels - 1):
            finer = 2 * widths[i + 1]
            self.pan_transition.append(conv(finer, finer, 3, stride=2))
            self.pan.append(block(2 * widths[i] + finer, widths[i]))
        self.out_shape = [ShapeSpec(2 * c, stride) for c, stride in zip(widths, reversed(strides))]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[B, C, H, W] a level, finest first -> [B, C, H, W] a level, coarsest first."""
        down = [self.fpn[0](feats[-1])]
        for x, transition, block in zip(feats[-2::-1], self.fpn_transition, self.fpn[1:]):
            route = F.interpolate(transition(down[-1]), scale_factor=2.0)
            down.append(block(paddle.concat([route, x], axis=1)))
        up = [down[-1]]
        for i in reversed(range(len(self.pan))):
            route = self.pan_transition[i](up[-1])
            up.append(self.pan[i](paddle.concat([route, down[i]], axis=1)))
        return up[::-1]
