"""ResNet and ResNeXt, variants a to d, with deformable stages.

The parameter names are PaddleDetection's, so ImageNet weights (SSLD included) and published detectors load.
Source: He et al., CVPR 2016; "bag of tricks" variants c and d: He et al., CVPR 2019; ResNeXt: Xie et al., CVPR 2017.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, List, Literal, NamedTuple, Optional, Union

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.layers import batch_norm, deform, freeze, offset_conv
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)


class NormSettings(NamedTuple):
    """How the batch norms of a backbone are built (see `layers.batch_norm`)."""

    norm_type: str
    decay: Optional[float]
    frozen: bool


class ConvNorm(nn.Layer):
    """Convolution without bias, batch norm, and ReLU unless told otherwise."""

    conv_type = nn.Conv2D

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        norm: NormSettings,
        lr: float,
        groups: int = 1,
        relu: bool = True,
        dilation: int = 1,
    ):
        super().__init__()
        self.conv = self.conv_type(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            groups=groups,
            weight_attr=ParamAttr(learning_rate=lr),
            bias_attr=False,
        )
        self.norm = batch_norm(out_channels, norm.norm_type, norm.decay, norm.frozen, lr)
        self.act = F.relu if relu else None

    def convolve(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv(x)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(self.convolve(x))
        return x if self.act is None else self.act(x)


class DeformConvNorm(ConvNorm):
    """The same with a modulated deformable convolution (DCN v2); one deformable group."""

    conv_type = DeformConv2D

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, *args, **options):
        super().__init__(in_channels, out_channels, kernel_size, stride, *args, **options)
        self.conv_offset = offset_conv(in_channels, kernel_size, stride)

    def convolve(self, x: paddle.Tensor) -> paddle.Tensor:
        return deform(x, self.conv_offset, self.conv)


class DeformV1ConvNorm(ConvNorm):
    """The same without a mask (DCN v1)."""

    conv_type = DeformConv2D

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, *args, **options):
        super().__init__(in_channels, out_channels, kernel_size, stride, *args, **options)
        self.conv_offset = offset_conv(in_channels, kernel_size, stride, modulated=False)

    def convolve(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv(x, self.conv_offset(x))


def shortcut(in_channels: int, out_channels: int, stride: int, variant: str, norm: NormSettings, lr: float):
    """The projection of a stage's first block; variant d pools before a 1x1 convolution of stride 1."""
    if variant == "d" and stride == 2:
        return nn.Sequential(
            ("pool", nn.AvgPool2D(kernel_size=2, stride=2, padding=0, ceil_mode=True)),
            ("conv", ConvNorm(in_channels, out_channels, 1, 1, norm, lr, relu=False)),
        )
    return ConvNorm(in_channels, out_channels, 1, stride, norm, lr, relu=False)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions (ResNet-18 and -34), the second a `conv3x3`, which may be deformable."""

    expansion = 1

    def __init__(self, in_channels, width, stride, projects, variant, groups, base_width, norm, lr, conv3x3):
        super().__init__()
        if groups != 1 or base_width != 64:
            raise UserError("ResNet: groups and base_width need bottleneck blocks, depth 50 or more")
        self.short = shortcut(in_channels, width, stride, variant, norm, lr) if projects else nn.Identity()
        self.branch2a = ConvNorm(in_channels, width, 3, stride, norm, lr)
        self.branch2b = conv3x3(width, width, 3, 1, norm, lr, relu=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.branch2b(self.branch2a(x)) + self.short(x))


class Bottleneck(nn.Layer):
    """1x1, 3x3, 1x1 convolutions, the middle one a `conv3x3`; variant a strides in the first, the others in the 3x3."""

    expansion = 4

    def __init__(self, in_channels, width, stride, projects, variant, groups, base_width, norm, lr, conv3x3):
        super().__init__()
        first, middle = (stride, 1) if variant == "a" else (1, stride)
        out_channels = width * self.expansion
        inner = int(width * base_width / 64.0) * groups
        self.short = shortcut(in_channels, out_channels, stride, variant, norm, lr) if projects else nn.Identity()
        self.branch2a = ConvNorm(in_channels, inner, 1, first, norm, lr)
        self.branch2b = conv3x3(inner, inner, 3, middle, norm, lr, groups=groups)
        self.branch2c = ConvNorm(inner, out_channels, 1, 1, norm, lr, relu=False)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.branch2c(self.branch2b(self.branch2a(x))) + self.short(x))


def block_name(stage: int, count: int, index: int) -> str:
    """res2a, res2b, ...; the long fourth stage of ResNet-101 and -152 is res4a, res4b1, res4b2, ..."""
    if count > 10 and stage == 4:
        return "res4a" if index == 0 else f"res4b{index}"
    return f"res{stage}{chr(ord('a') + index)}"


@register
class ResNet(nn.Layer):
    """ResNet (ResNeXt with `groups` > 1) that returns the maps of the stages in `return_idx` (0 to 3).

    `freeze_at` n stops the gradients of the stem and of stages 0..n (-1: none); `freeze_norm` makes every
    batch norm use its running statistics and no gradient; stages in `dcn_v2_stages` have deformable 3x3
    convolutions in all blocks, those in `dcn_v1_stages` too, but without a mask; `lr_mult_list` multiplies the
    learning rate of each stage; `width_mult` multiplies all channels (for small models trained from scratch: no
    published weights fit); `dilate_last` gives the last stage stride 1 and dilation 2 in its `conv3x3` (DC5, stride
    16; the same weights).
    """

    def __init__(
        self,
        depth: Literal[18, 34, 50, 101, 152] = 50,
        ch_in: int = 64,
        variant: Literal["a", "b", "c", "d"] = "b",
        lr_mult_list: Optional[List[float]] = None,
        groups: int = 1,
        base_width: int = 64,
        norm_type: Shared[str] = "bn",
        norm_decay: float = 0.0,
        freeze_norm: bool = True,
        freeze_at: int = 0,
        return_idx: Optional[Union[int, List[int]]] = None,
        dcn_v2_stages: Optional[Union[int, List[int]]] = None,
        num_stages: int = 4,
        width_mult: float = 1.0,
        dcn_v1_stages: Optional[Union[int, List[int]]] = None,
        dilate_last: bool = False,
    ):
        super().__init__()
        ch_in, widths = int(ch_in * width_mult), [int(width * width_mult) for width in WIDTHS]
        lr_mult_list = lr_mult_list or [1.0] * 4
        if len(lr_mult_list) != 4:
            raise UserError(f"ResNet: lr_mult_list wants 4 values, one a stage, not {len(lr_mult_list)}")
        self.return_idx = stage_indices("return_idx", return_idx, list(range(num_stages)), num_stages)
        convolutions: List[Callable[..., ConvNorm]] = [ConvNorm] * num_stages
        strides = [4 * 2**i for i in range(num_stages)]  # of the stages' maps
        if dilate_last:
            convolutions[-1] = partial(ConvNorm, dilation=2)
            strides[-1] //= 2
        for index in stage_indices("dcn_v1_stages", dcn_v1_stages, [], num_stages):
            convolutions[index] = DeformV1ConvNorm
        for index in stage_indices("dcn_v2_stages", dcn_v2_stages, [], num_stages):
            convolutions[index] = DeformConvNorm
        if dilate_last and convolutions[-1] in (DeformConvNorm, DeformV1ConvNorm):
            raise UserError("ResNet: dilate_last and deformable convolutions in the last stage exclude each other")
        norm = NormSettings(norm_type, norm_decay, freeze_norm)
        block = Bottleneck if depth >= 50 else BasicBlock

        if variant in ("c", "d"):
            half = ch_in // 2
            stem = [(3, half, 3, 2, "conv1_1"), (half, half, 3, 1, "conv1_2"), (half, ch_in, 3, 1, "conv1_3")]
        else:
            stem = [(3, ch_in, 7, 2, "conv1" if groups == 1 else "res_conv1")]
        self.conv1 = nn.Sequential(
            *[(name, ConvNorm(c_in, c_out, k, stride, norm, 1.0)) for c_in, c_out, k, stride, name in stem]
        )

        self.stage_names, in_channels = [], ch_in
        for index in range(num_stages):
            stage, count, width = index + 2, BLOCKS[depth][index], widths[index]
            blocks = []
            for i in range(count):
                stride = strides[index] // strides[index - 1] if i == 0 and index else 1
                layer = block(
                    in_channels,
                    width,
                    stride,
                    i == 0,
                    variant,
                    groups,
                    base_width,
                    norm,
                    lr_mult_list[index],
                    convolutions[index],
                )
                blocks.append((block_name(stage, count, i), layer))
                in_channels = width * block.expansion
            self.add_sublayer(f"res{stage}", nn.Sequential(*blocks))
            self.stage_names.append(f"res{stage}")
        self.out_shape = [ShapeSpec(widths[i] * block.expansion, strides[i]) for i in self.return_idx]

        if freeze_at >= 0:
            freeze(self.conv1)
            for name in self.stage_names[: freeze_at + 1]:
                freeze(getattr(self, name))

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the chosen maps, finest first."""
        x = F.max_pool2d(self.conv1(image), kernel_size=3, stride=2, padding=1)
        feats = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.return_idx:
                feats.append(x)
        return feats


def stage_indices(key: str, value: Optional[Union[int, List[int]]], default: List[int], stages: int) -> List[int]:
    """A stage index or a list of them as a list; -1 means none. UserError if one is not below `stages`."""
    if value is None:
        return default
    indices = [value] if isinstance(value, int) else list(value)
    if any(i >= stages or i < -1 for i in indices):
        raise UserError(f"ResNet: {key} {indices} names a stage outside 0..{stages - 1}")
    return [i for i in indices if i >= 0]
