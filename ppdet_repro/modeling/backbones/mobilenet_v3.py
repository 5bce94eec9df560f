"""MobileNetV3, large and small.

The parameter names are PaddleDetection's, so ImageNet weights (SSLD included) and detectors load.
Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 and 2.
"""

from __future__ import annotations

from typing import List, Literal, NamedTuple, Optional, Union

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.regularizer import L2Decay

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError


class Row(NamedTuple):
    """A block of the paper's tables; `squeezes`: with squeeze-and-excite."""

    kernel_size: int
    expanded: int
    out: int
    squeezes: bool
    act: str
    stride: int


BLOCKS = {
    "large": (
        Row(3, 16, 16, False, "relu", 1),
        Row(3, 64, 24, False, "relu", 2),
        Row(3, 72, 24, False, "relu", 1),
        Row(5, 72, 40, True, "relu", 2),
        Row(5, 120, 40, True, "relu", 1),
        Row(5, 120, 40, True, "relu", 1),
        Row(3, 240, 80, False, "hard_swish", 2),
        Row(3, 200, 80, False, "hard_swish", 1),
        Row(3, 184, 80, False, "hard_swish", 1),
        Row(3, 184, 80, False, "hard_swish", 1),
        Row(3, 480, 112, True, "hard_swish", 1),
        Row(3, 672, 112, True, "hard_swish", 1),
        Row(5, 672, 160, True, "hard_swish", 2),
        Row(5, 960, 160, True, "hard_swish", 1),
        Row(5, 960, 160, True, "hard_swish", 1),
    ),
    "small": (
        Row(3, 16, 16, True, "relu", 2),
        Row(3, 72, 24, False, "relu", 2),
        Row(3, 88, 24, False, "relu", 1),
        Row(5, 96, 40, True, "hard_swish", 2),
        Row(5, 240, 40, True, "hard_swish", 1),
        Row(5, 240, 40, True, "hard_swish", 1),
        Row(5, 120, 48, True, "hard_swish", 1),
        Row(5, 144, 48, True, "hard_swish", 1),
        Row(5, 288, 96, True, "hard_swish", 2),
        Row(5, 576, 96, True, "hard_swish", 1),
        Row(5, 576, 96, True, "hard_swish", 1),
    ),
}
ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "hard_swish": F.hardswish}
EXTRA_BLOCK_FILTERS = ((256, 512), (128, 256), (128, 256), (64, 128))


class Settings(NamedTuple):
    """What the parts of a block share: learning rate multiplier, L2 coefficients, batch norm."""

    lr: float
    conv_decay: float
    norm_type: str
    norm_decay: float
    freeze_norm: bool

    def conv_attr(self) -> ParamAttr:
        return ParamAttr(learning_rate=self.lr, regularizer=L2Decay(self.conv_decay))


def divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than 10 % below `channels`, at least `divisor`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def blocks(model_name: str, multiplier: float) -> List[Row]:
    """The table's rows; `multiplier` scales the last stage's widths, from its first block's output on."""
    rows = list(BLOCKS[model_name])
    rows[-3] = rows[-3]._replace(out=int(rows[-3].out * multiplier))
    for i in (-2, -1):
        rows[i] = rows[i]._replace(expanded=int(rows[i].expanded * multiplier), out=int(rows[i].out * multiplier))
    return rows


class ConvNorm(nn.Layer):
    """Convolution without bias, batch norm, and an activation if one is named."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        settings: Settings,
        act: Optional[str] = None,
        stride: int = 1,
        groups: int = 1,
        padding: Union[int, str, None] = None,
    ):
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=(kernel_size - 1) // 2 if padding is None else padding,
            groups=groups,
            weight_attr=settings.conv_attr(),
            bias_attr=False,
        )
        s = settings
        self.bn = batch_norm(out_channels, s.norm_type, s.norm_decay, s.freeze_norm, s.lr)
        self.act = None if act is None else ACTIVATIONS[act]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.bn(self.conv(x))
        return x if self.act is None else self.act(x)


class SqueezeExcite(nn.Layer):
    """Channels scaled by a hard sigmoid (slope 0.2) of two 1x1 convolutions of their means."""

    def __init__(self, channels: int, settings: Settings, reduction: int = 4):
        super().__init__()

        def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2D:
            return nn.Conv2D(
                in_channels, out_channels, 1, weight_attr=settings.conv_attr(), bias_attr=settings.conv_attr()
            )

        self.conv1 = conv1x1(channels, channels // reduction)
        self.conv2 = conv1x1(channels // reduction, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        scale = self.conv2(F.relu(self.conv1(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(scale, slope=0.2, offset=0.5)


class InvertedResidual(nn.Layer):
    """1x1 expansion, depthwise convolution, squeeze-and-excite where the table says so, 1x1 projection."""

    def __init__(self, in_channels: int, row: Row, settings: Settings):
        super().__init__()
        wide = row.expanded
        self.adds = row.stride == 1 and in_channels == row.out
        self.expand_conv = ConvNorm(in_channels, wide, 1, settings, row.act)
        self.bottleneck_conv = ConvNorm(wide, wide, row.kernel_size, settings, row.act, row.stride, groups=wide)
        self.mid_se = SqueezeExcite(wide, settings) if row.squeezes else nn.Identity()
        self.linear_conv = ConvNorm(wide, row.out, 1, settings)

    def forward(self, x: paddle.Tensor):
        """[B, C, H, W] -> the expanded map [B, expanded, H, W] and the block's output."""
        expanded = self.expand_conv(x)
        out = self.linear_conv(self.mid_se(self.bottleneck_conv(expanded)))
        return expanded, x + out if self.adds else out


