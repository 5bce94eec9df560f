"""The encoders that the YOLOF paper compares with a feature pyramid, for one or several maps in and out.

Multiple in, multiple out (MiMo) is `FPN`. C channels; C3 to C5 are the backbone's maps, P3 to P7 the levels.
Source: YOLOF, section 1, figures 1 and 8, appendix A ("Detailed Structures of All Encoders").
"""

from __future__ import annotations

from typing import List

import paddle
from paddle import nn

from ppdet_repro.core.registry import Upstream, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.necks.fpn import add_coarser, conv
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError


def single(key: str, values: List[int]) -> int:
    """The only value of a list, which `key` names in the UserError that is raised if there are more."""
    if len(values) != 1:
        raise UserError(f"{key} {values} must have one value; give the backbone one stage, such as return_idx: [3]")
    return values[0]


@register
class SiMo(nn.Layer):
    """Single in, multiple out: C5 -> P3 to P7.

    An FPN without C3 and C4: their levels only get the enlarged map of the coarser one. P6 and P7 are 3x3 convolutions
    with stride 2 of C5 and of P6.
    """

    def __init__(self, in_channels: Upstream[List[int]], out_channel: int = 256, stride: Upstream[int] = 32):
        super().__init__()
        channels, fan = single("SiMo: in_channels", in_channels), 9 * out_channel
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
    """Multiple in, single out: C3 to C5 -> P5.

    The top-down path of an FPN, then the bottom-up path of PANet, where a 3x3 convolution with stride 2 of each finer
    map is added to the next coarser one. Each map must be twice as high and wide as the next.
    """

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
        sums = add_coarser([lateral(feat) for lateral, feat in zip(self.laterals, feats)])
        maps = [layer(x) for layer, x in zip(self.smooth, sums)]
        x = maps[0]
        for layer, coarser in zip(self.down, maps[1:]):
            x = coarser + layer(x)
        return [self.output(x)]


@register
class SiSo(nn.Layer):
    """Single in, single out: C5 -> P5, by a 1x1 and a 3x3 convolution."""

    def __init__(self, in_channels: Upstream[List[int]], out_channel: int = 256, stride: Upstream[int] = 32):
        super().__init__()
        channels = single("SiSo: in_channels", in_channels)
        self.lateral = conv(channels, out_channel, 1, 1, channels)
        self.output = conv(out_channel, out_channel, 3, 1, 9 * out_channel)
        self.out_shape = [ShapeSpec(out_channel, stride)]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """[C5] -> [P5]."""
        return [self.output(self.lateral(feats[0]))]
