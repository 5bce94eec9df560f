"""ResNet and ResNeXt, variants a to d, with deformable stages and squeeze-and-excitation.

Parameters have the names of PaddleDetection, so its ImageNet weights (SSLD included) and detectors load.
Source: He et al., CVPR 2016; "bag of tricks" variants c and d: He et al., CVPR 2019; ResNeXt: Xie et al., CVPR 2017.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, List, Literal, NamedTuple, Optional, Tuple, Union

import paddle
from paddle import ParamAttr, nn
from paddle.vision.ops import DeformConv2D

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import (
    Activation,
    ConvNorm,
    Norm,
    SqueezeExcitation,
    batch_norm,
    conv2d,
    deform,
    freeze,
    offset_conv,
)
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WIDTHS = (64, 128, 256, 512)


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    norm: Norm,
    lr: float,
    groups: int = 1,
    act: Optional[Activation] = F.relu,
    dilation: int = 1,
) -> ConvNorm:
    """Convolution without bias, batch norm, activation; `lr` is the factor on their learning rate."""
    attr = ParamAttr(learning_rate=lr)
    conv = conv2d(in_channels, out_channels, kernel_size, stride, groups, dilation, weight_attr=attr)
    return ConvNorm(conv, norm(out_channels, lr=lr), act)


class DeformConvNorm(ConvNorm):
    """`conv_norm` with a deformable convolution that has one group of offsets: DCN v2, or v1 if not `modulated`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        norm: Norm,
        lr: float,
        groups: int = 1,
        act: Optional[Activation] = F.relu,
        modulated: bool = True,
    ):
        attrs = {"weight_attr": ParamAttr(learning_rate=lr), "bias_attr": False}
        pad = (kernel_size - 1) // 2
        conv = DeformConv2D(in_channels, out_channels, kernel_size, stride, pad, groups=groups, **attrs)
        super().__init__(conv, norm(out_channels, lr=lr), act)
        self.conv_offset = offset_conv(in_channels, kernel_size, stride, modulated=modulated)
        self.modulated = modulated

    def convolve(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.modulated:
            return deform(x, self.conv_offset, self.conv)
        return F.by_paddle(self.conv, x, self.conv_offset(x))


def choose_conv3x3(dcn_v1: bool, dcn_v2: bool, dilated: bool) -> Callable[..., ConvNorm]:
    """What builds the 3x3 convolutions of a stage. A stage that is in both lists of deformable stages is DCN v2."""
    if dcn_v1 or dcn_v2:
        return partial(DeformConvNorm, modulated=dcn_v2)
    return partial(conv_norm, dilation=2 if dilated else 1)


class StageSettings(NamedTuple):
    """What the blocks of a stage share."""

    variant: str
    groups: int
    base_width: int
    norm: Norm
    lr: float  # factor on the learning rate
    conv3x3: Callable[..., ConvNorm]  # called like `conv_norm`
    squeezes: bool  # whether blocks have squeeze-and-excitation

    def excitation(self, channels: int) -> nn.Layer:
        """What scales the channels before the shortcut is added, if anything."""
        return SqueezeExcitation(channels) if self.squeezes else nn.Identity()


def shortcut(in_channels: int, out_channels: int, stride: int, stage: StageSettings) -> nn.Layer:
    """The projection in the first block of a stage. Variant d pools, then convolves with stride 1."""
    if stage.variant == "d" and stride == 2:
        return nn.Sequential(
            ("pool", nn.AvgPool2D(kernel_size=2, stride=2, padding=0, ceil_mode=True)),
            ("conv", conv_norm(in_channels, out_channels, 1, 1, stage.norm, stage.lr, act=None)),
        )
    return conv_norm(in_channels, out_channels, 1, stride, stage.norm, stage.lr, act=None)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions (ResNet-18 and -34). Only the second one may be deformable."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, projects: bool, stage: StageSettings):
        super().__init__()
        if stage.groups != 1 or stage.base_width != 64:
            raise UserError("ResNet: groups and base_width need bottleneck blocks, depth 50 or more")
        norm, lr = stage.norm, stage.lr
        self.short = shortcut(in_channels, width, stride, stage) if projects else nn.Identity()
        self.branch2a = conv_norm(in_channels, width, 3, stride, norm, lr)
        self.branch2b = stage.conv3x3(width, width, 3, 1, norm, lr, act=None)
        self.se = stage.excitation(width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.se(self.branch2b(self.branch2a(x))) + self.short(x))


class Bottleneck(nn.Layer):
    """1x1, 3x3 and 1x1 convolution. Variant a has the stride in the first one, the other variants in the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, projects: bool, stage: StageSettings):
        super().__init__()
        norm, lr = stage.norm, stage.lr
        first, middle = (stride, 1) if stage.variant == "a" else (1, stride)
        out_channels = width * self.expansion
        inner = int(width * stage.base_width / 64.0) * stage.groups
        self.short = shortcut(in_channels, out_channels, stride, stage) if projects else nn.Identity()
        self.branch2a = conv_norm(in_channels, inner, 1, first, norm, lr)
        self.branch2b = stage.conv3x3(inner, inner, 3, middle, norm, lr, groups=stage.groups)
        self.branch2c = conv_norm(inner, out_channels, 1, 1, norm, lr, act=None)
        self.se = stage.excitation(out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.se(self.branch2c(self.branch2b(self.branch2a(x)))) + self.short(x))


def make_stem(channels: int, variant: str, groups: int, norm: Norm) -> nn.Sequential:
    """The first convolutions, which halve the image: one 7x7, or three 3x3 in variants c and d."""
    half = channels // 2
    if variant in ("c", "d"):
        rows = [(3, half, 3, 2, "conv1_1"), (half, half, 3, 1, "conv1_2"), (half, channels, 3, 1, "conv1_3")]
    else:
        rows = [(3, channels, 7, 2, "conv1" if groups == 1 else "res_conv1")]
    return nn.Sequential(*[(name, conv_norm(c_in, c_out, k, s, norm, 1.0)) for c_in, c_out, k, s, name in rows])


def block_name(stage: int, count: int, index: int) -> str:
    """res2a, res2b, ...; in the long fourth stage of ResNet-101 and -152 res4a, res4b1, res4b2, ..."""
    if count > 10 and stage == 4:
        return "res4a" if index == 0 else f"res4b{index}"
    return f"res{stage}{chr(ord('a') + index)}"


def make_stage(
    depth: int, index: int, in_channels: int, width: int, stride: int, settings: StageSettings
) -> Tuple[nn.Sequential, int]:
    """The stage of that index, and its output channels."""
    block = Bottleneck if depth >= 50 else BasicBlock
    count, blocks = BLOCKS[depth][index], []
    for i in range(count):
        layer = block(in_channels, width, stride if i == 0 else 1, i == 0, settings)
        blocks.append((block_name(index + 2, count, i), layer))
        in_channels = width * block.expansion
    return nn.Sequential(*blocks), in_channels


@register
class ResNet(nn.Layer):
    """ResNet, or ResNeXt if `groups` is above 1. Stages are numbered from 0 to 3.

    Args:
        ch_in: channels of the stem
        variant: a has the stride in the first 1x1 convolution of a block, b in the 3x3; c replaces the 7x7 convolution
            of the stem by three 3x3; d also pools in the shortcuts
        lr_mult_list: factors on the learning rate, one per stage
        groups, base_width: of the 3x3 convolutions
        norm_decay: L2 coefficient of the batch norms
        freeze_norm: all batch norms use their running statistics and compute no gradients
        freeze_at: stop the gradients of the stem and of stages 0 to `freeze_at` (-1: of nothing)
        return_idx: the stages whose feature maps are returned, by default all
        dcn_v2_stages: stages with modulated deformable 3x3 convolutions in all blocks
        num_stages: build only the first stages
        width_mult: factor on all channels, for small models trained from scratch. No published weights fit them.
        dcn_v1_stages: stages with deformable 3x3 convolutions without a mask
        dilate_last: give the last stage stride 1 and dilation 2 (DC5, stride 16). The weights are the same.
        std_senet: add squeeze-and-excitation to every block
        freeze_stem_only: with `freeze_at` at 0 or above, stop the gradients of the stem alone
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
        std_senet: bool = False,
        freeze_stem_only: bool = False,
    ):
        super().__init__()
        ch_in, widths = int(ch_in * width_mult), [int(width * width_mult) for width in WIDTHS]
        lr_mult_list = lr_mult_list or [1.0] * 4
        if len(lr_mult_list) != 4:
            raise UserError(f"ResNet: lr_mult_list needs 4 values, one per stage, not {len(lr_mult_list)}")
        self.return_idx = stage_indices("return_idx", return_idx, list(range(num_stages)), num_stages)
        dcn_v1 = stage_indices("dcn_v1_stages", dcn_v1_stages, [], num_stages)
        dcn_v2 = stage_indices("dcn_v2_stages", dcn_v2_stages, [], num_stages)
        last = num_stages - 1
        if dilate_last and last in dcn_v1 + dcn_v2:
            raise UserError("ResNet: dilate_last and deformable convolutions in the last stage exclude each other")
        strides = [4 * 2**i for i in range(num_stages)]  # of the feature maps
        if dilate_last:
            strides[-1] //= 2
        norm = partial(batch_norm, norm_type=norm_type, decay=norm_decay, frozen=freeze_norm)

        self.conv1 = make_stem(ch_in, variant, groups, norm)
        self.stage_names = [f"res{i + 2}" for i in range(num_stages)]
        self.out_shape: List[ShapeSpec] = []
        channels = ch_in
        for i, lr in enumerate(lr_mult_list[:num_stages]):
            conv3x3 = choose_conv3x3(i in dcn_v1, i in dcn_v2, dilate_last and i == last)
            stride = strides[i] // strides[i - 1] if i else 1
            settings = StageSettings(variant, groups, base_width, norm, lr, conv3x3, std_senet)
            stage, channels = make_stage(depth, i, channels, widths[i], stride, settings)
            self.add_sublayer(self.stage_names[i], stage)
            if i in self.return_idx:
                self.out_shape.append(ShapeSpec(channels, strides[i]))

        if freeze_at >= 0:
            for name in ["conv1", *self.stage_names[: 0 if freeze_stem_only else freeze_at + 1]]:
                freeze(getattr(self, name))

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the feature maps of `return_idx`, finest first."""
        x = F.max_pool2d(self.conv1(image), kernel_size=3, stride=2, padding=1)
        feats = []
        for index, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if index in self.return_idx:
                feats.append(x)
        return feats


def stage_indices(key: str, value: Optional[Union[int, List[int]]], default: List[int], stages: int) -> List[int]:
    """A stage index or a list of them, as a list; -1 means no stage. UserError: a stage does not exist."""
    if value is None:
        return default
    indices = [value] if isinstance(value, int) else list(value)
    if any(i >= stages or i < -1 for i in indices):
        raise UserError(f"{key} {indices} names a stage outside 0..{stages - 1}")
    return [i for i in indices if i >= 0]
