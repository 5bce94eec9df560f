"""MobileNetV3, large and small.

Parameters have the names of PaddleDetection, so its ImageNet weights (SSLD included) and detectors load.
Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, tables 1 and 2.
"""

from __future__ import annotations

from functools import partial
from typing import List, Literal, NamedTuple, Optional, Tuple, Union

import paddle
from paddle import ParamAttr, nn
from paddle.regularizer import L2Decay

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import ACTIVATIONS, ConvNorm, Norm, batch_norm, conv2d
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError


class Row(NamedTuple):
    """A block of the paper's tables."""

    kernel_size: int
    expanded: int
    out: int
    squeezes: bool  # whether it has squeeze-and-excite
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
EXTRA_BLOCK_FILTERS = ((256, 512), (128, 256), (128, 256), (64, 128))


class Settings(NamedTuple):
    """What the layers of a block share."""

    lr: float  # factor on the learning rate
    conv_decay: float  # L2 coefficient of the convolutions
    norm: Norm

    def conv_attr(self) -> ParamAttr:
        return ParamAttr(learning_rate=self.lr, regularizer=L2Decay(self.conv_decay))


def divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor` (at least `divisor`) that is at most 10 % lower."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def blocks(model_name: str, multiplier: float) -> List[Row]:
    """The table's rows. `multiplier` scales the channels of the last stage, from the output of its first block on."""
    rows = list(BLOCKS[model_name])
    rows[-3] = rows[-3]._replace(out=int(rows[-3].out * multiplier))
    for i in (-2, -1):
        rows[i] = rows[i]._replace(expanded=int(rows[i].expanded * multiplier), out=int(rows[i].out * multiplier))
    return rows


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    settings: Settings,
    act: Optional[str] = None,
    stride: int = 1,
    groups: int = 1,
    padding: Optional[str] = None,
) -> ConvNorm:
    """Convolution without bias, batch norm, and the activation of that name, if any."""
    attr = settings.conv_attr()
    conv = conv2d(in_channels, out_channels, kernel_size, stride, groups, padding=padding, weight_attr=attr)
    norm = settings.norm(out_channels, lr=settings.lr)
    return ConvNorm(conv, norm, None if act is None else ACTIVATIONS[act], ("conv", "bn"))


class SqueezeExcite(nn.Layer):
    """Scale each channel by a hard sigmoid (slope 0.2) of two 1x1 convolutions of the channels' means."""

    def __init__(self, channels: int, settings: Settings):
        super().__init__()
        attr = settings.conv_attr()
        self.conv1 = conv2d(channels, channels // 4, 1, weight_attr=attr, bias_attr=attr)
        self.conv2 = conv2d(channels // 4, channels, 1, weight_attr=attr, bias_attr=attr)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        scale = self.conv2(F.relu(self.conv1(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(scale, slope=0.2, offset=0.5)


class InvertedResidual(nn.Layer):
    """1x1 expansion, depthwise convolution, squeeze-and-excite if the table says so, 1x1 projection.

    The input is added where it has the output's shape.
    """

    def __init__(self, in_channels: int, row: Row, settings: Settings):
        super().__init__()
        wide = row.expanded
        self.adds = row.stride == 1 and in_channels == row.out
        self.expand_conv = conv_norm(in_channels, wide, 1, settings, row.act)
        self.bottleneck_conv = conv_norm(wide, wide, row.kernel_size, settings, row.act, row.stride, groups=wide)
        self.mid_se = SqueezeExcite(wide, settings) if row.squeezes else nn.Identity()
        self.linear_conv = conv_norm(wide, row.out, 1, settings)

    def forward(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """[B, C, H, W] -> the expanded map [B, expanded, H, W] and the block's output."""
        expanded = self.expand_conv(x)
        out = self.linear_conv(self.mid_se(self.bottleneck_conv(expanded)))
        return expanded, x + out if self.adds else out


class ExtraBlock(nn.Layer):
    """Additional stage of SSDLite, which halves the map: 1x1, depthwise 3x3 with stride 2, 1x1, each with ReLU6."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, settings: Settings):
        super().__init__()
        self.pointwise_conv = conv_norm(in_channels, mid_channels, 1, settings, "relu6")
        self.depthwise_conv = conv_norm(
            mid_channels, out_channels, 3, settings, "relu6", 2, groups=mid_channels, padding="SAME"
        )
        self.normal_conv = conv_norm(out_channels, out_channels, 1, settings, "relu6")

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.normal_conv(self.depthwise_conv(self.pointwise_conv(x)))


@register
class MobileNetV3(nn.Layer):
    """MobileNetV3.

    The layers are numbered from 1, the stem; 2 is the first block.

    Args:
        scale: factor on all channels
        feature_maps: the numbers of the layers whose feature maps are returned, by default 6, 12 and 15
        with_extra_blocks: append a 1x1 expansion, then an `ExtraBlock` for each of `extra_block_filters`. Blocks then
            return their expanded map, before the depthwise convolution, as SSDLite and PAFNet-lite use it.
        extra_block_filters: middle and output channels of each extra block
        lr_mult_list: factors on the learning rate of the stem and the first three blocks, of the next three blocks, and
            so on; the last one counts for all that follow
        conv_decay: L2 coefficient of the convolutions
        multiplier: factor on the channels of the last stage
        norm_decay: L2 coefficient of the batch norms
        freeze_norm: all batch norms use their running statistics and compute no gradients
        model_name: large or small
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
        lr_mult_list = lr_mult_list or [1.0]
        norm = partial(batch_norm, norm_type=norm_type, decay=norm_decay, frozen=freeze_norm)

        def settings(block: int) -> Settings:
            return Settings(lr_mult_list[min(block // 3, len(lr_mult_list) - 1)], conv_decay, norm)

        self.numbers: List[int] = []  # of the layers after the stem; they are called conv<number>
        shapes: List[ShapeSpec] = []  # of the feature maps of the layers after the stem

        def append(layer: nn.Layer, shape: ShapeSpec) -> None:
            self.numbers.append(len(self.numbers) + 2)
            self.add_sublayer(f"conv{self.numbers[-1]}", layer)
            shapes.append(shape)

        channels, stride = divisible(16 * scale), 2
        self.conv1 = conv_norm(3, channels, 3, settings(0), "hard_swish", stride=2)
        for i, row in enumerate(blocks(model_name, multiplier)):
            row = row._replace(expanded=divisible(scale * row.expanded), out=divisible(scale * row.out))
            expanded, projected = ShapeSpec(row.expanded, stride), ShapeSpec(row.out, stride * row.stride)
            append(InvertedResidual(channels, row, settings(i)), expanded if with_extra_blocks else projected)
            channels, stride = projected
        if with_extra_blocks:
            last = settings(len(self.numbers))
            append(conv_norm(channels, row.expanded, 1, last, "hard_swish"), ShapeSpec(row.expanded, stride))
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
        """[B, 3, H, W] -> the feature maps of `feature_maps`, finest first."""
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