class ExtraBlock(nn.Layer):
    """SSDLite's additional stage of half the size: 1x1, depthwise 3x3 of stride 2, 1x1, each with ReLU6."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, settings: Settings):
        super().__init__()
        self.pointwise_conv = ConvNorm(in_channels, mid_channels, 1, settings, "relu6")
        self.depthwise_conv = ConvNorm(
            mid_channels, out_channels, 3, settings, "relu6", 2, groups=mid_channels, padding="SAME"
        )
        self.normal_conv = ConvNorm(out_channels, out_channels, 1, settings, "relu6")

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.normal_conv(self.depthwise_conv(self.pointwise_conv(x)))


@register
class MobileNetV3(nn.Layer):
    """MobileNetV3 that returns the maps whose layers' numbers are in `feature_maps`.

    Layers are numbered from 1, the stem; 2 is the first block. With `with_extra_blocks` a 1x1 expansion
    follows the last block, then a stride-2 block for each pair (middle, out) of `extra_block_filters`; and a
    block's map is then its expanded tensor (before the depthwise convolution), as SSDLite and PAFNet-lite
    take it. `scale` multiplies all widths. `lr_mult_list` holds the learning rate multipliers of the stem
    and of every three blocks, the last value serving the rest.
    """

    def __init__(
        self,
        scale: float = 1.0,
        model_name: Literal["large", "small"] = "large",
        feature_maps: Optional[Union[int, List[int]]] = None,
        with_extra_blocks: bool = False,
        extra_block_filters: Optional[List[List[int]]] = None,
        lr_mult_list: Optional[List[float]] = None,
        conv_decay: float = 0.0,
        multiplier: float = 1.0,
        norm_type: Shared[str] = "bn",
        norm_decay: float = 0.0,
        freeze_norm: bool = False,
    ):
        super().__init__()
        wanted = [6, 12, 15] if feature_maps is None else feature_maps
        self.feature_maps = [wanted] if isinstance(wanted, int) else list(wanted)
        self.takes_expanded = with_extra_blocks
        lr_mult_list = lr_mult_list or [1.0] * 5

        def settings(block: int) -> Settings:
            lr = lr_mult_list[min(block // 3, len(lr_mult_list) - 1)]
            return Settings(lr, conv_decay, norm_type, norm_decay, freeze_norm)

        self.numbers: List[int] = []  # of the layers after the stem; their names are conv<number>
        shapes: List[ShapeSpec] = []  # of the map that each layer after the stem would give

        def append(layer: nn.Layer, shape: ShapeSpec) -> None:
            self.numbers.append(len(self.numbers) + 2)
            self.add_sublayer(f"conv{self.numbers[-1]}", layer)
            shapes.append(shape)

        channels, stride = divisible(16 * scale), 2
        self.conv1 = ConvNorm(3, channels, 3, settings(0), "hard_swish", stride=2)
        for i, row in enumerate(blocks(model_name, multiplier)):
            row = row._replace(expanded=divisible(scale * row.expanded), out=divisible(scale * row.out))
            expanded, out = ShapeSpec(row.expanded, stride), ShapeSpec(row.out, stride * row.stride)
            append(InvertedResidual(channels, row, settings(i)), expanded if with_extra_blocks else out)
            channels, stride = out
        if with_extra_blocks:
            last = settings(len(self.numbers))
            append(ConvNorm(channels, row.expanded, 1, last, "hard_swish"), ShapeSpec(row.expanded, stride))
            channels = row.expanded
            for middle, out in EXTRA_BLOCK_FILTERS if extra_block_filters is None else extra_block_filters:
                stride *= 2
                append(ExtraBlock(channels, middle, out, last), ShapeSpec(out, stride))
                channels = out

        unknown = [i for i in self.feature_maps if not 2 <= i < len(shapes) + 2]
        if unknown:
            raise UserError(f"MobileNetV3: feature_maps {unknown} are not layers 2 to {len(shapes) + 1}")
        self.out_shape = [shapes[i - 2] for i in sorted(self.feature_maps)]

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the chosen maps, finest first."""
        x = self.conv1(image)
        feats = []
        for number in self.numbers:
            layer = getattr(self, f"conv{number}")
            if isinstance(layer, InvertedResidual):
                expanded, x = layer(x)
                taken = expanded if self.takes_expanded else x
            else:
                taken = x = layer(x)
            if number in self.feature_maps:
                feats.append(taken)
        return feats
