"""The neck of YOLOv3, and those of PP-YOLO: that of YOLOv3 with CoordConv, SPP and DropBlock.

Source: Long et al., "PP-YOLO", 2020; after Redmon and Farhadi, "YOLOv3", 2018.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, List, Literal, Optional, Sequence, Tuple

import paddle
from paddle import nn

from ppdet_repro.core.registry import Shared, Upstream, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.modeling.yolo_layers import SPP, CoordConv, DropBlock, conv_norm_act
from ppdet_repro.utils.errors import UserError

NamedLayers = List[Tuple[str, nn.Layer]]


class DetectionBlock(nn.Layer):
    """A sequence of layers, whose output is the route to the next level, and the tip, whose output goes to the head."""

    def __init__(self, layers: NamedLayers, tip: nn.Layer):
        super().__init__()
        self.conv_module = nn.Sequential(*layers)
        self.tip = tip

    def forward(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """[B, C, H, W] -> the route and the tip."""
        route = self.conv_module(x)
        return route, self.tip(route)


def top_down(
    feats: Sequence[paddle.Tensor], blocks: Sequence[nn.Layer], transitions: Sequence[nn.Layer]
) -> List[paddle.Tensor]:
    """The backbone's maps, finest first -> the tips of the blocks, coarsest first.

    The input of each block is its map, concatenated with the upsampled route of the previous block.
    """
    route, tip = blocks[0](feats[-1])
    tips = [tip]
    for x, transition, block in zip(feats[-2::-1], transitions, blocks[1:]):
        route = F.interpolate(transition(route), scale_factor=2.0)
        route, tip = block(F.concat([route, x], axis=1))
        tips.append(tip)
    return tips


@register
class PPYOLOFPN(nn.Layer):
    """The neck of PP-YOLO: one map per map of the backbone, of the same stride.

    Args:
        in_channels, strides: of the backbone's maps, finest first
        freeze_norm: all batch norms use their running statistics and compute no gradients
        coord_conv: use CoordConv for the 1x1 convolutions and the tip
        conv_block_num: pairs of 1x1 and 3x3 convolutions in a block before its route: 2, or 0 in small models
        drop_block: add a DropBlock: after the pairs in the coarsest block, between them in the others, and at the start
            where there are no pairs
        spp: pool in the coarsest block, before its last 3x3 convolution, or at the start where there are no pairs
        width: channels of the coarsest block, for small models; None: 512 for three levels, 256 for two
        block_size: side of a square that DropBlock sets to zero, in cells
        keep_prob: share of the map that DropBlock keeps
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
        width: Optional[int] = None,
    ):
        super().__init__()
        levels = len(in_channels)
        full = self.coarsest_width(levels)
        width = width or full
        if width % 2 ** (levels - 1):
            raise UserError(f"PPYOLOFPN: width {width} cannot be halved {levels - 1} times")
        norm = partial(batch_norm, norm_type=norm_type, frozen=freeze_norm)
        plain = partial(conv_norm_act, norm=norm)
        coord: Callable[..., nn.Layer] = partial(CoordConv, norm=norm) if coord_conv else plain
        self.yolo_block, self.yolo_transition = nn.LayerList(), nn.LayerList()
        self.out_shape: List[ShapeSpec] = []

        def pooling(channels: int) -> NamedLayers:
            return [("spp", SPP(channels, channels, norm))] if spp else []

        def dropping() -> NamedLayers:
            return [("dropblock", DropBlock(block_size, keep_prob))] if drop_block else []

        def block(c_in: int, channels: int, coarsest: bool) -> DetectionBlock:
            wide = 2 * channels
            if conv_block_num == 0:
                layers = (pooling(c_in) if coarsest else []) + dropping()
                layers += [("route", coord(c_in, channels, 1))]
            else:
                first: NamedLayers = [("conv0", coord(c_in, channels, 1)), ("conv1", plain(channels, wide, 3))]
                narrow: NamedLayers = [("conv2", coord(wide, channels, 1))]
                widen: NamedLayers = [("conv3", plain(channels, wide, 3))]
                route: NamedLayers = [("route", coord(wide, channels, 1))]
                if coarsest:
                    layers = first + narrow + pooling(channels) + widen + dropping() + route
                else:
                    layers = first + dropping() + narrow + widen + route
            return DetectionBlock(layers, coord(channels, wide, 3))

        routes = [256 * width // full // 2**i for i in range(levels - 1)]  # channels that go on to the next level
        for i, (c_in, stride) in enumerate(zip(reversed(in_channels), reversed(strides))):
            channels = width // 2**i
            if i > 0:
                c_in += routes[i - 1]
            self.yolo_block.append(block(c_in, channels, coarsest=i == 0))
            self.out_shape.append(ShapeSpec(2 * channels, stride))
            if i < levels - 1:
                self.yolo_transition.append(plain(channels, routes[i], 1))

    @staticmethod
    def coarsest_width(levels: int) -> int:
        """Channels of the coarsest block. Every finer block has half as many."""
        return 64 * 2**levels

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[B, C, H, W] per level, finest first -> [B, C, H, W] per level, coarsest first."""
        return top_down(feats, self.yolo_block, self.yolo_transition)


@register
class YOLOv3FPN(PPYOLOFPN):
    """The neck of YOLOv3: one map per map of the backbone, of the same stride.

    Args:
        in_channels, strides: of the backbone's maps, finest first
        freeze_norm: all batch norms use their running statistics and compute no gradients
    """

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        strides: Upstream[List[int]],
        norm_type: Shared[str] = "bn",
        freeze_norm: bool = False,
    ):
        super().__init__(in_channels, strides, norm_type, freeze_norm)

    @staticmethod
    def coarsest_width(levels: int) -> int:
        return 512


@register
class PPYOLOTinyFPN(nn.Layer):
    """The neck of PP-YOLO tiny, which has blocks of depthwise 5x5 convolutions.

    Args:
        in_channels, strides: of the backbone's maps, finest first
        detection_block_channels: channels of the blocks, coarsest first
        drop_block: start every block with a DropBlock
        spp: pool the coarsest map
        block_size: side of a square that DropBlock sets to zero, in cells
        keep_prob: share of the map that DropBlock keeps
    """

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
        norm = partial(batch_norm, norm_type=norm_type)
        conv = partial(conv_norm_act, norm=norm)
        coarsest = in_channels[-1]
        self.spp = SPP(coarsest, coarsest, norm) if spp else nn.Identity()
        self.yolo_block, self.yolo_transition = nn.LayerList(), nn.LayerList()
        self.out_shape: List[ShapeSpec] = []
        for i, (c_in, width, stride) in enumerate(zip(reversed(in_channels), widths, reversed(strides))):
            if i > 0:
                c_in += widths[i - 1]
                self.yolo_transition.append(conv(widths[i - 1], widths[i - 1], 1))
            layers: NamedLayers = [("dropblock", DropBlock(block_size, keep_prob))] if drop_block else []
            layers += [
                (f"yolo_block.{i}.0", conv(c_in, width, 1)),
                (f"yolo_block.{i}.1", conv(width, width, 5, groups=width)),
                (f"yolo_block.{i}.2", conv(width, width, 1)),
                (f"yolo_block.{i}.route", conv(width, width, 5, groups=width)),
            ]
            self.yolo_block.append(DetectionBlock(layers, conv(width, width, 1)))
            self.out_shape.append(ShapeSpec(width, stride))

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[B, C, H, W] per level, finest first -> [B, C, H, W] per level, coarsest first."""
        return top_down([*feats[:-1], self.spp(feats[-1])], self.yolo_block, self.yolo_transition)
