"""Balanced feature pyramid: all levels are averaged in one map, which is refined and added to each of them.

B images, C channels; H, W size of a feature map.
Source: Pang et al., "Libra R-CNN", CVPR 2019, section 3.2; the refinement: Wang et al., "Non-local Neural Networks",
CVPR 2018 (embedded Gaussian).
"""

from __future__ import annotations

from typing import List

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import XavierUniform

from ppdet_repro.core.registry import Part, register
from ppdet_repro.modeling.layers import nearest
from ppdet_repro.modeling.sizes import Size, sizes
from ppdet_repro.utils.errors import UserError


def conv1x1(channels: int) -> nn.Conv2D:
    """1x1 convolution with a bias that starts at 0, and Xavier uniform initialization."""
    return nn.Conv2D(channels, channels, 1, weight_attr=ParamAttr(initializer=XavierUniform()))


class NonLocal(nn.Layer):
    """Add to each location a mean over all locations, weighted by their similarity."""

    def __init__(self, channels: int):
        super().__init__()
        self.theta, self.phi, self.g, self.conv_out = (conv1x1(channels) for _ in range(4))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))  # [B, C, H*W] each
        similarity = F.softmax(paddle.matmul(theta, phi, transpose_x=True))  # [B, H*W, H*W]
        mean = paddle.matmul(g, similarity, transpose_y=True)  # [B, C, H*W]
        return x + self.conv_out(mean.reshape([0, 0, sizes(x)[2], -1]))


def shrink(x: paddle.Tensor, height: Size, width: Size) -> paddle.Tensor:
    """Adaptive max pooling: [B, C, H, W] -> [B, C, height, width]."""
    if isinstance(height, int) and isinstance(width, int):
        return F.adaptive_max_pool2d(x, [height, width])
    columns = shrink_last(x, width).transpose([0, 1, 3, 2])  # an exported program knows the sizes only when it runs
    return shrink_last(columns, height).transpose([0, 1, 3, 2])


def shrink_last(x: paddle.Tensor, size: Size) -> paddle.Tensor:
    """Adaptive max pooling of the last axis by gathering its windows: [B, C, H, W] -> [B, C, H, size]."""
    width, number = paddle.shape(x)[3], paddle.arange(size, dtype="int32").unsqueeze(1)
    start = number * width // size
    last = ((number + 1) * width - 1) // size
    index = paddle.minimum(start + paddle.arange(width // size + 2, dtype="int32"), last)  # [size, longest window]
    return paddle.gather(x, index.flatten(), axis=3).reshape([0, 0, 0, size, -1]).max(axis=4)


@register
class BFP(nn.Layer):
    """A balanced feature pyramid over the levels of the neck `pyramid`, finest first.

    All levels are resized to the size of level `refine_level` (0 is the finest; the default is P4 of P3 to P7) and
    averaged. The mean is refined by a non-local block, resized to each level and added to it.
    """

    def __init__(self, pyramid: Part[nn.Layer] = "FPN", refine_level: int = 1):
        super().__init__()
        channels = {shape.channels for shape in pyramid.out_shape}
        if len(channels) != 1:
            raise UserError(f"BFP: all levels need the same number of channels, not {sorted(channels)}")
        if not 0 <= refine_level < len(pyramid.out_shape):
            raise UserError(f"BFP: refine_level {refine_level} is not one of {len(pyramid.out_shape)} levels")
        self.pyramid = pyramid
        self.refine = NonLocal(channels.pop())
        self.refine_level = refine_level
        self.out_shape = pyramid.out_shape

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """The backbone's maps, finest first -> the levels, finest first."""
        levels = self.pyramid(feats)
        middle = self.refine_level
        size = sizes(levels[middle])[2:]
        resize = [shrink] * middle + [nearest] * (len(levels) - middle)
        gathered = sum(change(level, *size) for change, level in zip(resize, levels)) / len(levels)
        refined = self.refine(gathered)
        resize = [nearest] * (middle + 1) + [shrink] * (len(levels) - middle - 1)
        return [level + change(refined, *sizes(level)[2:]) for change, level in zip(resize, levels)]
