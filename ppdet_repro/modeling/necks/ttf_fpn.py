"""TTFNet's neck: from the coarsest map up to stride 4, a shortcut from the backbone joining at every step.

Source: Liu et al., "Training-Time-Friendly Network for Real-Time Object Detection", AAAI 2020, section 3.2;
the lite form: PAFNet, section 3.1 ("PAFNet-lite for mobile side").
"""

from __future__ import annotations

import math
from typing import List, Literal, Optional, Tuple

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Normal, Uniform, XavierUniform

from ppdet_repro.core.registry import Shared, Upstream, register
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.modeling.ttf_layers import ConvNorm, DeformConv, LiteConv, bias_attr
from ppdet_repro.utils.errors import UserError


def enlarge(x: paddle.Tensor) -> paddle.Tensor:
    """Twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


class Upsample(nn.Layer):
    """Deformable 3x3 convolution, batch norm, ReLU, twice the size."""

    def __init__(self, in_channels: int, out_channels: int, norm_type: str):
        super().__init__()
        bound = 1.0 / math.sqrt(9 * in_channels)
        weight = ParamAttr(initializer=Uniform(-bound, bound))
        self.dcn = DeformConv(in_channels, out_channels, weight, bias_attr())
        self.bn = batch_norm(out_channels, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return enlarge(F.relu(self.bn(self.dcn(x))))


class PlainUpsample(nn.Layer):
    """The same with an ordinary convolution."""

    def __init__(self, in_channels: int, out_channels: int, norm_type: str):
        super().__init__()
        self.conv = nn.Conv2D(in_channels, out_channels, 3, padding=1, bias_attr=False)
        self.bn = batch_norm(out_channels, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return enlarge(F.relu(self.bn(self.conv(x))))


class LiteUpsample(nn.Layer):
    """The sum of two ways to twice the size: a depthwise transposed convolution between two 1x1 convolutions,
    and a LiteConv enlarged."""

    def __init__(self, in_channels: int, out_channels: int, norm_type: str):
        super().__init__()
        transposed = nn.Conv2DTranspose(
            out_channels,
            out_channels,
            4,
            stride=2,
            padding=1,
            groups=out_channels,
            weight_attr=ParamAttr(initializer=XavierUniform()),
            bias_attr=False,
        )
        self.deconv = nn.Sequential(
            (
                "deconv",
                nn.Sequential(
                    ("conv1", ConvNorm(in_channels, out_channels, 1, norm_type)),
                    ("relu6_1", nn.ReLU6()),
                    ("conv2", transposed),
                    ("bn", batch_norm(out_channels, norm_type)),
                    ("relu6_2", nn.ReLU6()),
                    ("conv3", ConvNorm(out_channels, out_channels, 1, norm_type)),
                    ("relu6_3", nn.ReLU6()),
                ),
            )
        )
        self.conv = LiteConv(in_channels, out_channels, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.deconv(x) + enlarge(self.conv(x))


class Shortcut(nn.Layer):
    """`depth` convolutions on a map of the backbone, of unchanged size."""

    def __init__(self, index: int, layers: List[Tuple[str, nn.Layer]]):
        super().__init__()
        self.shortcut = nn.Sequential(*[(f"shortcut.{index}.{name}", layer) for name, layer in layers])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.shortcut(x)


def plain_convs(in_channels: int, channels: int, depth: int, norm_type: str) -> List[Tuple[str, nn.Layer]]:
    """3x3 convolutions with bias and a ReLU between two."""
    weight = ParamAttr(initializer=Normal(0.0, math.sqrt(2.0 / (9 * channels))))
    layers: List[Tuple[str, nn.Layer]] = []
    for i in range(depth):
        if i > 0:
            layers.append((f"conv.{i - 1}.act", nn.ReLU()))
        conv = nn.Conv2D(in_channels, channels, 3, padding=1, weight_attr=weight, bias_attr=bias_attr())
        layers.append((f"conv.{i}", conv))
        in_channels = channels
    return layers


def lite_convs(in_channels: int, channels: int, depth: int, norm_type: str) -> List[Tuple[str, nn.Layer]]:
    """LiteConvs, the last one without its activations 2 and 4, so that its values have a sign."""
    return [
        (f"conv.{i}", LiteConv(channels if i else in_channels, channels, norm_type, with_act=i < depth - 1))
        for i in range(depth)
    ]


def add(up: paddle.Tensor, shortcut: paddle.Tensor) -> paddle.Tensor:
    """Both [B, C, H, W] -> [B, C, H, W]."""
    return up + shortcut


def concat(up: paddle.Tensor, shortcut: paddle.Tensor) -> paddle.Tensor:
    """Both [B, C, H, W] -> [B, 2 C, H, W]."""
    return paddle.concat([up, shortcut], axis=1)


@register
class TTFFPN(nn.Layer):
    """One map of a fine stride from the backbone's maps (finest first).

    `planes` are the channels after each doubling; `shortcut_num` the convolutions of each shortcut, listed
    from the finest map (3, 2, 1: three on stride 4, one on stride 16); where it is shorter than `planes`, the
    last doublings have no shortcut. `lite_neck` takes PAFNet-lite's depthwise convolutions; `dcn_neck` false
    ordinary ones in place of the deformable (for CPUs, which train those slowly).
    """

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        planes: Optional[List[int]] = None,
        shortcut_num: Optional[List[int]] = None,
        norm_type: Shared[str] = "bn",
        lite_neck: bool = False,
        fusion_method: Literal["add", "concat"] = "add",
        dcn_neck: bool = True,
        strides: Upstream[Optional[List[int]]] = None,
    ):
        super().__init__()
        planes = planes or [256, 128, 64]
        depths = list(reversed([3, 2, 1] if shortcut_num is None else shortcut_num))
        if len(depths) > len(planes) or len(depths) >= len(in_channels):
            raise UserError(
                f"TTFFPN: {len(depths)} shortcuts (shortcut_num) need as many planes, not {len(planes)}, "
                f"and one more input map, not {len(in_channels)}"
            )
        upsample, convs = (Upsample if dcn_neck else PlainUpsample), plain_convs
        if lite_neck:
            upsample, convs = LiteUpsample, lite_convs
        widening = {"add": 1, "concat": 2}[fusion_method]
        self.fuse = {"add": add, "concat": concat}[fusion_method]
        self.upsample, self.shortcut = nn.LayerList(), nn.LayerList()
        channels, lateral = in_channels[-1], list(reversed(in_channels[:-1]))
        for i, plane in enumerate(planes):
            self.upsample.append(upsample(channels, plane, norm_type))
            channels = plane
            if i < len(depths):
                self.shortcut.append(Shortcut(i, convs(lateral[i], plane, depths[i], norm_type)))
                channels = plane * widening
        coarsest = strides[-1] if strides else 2 ** (len(in_channels) + 1)
        self.out_shape = [ShapeSpec(channels, coarsest // 2 ** len(planes))]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """Maps of the backbone, finest first -> [[B, C, H, W]], the one map."""
        x, lateral = feats[-1], feats[-2::-1]
        for i, upsample in enumerate(self.upsample):
            x = upsample(x)
            if i < len(self.shortcut):
                x = self.fuse(x, self.shortcut[i](lateral[i]))
        return [x]
