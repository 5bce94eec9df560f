"""The neck of PP-YOLOv2: a path aggregation network, which runs down the pyramid and up again.

Source: PP-YOLOv2, section 3 ("Path Aggregation Network") and figure 2; after Liu et al., "PANet", CVPR 2018.
"""

from __future__ import annotations

from functools import partial
from typing import List, Literal, Tuple

import paddle
from paddle import nn

from ppdet_repro.core.registry import Shared, Upstream, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import Norm, batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.modeling.yolo_layers import SPP, DropBlock, conv_norm_act
from ppdet_repro.utils.errors import UserError


class SplitBlock(nn.Layer):
    """A 1x1 convolution with `layers` after it, and a plain 1x1 convolution; joined by a third 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int, layers: List[Tuple[str, nn.Layer]], norm: Norm, act: str):
        super().__init__()
        self.conv1 = conv_norm_act(in_channels, channels, 1, norm, act)
        self.conv2 = conv_norm_act(in_channels, channels, 1, norm, act)
        self.conv3 = conv_norm_act(2 * channels, 2 * channels, 1, norm, act)
        self.conv_module = nn.Sequential(*layers)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv3(F.concat([self.conv_module(self.conv1(x)), self.conv2(x)], axis=1))


@register
class PPYOLOPAN(nn.Layer):
    """A path aggregation network: one map per map of the backbone, of the same stride.

    Args:
        in_channels, strides: of the backbone's maps, finest first
        act: activation after every convolution
        conv_block_num: pairs of 1x1 and 3x3 convolutions in a block
        drop_block: add a DropBlock after the second pair of every block
        spp: in the coarsest block on the way down, pool instead of the 3x3 convolution of the second pair
        width: channels of the coarsest block, 512 in the paper. Every finer block has half as many. An output map has
            twice the channels of its block.
        block_size: side of a square that DropBlock sets to zero, in cells
        keep_prob: share of the map that DropBlock keeps
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
        widths = [width // 2**i for i in range(levels)]  # coarsest first, as everything below

        norm = partial(batch_norm, norm_type=norm_type)
        conv = partial(conv_norm_act, norm=norm, act=act)

        def block(c_in: int, channels: int, pools: bool = False) -> SplitBlock:
            layers: List[Tuple[str, nn.Layer]] = []
            for i in range(conv_block_num):
                layers.append((f"{i}.0", conv(channels, channels, 1)))
                if i == 1 and pools:
                    layers.append(("spp", SPP(channels, channels, norm, act)))
                else:
                    layers.append((f"{i}.1", conv(channels, channels, 3)))
                if i == 1 and drop_block:
                    layers.append(("dropblock", DropBlock(block_size, keep_prob)))
            return SplitBlock(c_in, channels, layers, norm, act)

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
        """[B, C, H, W] per level, finest first -> [B, C, H, W] per level, coarsest first."""
        down = [self.fpn[0](feats[-1])]
        for x, transition, block in zip(feats[-2::-1], self.fpn_transition, self.fpn[1:]):
            route = F.interpolate(transition(down[-1]), scale_factor=2.0)
            down.append(block(F.concat([route, x], axis=1)))
        up = [down[-1]]
        for i in reversed(range(len(self.pan))):
            route = self.pan_transition[i](up[-1])
            up.append(self.pan[i](F.concat([route, down[i]], axis=1)))
        return up[::-1]
