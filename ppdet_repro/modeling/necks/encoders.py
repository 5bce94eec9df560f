"""The encoders that YOLOF's study compares with a feature pyramid: one map in or one map out, or both.

Multiple in, multiple out (MiMo) is `FPN`. C channels; C3 to C5 the backbone's maps, P3 to P7 the levels.
Source: YOLOF, section 1, figures 1 and 8, appendix A ("Detailed Structures of All Encoders").
"""

from __future__ import annotations

from typing import List

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.core.registry import Upstream, register
from ppdet_repro.modeling.necks.fpn import conv
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError


def one_map(name: str, in_channels: List[int]) -> int:
    """The channels of the only input. UserError if there are more: the backbone's return_idx wants one stage."""
    if len(in_channels) != 1:
        raise UserError(f"{name}: one map in, not {len(in_channels)}; give the backbone return_idx: [3]")
    return in_channels[0]


@register
class SiMo(nn.Layer):
    """C5 in, P3 to P7 out: an FPN without the 1x1 convolutions of C3 and C4, whose places have nothing but the
    enlarged coarser sum; P6 and P7 are 3x3 convolutions of stride 2, of C5 and of P6."""

    def __init__(self, in_channels: Upstream[List[int]], out_channel: int = 256, stride: Upstream[int] = 32):
        super().__init__()
        channels, fan = one_map("SiMo", in_channels), 9 * out_channel
        self.lateral = conv(channels, out_channel, 1, 1, channels)
        self.outputs = nn.LayerList([conv(out_channel, out_channel, 3, 1, fan) for _ in range(3)])  # P3 to P5
        self.p6 = conv(channels, out_channel, 3, 2, fan)
        self.p7 = conv(out_channel, out_channel, 3, 2, fan)
        self.out_shape = [ShapeSpec(out_channel, stride * 2**level) for level in range(-2, 3)]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[C5] -> P3 to P7."""
        sums = [self.lateral(feats[0])]
        for _ in range(2):
            sums.insert(0, F.interpolate(sums[0], scale_factor=2.0, mode="nearest"))
        levels = [layer(x) for layer, x in zip(self.outputs, sums)]
        p6 = self.p6(feats[0])
        return [*levels, p6, self.p7(F.relu(p6))]


@register
class MiSo(nn.Layer):
    """C3 to C5 in, P5 out: an FPN's downward path, then PANet's upward one, where a 3x3 convolution of stride 2 of
    each finer map is added to the next coarser one. The maps must be twice as high and wide as the next."""

    def __init__(self, in_channels: Upstream[List[int]], strides: Upstream[List[int]], out_channel: int = 256):
        super().__init__()
        fan = 9 * out_channel
        self.laterals = nn.LayerList([conv(channels, out_channel, 1, 1, channels) for channels in in_channels])
        self.smooth = nn.LayerList([conv(out_channel, out_channel, 3, 1, fan) for _ in in_channels])
        self.down = nn.LayerList([conv(out_channel, out_channel, 3, 2, fan) for _ in in_channels[1:]])
        self.output = conv(out_channel, out_channel, 3, 1, fan)
        self.out_shape = [ShapeSpec(out_channel, strides[-1])]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """C3 to C5 -> [P5]."""
        sums = [lateral(feat) for lateral, feat in zip(self.laterals, feats)]
        for i in reversed(range(len(sums) - 1)):
            sums[i] = sums[i] + F.interpolate(sums[i + 1], scale_factor=2.0, mode="nearest")
        maps = [layer(x) for layer, x in zip(self.smooth, sums)]
        x = maps[0]
        for layer, coarser in zip(self.down, maps[1:]):
            x = coarser + layer(x)
        return [self.output(x)]


@register
class SiSo(nn.Layer):
    """C5 in, P5 out: a 1x1 and a 3x3 convolution."""

    def __init__(self, in_channels: Upstream[List[int]], out_channel: int = 256, stride: Upstream[int] = 32):
        super().__init__()
        channels = one_map("SiSo", in_channels)
        self.lateral = conv(channels, out_channel, 1, 1, channels)
        self.output = conv(out_channel, out_channel, 3, 1, 9 * out_channel)
        self.out_shape = [ShapeSpec(out_channel, stride)]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[C5] -> [P5]."""
        return [self.output(self.lateral(feats[0]))]
