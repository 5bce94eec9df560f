"""PP-YOLO's necks: YOLOv3's, with CoordConv, SPP and DropBlock.

Source: Long et al., "PP-YOLO", 2020; after Redmon and Farhadi, "YOLOv3", 2018.
"""

from __future__ import annotations

from typing import List, Literal, Optional, Sequence, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.core.registry import Shared, Upstream, register
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.modeling.yolo_layers import SPP, ConvNormAct, CoordConv, DropBlock
from ppdet_repro.utils.errors import UserError


class DetectionBlock(nn.Layer):
    """A ladder of layers, whose end is the route to the next level, and the tip, which the head reads."""

    def __init__(self, layers: List[Tuple[str, nn.Layer]], tip: nn.Layer):
        super().__init__()
        self.conv_module = nn.Sequential(*layers)
        self.tip = tip

    def forward(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        route = self.conv_module(x)
        return route, self.tip(route)


def top_down(
    feats: Sequence[paddle.Tensor], blocks: Sequence[nn.Layer], transitions: Sequence[nn.Layer]
) -> List[paddle.Tensor]:
    """Maps of the backbone, finest first -> the blocks' tips, coarsest first; each block reads its map beside the
    enlarged route of the block before."""
    route, tip = blocks[0](feats[-1])
    tips = [tip]
    for x, transition, block in zip(feats[-2::-1], transitions, blocks[1:]):
        route = F.interpolate(transition(route), scale_factor=2.0)
        route, tip = block(paddle.concat([route, x], axis=1))
        tips.append(tip)
    return tips


@register
class PPYOLOFPN(nn.Layer):
    """Maps of the backbone (finest first) -> maps of the same strides, coarsest first.

    A block has `conv_block_num` pairs (2, or 0 in the small models) of 1x1 and 3x3 convolutions before its route.
    `coord_conv` gives coordinates to the 1x1 convolutions and to the tip; `spp` pools in the coarsest block (before
    its last 3x3 convolution or, without pairs, at its start); `drop_block` adds a DropBlock, in the coarsest block
    after its pairs, in the others between them, without pairs at the start.
    """

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        norm_type: Shared[str] = "bn",
        freeze_norm: bool = False,
        coord_conv: bool = False,
        conv_block_num: Literal[0, 2] = 2,
        drop_block: bool = False,
        block_size: int = 3,
        keep_prob: float = 0.9,
        spp: bool = False,
    ):
        super().__init__()
        levels = len(in_channels)
        plain, coord = ConvNormAct, CoordConv if coord_conv else ConvNormAct
        self.yolo_block, self.yolo_transition, self.out_shape = nn.LayerList(), nn.LayerList(), []

        def conv(layer: type, c_in: int, c_out: int, kernel_size: int) -> nn.Layer:
            return layer(c_in, c_out, kernel_size, norm_type, freeze_norm=freeze_norm)

        def pooling(channels: int) -> List[Tuple[str, nn.Layer]]:
            return [("spp", SPP(channels, channels, norm_type, freeze_norm=freeze_norm))] if spp else []

        def dropping() -> List[Tuple[str, nn.Layer]]:
            return [("dropblock", DropBlock(block_size, keep_prob))] if drop_block else []

        def block(c_in: int, channels: int, coarsest: bool) -> DetectionBlock:
            wide = 2 * channels
            if conv_block_num == 0:
                layers = (pooling(c_in) if coarsest else []) + dropping()
                layers += [("route", conv(coord, c_in, channels, 1))]
            else:
                first = [("conv0", conv(coord, c_in, channels, 1)), ("conv1", conv(plain, channels, wide, 3))]
                narrow = [("conv2", conv(coord, wide, channels, 1))]
                widen = [("conv3", conv(plain, channels, wide, 3))]
                route = [("route", conv(coord, wide, channels, 1))]
                if coarsest:
                    layers = first + narrow + pooling(channels) + widen + dropping() + route
                else:
                    layers = first + dropping() + narrow + widen + route
            return DetectionBlock(layers, conv(coord, channels, wide, 3))

        routes = [256 // 2**i for i in range(levels - 1)]  # channels that go on to the next level
        for i, (c_in, stride) in enumerate(zip(reversed(in_channels), reversed(strides))):
            channels = 64 * 2**levels // 2**i
            if i > 0:
                c_in += routes[i - 1]
            self.yolo_block.append(block(c_in, channels, coarsest=i == 0))
            self.out_shape.append(ShapeSpec(2 * channels, stride))
            if i < levels - 1:
                self.yolo_transition.append(conv(plain, channels, routes[i], 1))

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[B, C, H, W] a level, finest first -> [B, C, H, W] a level, coarsest first."""
        return top_down(feats, self.yolo_block, self.yolo_transition)


@register
class PPYOLOTinyFPN(nn.Layer):
    """The same for PP-YOLO tiny: blocks of depthwise 5x5 convolutions, as wide as `detection_block_channels` say
    (coarsest first). `drop_block` starts every block with a DropBlock, `spp` pools the coarsest map."""

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        detection_block_channels: Optional[List[int]] = None,
        norm_type: Shared[str] = "bn",
        drop_block: bool = False,
        block_size: int = 3,
        keep_prob: float = 0.9,
        spp: bool = False,
    ):
        super().__init__()
        widths = detection_block_channels or [160, 128, 96]
        if len(widths) != len(in_channels):
            raise UserError(f"PPYOLOTinyFPN: {len(widths)} detection_block_channels for {len(in_channels)} maps")
        coarsest = in_channels[-1]
        self.spp = SPP(coarsest, coarsest, norm_type) if spp else nn.Identity()
        self.yolo_block, self.yolo_transition, self.out_shape = nn.LayerList(), nn.LayerList(), []
        for i, (c_in, width, stride) in enumerate(zip(reversed(in_channels), widths, reversed(strides))):
            if i > 0:
                c_in += widths[i - 1]
                self.yolo_transition.append(ConvNormAct(widths[i - 1], widths[i - 1], 1, norm_type))
            layers: List[Tuple[str, nn.Layer]] = []
            if drop_block:
                layers.append(("dropblock", DropBlock(block_size, keep_prob)))
            layers += [
                (f"yolo_block.{i}.0", ConvNormAct(c_in, width, 1, norm_type)),
                (f"yolo_block.{i}.1", ConvNormAct(width, width, 5, norm_type, groups=width)),
                (f"yolo_block.{i}.2", ConvNormAct(width, width, 1, norm_type)),
                (f"yolo_block.{i}.route", ConvNormAct(width, width, 5, norm_type, groups=width)),
            ]
            self.yolo_block.append(DetectionBlock(layers, ConvNormAct(width, width, 1, norm_type)))
            self.out_shape.append(ShapeSpec(width, stride))

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[B, C, H, W] a level, finest first -> [B, C, H, W] a level, coarsest first."""
        return top_down([*feats[:-1], self.spp(feats[-1])], self.yolo_block, self.yolo_transition)
