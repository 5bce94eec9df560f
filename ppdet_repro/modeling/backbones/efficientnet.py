"""EfficientNet B0 to B4.

The parameter names are PaddleClas', so its ImageNet weights load; what they hold for the classifier is left over.
B images, H, W a map.
Source: Tan and Le, "EfficientNet", ICML 2019, table 1; the block: Sandler et al., "MobileNetV2", CVPR 2018, with
squeeze-and-excite of Hu et al., CVPR 2018.
"""

from __future__ import annotations

import math
from typing import List, Literal, NamedTuple, Tuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec

MOMENTUM, EPSILON = 0.99, 1e-3  # of all batch norms
STEM = 32
SQUEEZE = 4  # squeeze-and-excite has a quarter of the block's input channels


class Stage(NamedTuple):
    """A row of the paper's table 1: `repeats` blocks, the first of which strides."""

    kernel_size: int
    stride: int
    expand: int
    out: int
    repeats: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
C3_TO_C5 = (2, 4, 6)  # the last stages of strides 8, 16 and 32
SCALES = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "b4": (1.4, 1.8)}  # width, depth


class NormSettings(NamedTuple):
    """How the batch norms are built (see `layers.batch_norm`)."""

    norm_type: str
    frozen: bool

    def __call__(self, channels: int) -> nn.BatchNorm2D:
        return batch_norm(channels, self.norm_type, None, self.frozen, momentum=MOMENTUM, epsilon=EPSILON)


def scaled_width(channels: int, width: float) -> int:
    """The nearest multiple of 8 that is not more than 10 % below `channels` times `width`, at least 8."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def scaled_stages(variant: str) -> List[Stage]:
    """The stages of a variant: B0's made wider and longer."""
    width, depth = SCALES[variant]
    return [
        stage._replace(out=scaled_width(stage.out, width), repeats=math.ceil(stage.repeats * depth)) for stage in STAGES
    ]


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, bias: bool = False):
    """Convolution with TensorFlow's SAME padding (a stride of 2 pads an even side at its end alone), under the name
    that PaddleClas gives it."""
    layer = nn.Conv2D(
        in_channels, out_channels, kernel_size, stride, padding="SAME", groups=groups, bias_attr=None if bias else False
    )
    return nn.Sequential(("_conv", layer))


class ConvNorm(nn.Layer):
    """Convolution without bias, batch norm, and swish unless told otherwise."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm: NormSettings,
        stride: int = 1,
        groups: int = 1,
        swish: bool = True,
    ):
        super().__init__()
        self._conv = conv(in_channels, out_channels, kernel_size, stride, groups)
        self._bn = norm(out_channels)
        self.act = F.swish if swish else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self._bn(self._conv(x))
        return x if self.act is None else self.act(x)


class SqueezeExcite(nn.Layer):
    """Weighs each channel by what all places together show."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self._conv1 = conv(channels, squeezed, 1, bias=True)
        self._conv2 = conv(squeezed, channels, 1, bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        mean = x.mean(axis=[2, 3], keepdim=True)  # [B, C, 1, 1]
        return x * F.sigmoid(self._conv2(F.swish(self._conv1(mean))))


class Block(nn.Layer):
    """Expand, depthwise convolution, squeeze-and-excite, project; where the input has the output's shape it is added,
    and in training the rest is left out for a share `drop` of the images."""

    def __init__(self, in_channels: int, stage: Stage, stride: int, drop: float, norm: NormSettings):
        super().__init__()
        inner, named = in_channels * stage.expand, "_conv"
        if stage.expand > 1:
            self._ecn = nn.Sequential((named, ConvNorm(in_channels, inner, 1, norm)))
        else:
            self._ecn = nn.Identity()
        depthwise = ConvNorm(inner, inner, stage.kernel_size, norm, stride, groups=inner)
        self._dcn = nn.Sequential((named, depthwise))
        self._se = SqueezeExcite(inner, max(1, in_channels // SQUEEZE))
        self._pcn = nn.Sequential((named, ConvNorm(inner, stage.out, 1, norm, swish=False)))
        self.adds = stride == 1 and in_channels == stage.out
        self.drop_connect = nn.Dropout(drop, axis=0)  # whole images

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self._pcn(self._se(self._dcn(self._ecn(x))))
        return x + self.drop_connect(y) if self.adds else y


@register
class EfficientNet(nn.Layer):
    """EfficientNet without its classifier, which returns C3 to C5: the last maps of strides 8, 16 and 32.

    `variant` b1 to b4 are B0 scaled by the paper's widths and depths. Block n of N is left out in training for a share
    `drop_connect` * n / N of the images. `freeze_norm` makes every batch norm use its running statistics and no
    gradient.
    """

    def __init__(
        self,
        variant: Literal["b0", "b1", "b2", "b3", "b4"] = "b0",
        drop_connect: float = 0.2,
        norm_type: Shared[str] = "bn",
        freeze_norm: bool = False,
    ):
        super().__init__()
        norm, stages = NormSettings(norm_type, freeze_norm), scaled_stages(variant)
        channels = scaled_width(STEM, SCALES[variant][0])
        total = sum(stage.repeats for stage in stages)
        stem = nn.Sequential(("_conv", ConvNorm(3, channels, 3, norm, stride=2)))
        layers: List[Tuple[str, nn.Layer]] = [("_conv_stem", stem)]
        self.out_shape, self.taps, stride = [], [], 2
        for number, stage in enumerate(stages):
            stride *= stage.stride
            for i in range(stage.repeats):
                index = len(layers) - 1
                block = Block(channels, stage, stage.stride if i == 0 else 1, drop_connect * index / total, norm)
                layers.append((f"{'block' if i else '_blocks'}.{index}.", block))  # the last dot is PaddleClas'
                channels = stage.out
            if number in C3_TO_C5:
                self.taps.append(len(layers) - 1)
                self.out_shape.append(ShapeSpec(channels, stride))
        self._ef = nn.Sequential(*layers)

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> C3, C4, C5."""
        x, feats = image, []
        for i, layer in enumerate(self._ef.children()):
            x = layer(x)
            if i in self.taps:
                feats.append(x)
        return feats
