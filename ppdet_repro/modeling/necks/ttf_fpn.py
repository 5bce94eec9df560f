"""The neck of TTFNet: the coarsest map is upsampled to stride 4; shortcuts from the backbone join at every step.

Source: Liu et al., "Training-Time-Friendly Network for Real-Time Object Detection", AAAI 2020, section 3.2;
the lite form: PAFNet, section 3.1 ("PAFNet-lite for mobile side").
"""

from __future__ import annotations

import math
from typing import Callable, List, Literal, Optional, Tuple

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Normal, Uniform, XavierUniform

from ppdet_repro.core.registry import Shared, Upstream, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import ConvNorm, batch_norm, conv2d
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.modeling.ttf_layers import DeformConv, LiteConv, bias_attr, conv_norm
from ppdet_repro.utils.errors import UserError


def enlarge(x: paddle.Tensor) -> paddle.Tensor:
    """Twice the height and width, bilinear."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


class Upsample(ConvNorm):
    """Convolution, batch norm, activation, then twice the height and width."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = getattr(self, self.names[1])(self.convolve(x))  # not super().forward(x), which Paddle cannot trace
        return enlarge(x if self.act is None else self.act(x))


def deformable_upsample(in_channels: int, out_channels: int, norm_type: str) -> Upsample:
    """`Upsample` with a deformable 3x3 convolution."""
    bound = 1.0 / math.sqrt(9 * in_channels)
    weight = ParamAttr(initializer=Uniform(-bound, bound))
    conv = DeformConv(in_channels, out_channels, weight, bias_attr())
    return Upsample(conv, batch_norm(out_channels, norm_type), F.relu, ("dcn", "bn"))


def plain_upsample(in_channels: int, out_channels: int, norm_type: str) -> Upsample:
    """`Upsample` with an ordinary 3x3 convolution."""
    conv = conv2d(in_channels, out_channels, 3)
    return Upsample(conv, batch_norm(out_channels, norm_type), F.relu, ("conv", "bn"))


class LiteUpsample(nn.Layer):
    """The sum of two branches that double the height and width.

    One has a depthwise transposed convolution between two 1x1 convolutions, the other an enlarged `LiteConv`.
    """

    def __init__(self, in_channels: int, out_channels: int, norm_type: str):
        super().__init__()
        attrs = {"weight_attr": ParamAttr(initializer=XavierUniform()), "bias_attr": False}
        transposed = nn.Conv2DTranspose(out_channels, out_channels, 4, 2, padding=1, groups=out_channels, **attrs)
        branch = nn.Sequential(
            ("conv1", conv_norm(in_channels, out_channels, 1, norm_type)),
            ("relu6_1", nn.ReLU6()),
            ("conv2", transposed),
            ("bn", batch_norm(out_channels, norm_type)),
            ("relu6_2", nn.ReLU6()),
            ("conv3", conv_norm(out_channels, out_channels, 1, norm_type)),
            ("relu6_3", nn.ReLU6()),
        )
        self.deconv = nn.Sequential(("deconv", branch))
        self.conv = LiteConv(in_channels, out_channels, norm_type)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.deconv(x) + enlarge(self.conv(x))


def plain_convs(in_channels: int, channels: int, depth: int, norm_type: str) -> List[Tuple[str, nn.Layer]]:
    """`depth` 3x3 convolutions with bias, with a ReLU between each two."""
    weight = ParamAttr(initializer=Normal(0.0, math.sqrt(2.0 / (9 * channels))))
    layers: List[Tuple[str, nn.Layer]] = []
    for i in range(depth):
        if i > 0:
            layers.append((f"conv.{i - 1}.act", nn.ReLU()))
        conv = conv2d(in_channels, channels, 3, weight_attr=weight, bias_attr=bias_attr())
        layers.append((f"conv.{i}", conv))
        in_channels = channels
    return layers


def lite_convs(in_channels: int, channels: int, depth: int, norm_type: str) -> List[Tuple[str, nn.Layer]]:
    """`depth` LiteConvs. The last one lacks its second and fourth activation, so that its output can be negative."""
    return [
        (f"conv.{i}", LiteConv(channels if i else in_channels, channels, norm_type, with_act=i < depth - 1))
        for i in range(depth)
    ]


@register
class TTFFPN(nn.Layer):
    """One map of a fine stride from the backbone's maps.

    Args:
        in_channels: of the backbone's maps, finest first
        planes: channels after each doubling of the map's size
        shortcut_num: the number of convolutions in each shortcut, starting with the finest map: (3, 2, 1) are three
            convolutions at stride 4 and one at stride 16. If it is shorter than `planes`, the last doublings have no
            shortcut.
        lite_neck: use the depthwise convolutions of PAFNet-lite
        fusion_method: add the shortcut to the upsampled map, or concatenate them
        dcn_neck: use deformable convolutions; ordinary ones train faster on CPUs
        strides: of the backbone's maps
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
        upsample: Callable[[int, int, str], nn.Layer] = deformable_upsample if dcn_neck else plain_upsample
        convs = plain_convs
        if lite_neck:
            upsample, convs = LiteUpsample, lite_convs
        self.concatenates = fusion_method == "concat"
        self.upsample, self.shortcut = nn.LayerList(), nn.LayerList()
        channels, lateral = in_channels[-1], list(reversed(in_channels[:-1]))
        for i, plane in enumerate(planes):
            self.upsample.append(upsample(channels, plane, norm_type))
            channels = plane
            if i < len(depths):
                layers = convs(lateral[i], plane, depths[i], norm_type)
                named = nn.Sequential(*[(f"shortcut.{i}.{name}", layer) for name, layer in layers])
                self.shortcut.append(nn.Sequential(("shortcut", named)))
                channels = 2 * plane if self.concatenates else plane
        coarsest = strides[-1] if strides else 2 ** (len(in_channels) + 1)
        self.out_shape = [ShapeSpec(channels, coarsest // 2 ** len(planes))]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """The backbone's maps, finest first -> a list with the one map [B, C, H, W]."""
        x, lateral = feats[-1], feats[-2::-1]
        for i, upsample in enumerate(self.upsample):
            x = upsample(x)
            if i < len(self.shortcut):
                side = self.shortcut[i](lateral[i])
                x = F.concat([x, side], axis=1) if self.concatenates else x + side
        return [x]
