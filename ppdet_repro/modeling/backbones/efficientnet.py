"""EfficientNet B0 to B4.

Parameters have the names of PaddleClas, so its ImageNet weights load; those of the classifier remain unused.
B images, C channels.
Source: Tan and Le, "EfficientNet", ICML 2019, table 1; the block: Sandler et al., "MobileNetV2", CVPR 2018, with
squeeze-and-excite of Hu et al., CVPR 2018.
"""

from __future__ import annotations

import math
from functools import partial
from typing import List, Literal, NamedTuple, Optional, Tuple

import paddle
from paddle import nn

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.backbones.mobilenet_v3 import divisible
from ppdet_repro.modeling.layers import Activation, ConvNorm, Norm, batch_norm, conv2d
from ppdet_repro.modeling.shape_spec import ShapeSpec

STEM = 32
SQUEEZE = 4  # squeeze-and-excite reduces to a quarter of the block's input channels


class Stage(NamedTuple):
    """A row of the paper's table 1: `repeats` blocks, the first of which has the stride."""

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


def scaled_stages(variant: str) -> List[Stage]:
    """The stages of a variant: those of B0 with its width and depth."""
    width, depth = SCALES[variant]
    return [s._replace(out=divisible(s.out * width), repeats=math.ceil(s.repeats * depth)) for s in STAGES]


def conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Sequential:
    """Convolution with TensorFlow's SAME padding, which at stride 2 pads an even side only at its end.

    PaddleClas wraps every convolution in a layer of its own, so its weight is called `_conv.weight`.
    """
    attr = None if bias else False
    layer = conv2d(in_channels, out_channels, kernel_size, stride, groups, padding="SAME", bias_attr=attr)
    return nn.Sequential(("_conv", layer))


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: Norm,
    stride: int = 1,
    groups: int = 1,
    act: Optional[Activation] = F.swish,
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation; PaddleClas wraps them in a layer, too."""
    layer = conv(in_channels, out_channels, kernel_size, stride, groups)
    return nn.Sequential(("_conv", ConvNorm(layer, norm(out_channels), act, ("_conv", "_bn"))))


class SqueezeExcite(nn.Layer):
    """Scale each channel by a factor computed from the means of all channels."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self._conv1 = conv(channels, squeezed, 1, bias=True)
        self._conv2 = conv(squeezed, channels, 1, bias=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        mean = F.mean_of_locations(x)  # [B, C, 1, 1]
        return x * F.sigmoid(self._conv2(F.swish(self._conv1(mean))))


class Block(nn.Layer):
    """Expansion, depthwise convolution, squeeze-and-excite, projection.

    The input is added where it has the output's shape. In training the rest of such a block is then dropped for a share
    `drop` of the images (stochastic depth).
    """

    def __init__(self, in_channels: int, stage: Stage, stride: int, drop: float, norm: Norm):
        super().__init__()
        inner = in_channels * stage.expand
        self._ecn = conv_norm(in_channels, inner, 1, norm) if stage.expand > 1 else nn.Identity()
        self._dcn = conv_norm(inner, inner, stage.kernel_size, norm, stride, groups=inner)
        self._se = SqueezeExcite(inner, max(1, in_channels // SQUEEZE))
        self._pcn = conv_norm(inner, stage.out, 1, norm, act=None)
        self.adds = stride == 1 and in_channels == stage.out
        self.drop_connect = nn.Dropout(drop, axis=0)  # whole images

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self._pcn(self._se(self._dcn(self._ecn(x))))
        return x + self.drop_connect(y) if self.adds else y


@register
class EfficientNet(nn.Layer):
    """EfficientNet without its classifier; returns C3 to C5, the last feature maps of strides 8, 16 and 32.

    Args:
        variant: b1 to b4 are b0 scaled by the paper's widths and depths
        drop_connect: block n of N is dropped in training for a share `drop_connect` * n / N of the images
        freeze_norm: all batch norms use their running statistics and compute no gradients
    """

    def __init__(
        self,
        variant: Literal["b0", "b1", "b2", "b3", "b4"] = "b0",
        drop_connect: float = 0.2,
        norm_type: Shared[str] = "bn",
        freeze_norm: bool = False,
    ):
        super().__init__()
        norm = partial(batch_norm, norm_type=norm_type, decay=None, frozen=freeze_norm, momentum=0.99, epsilon=1e-3)
        stages = scaled_stages(variant)
        channels = divisible(STEM * SCALES[variant][0])
        total = sum(stage.repeats for stage in stages)
        layers: List[Tuple[str, nn.Layer]] = [("_conv_stem", conv_norm(3, channels, 3, norm, stride=2))]
        self.out_shape, self.taps, stride = [], [], 2
        for number, stage in enumerate(stages):
            stride *= stage.stride
            for i in range(stage.repeats):
                index = len(layers) - 1
                block = Block(channels, stage, stage.stride if i == 0 else 1, drop_connect * index / total, norm)
                layers.append((f"{'block' if i else '_blocks'}.{index}.", block))  # PaddleClas has the last dot
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
