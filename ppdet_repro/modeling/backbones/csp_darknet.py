"""CSPDarkNet-53, the backbone of YOLOv4.

Source: Wang et al., "CSPNet: A New Backbone that can Enhance Learning Capability of CNN", CVPR Workshops 2020;
activation and widths: Bochkovskiy et al., "YOLOv4", 2020.
"""

from __future__ import annotations

from typing import List, Literal, Optional

import paddle
from paddle import nn

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import ConvNorm, batch_norm, conv2d, freeze
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

BLOCKS = {53: (1, 2, 8, 8, 4)}
STEM = 32
WIDTHS = (64, 128, 256, 512, 1024)


def conv_norm_mish(
    in_channels: int, out_channels: int, kernel_size: int, norm_type: str, stride: int = 1, dilation: int = 1
) -> ConvNorm:
    """Convolution without bias, batch norm, Mish."""
    conv = conv2d(in_channels, out_channels, kernel_size, stride, dilation=dilation)
    return ConvNorm(conv, batch_norm(out_channels, norm_type), F.mish)


class Block(nn.Layer):
    """Residual block: a 1x1 convolution to `mid_channels`, then a 3x3 convolution back to `channels`."""

    def __init__(self, channels: int, mid_channels: int, norm_type: str, dilation: int):
        super().__init__()
        self.conv1 = conv_norm_mish(channels, mid_channels, 1, norm_type)
        self.conv2 = conv_norm_mish(mid_channels, channels, 3, norm_type, dilation=dilation)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.conv2(self.conv1(x))


class Stage(nn.Layer):
    """A strided 3x3 convolution, then two branches that are concatenated and joined by a 1x1 convolution.

    The short branch is a 1x1 convolution; the long one has `count` residual blocks between two 1x1 convolutions. Each
    branch has half of the stage's channels, except in the first stage, where it has all of them.
    """

    def __init__(self, in_channels: int, channels: int, count: int, norm_type: str, stride: int, dilation: int):
        super().__init__()
        width = channels if in_channels == STEM else channels // 2  # of a branch
        self.down = conv_norm_mish(in_channels, channels, 3, norm_type, stride, dilation)
        self.short = conv_norm_mish(channels, width, 1, norm_type)
        self.long = nn.Sequential(
            conv_norm_mish(channels, width, 1, norm_type),
            *[Block(width, channels // 2, norm_type, dilation) for _ in range(count)],
            conv_norm_mish(width, width, 1, norm_type),
        )
        self.join = conv_norm_mish(2 * width, channels, 1, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.down(x)
        return self.join(F.concat([self.long(x), self.short(x)], axis=1))


@register
class CSPDarkNet53(nn.Layer):
    """CSPDarkNet-53.

    Args:
        return_idx: the stages whose feature maps are returned, 0 to 4 (strides 2 to 32); by default the last one
        freeze_at: stop the gradients of the stem and of stages 0 to `freeze_at` (-1: of nothing). Their batch norms
            still normalize by the batch.
        dilate_last: give the last stage stride 1 and dilation 2 (DC5, stride 16). The weights are the same.
    """

    def __init__(
        self,
        depth: Literal[53] = 53,
        return_idx: Optional[List[int]] = None,
        freeze_at: int = -1,
        dilate_last: bool = False,
        norm_type: Shared[str] = "bn",
    ):
        super().__init__()
        stages = len(WIDTHS)
        self.return_idx = [stages - 1] if return_idx is None else list(return_idx)
        if any(not 0 <= i < stages for i in self.return_idx):
            raise UserError(f"CSPDarkNet53: return_idx {self.return_idx} names a stage outside 0..{stages - 1}")
        self.stem = conv_norm_mish(3, STEM, 3, norm_type)
        self.stages = nn.LayerList()
        strides: List[int] = []
        in_channels = STEM
        for i, (channels, count) in enumerate(zip(WIDTHS, BLOCKS[depth])):
            stride, dilation = (1, 2) if dilate_last and i == stages - 1 else (2, 1)
            self.stages.append(Stage(in_channels, channels, count, norm_type, stride, dilation))
            strides.append(stride * (strides[-1] if strides else 1))
            in_channels = channels
        self.out_shape = [ShapeSpec(WIDTHS[i], strides[i]) for i in self.return_idx]
        if freeze_at >= 0:
            for layer in [self.stem, *self.stages[: freeze_at + 1]]:
                freeze(layer)

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the feature maps of `return_idx`, finest first."""
        x = self.stem(image)
        feats = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.return_idx:
                feats.append(x)
        return feats
