"""Feature pyramid network: every level gets the information of the coarser ones.

Parameters have the names of PaddleDetection, so published detectors load.
Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017; the additional levels: Lin et al.,
"Focal Loss for Dense Object Detection", ICCV 2017, section 4.
"""

from __future__ import annotations

from typing import List, Optional

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import XavierUniform

from ppdet_repro.core.registry import Upstream, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import conv2d
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

LAST_STAGE = 5  # a backbone's last map is C5


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, fan_out: int) -> nn.Conv2D:
    """Convolution with a bias that starts at 0, and Xavier uniform initialization with the given `fan_out`."""
    attr = ParamAttr(initializer=XavierUniform(fan_out=fan_out))
    return conv2d(in_channels, out_channels, kernel_size, stride, weight_attr=attr, bias_attr=None)


def add_coarser(maps: List[paddle.Tensor]) -> List[paddle.Tensor]:
    """Add to each map the sum at the next coarser level, enlarged twice: maps, finest first -> as many sums.

    Each map must be twice as high and wide as the next one.
    """
    sums = [maps[-1]]
    for x in maps[-2::-1]:
        sums.append(x + F.interpolate(sums[-1], scale_factor=2.0, mode="nearest"))
    return sums[::-1]


@register
class FPN(nn.Layer):
    """1x1 convolutions of the backbone's maps are summed from coarse to fine; a 3x3 convolution follows each sum.

    Each map of the backbone must be twice as high and wide as the next (pad images to a multiple of 32).

    Args:
        in_channels: of the backbone's maps, finest first; the last one is C5
        out_channel: channels of all levels
        spatial_scales: reciprocals of the strides of the backbone's maps
        has_extra_convs: compute the additional levels by 3x3 convolutions with stride 2. Without it there can only be
            one, which takes every second location of the last level.
        extra_stage: number of additional levels
        use_c5: the first additional convolution reads C5 rather than the last level
        relu_before_extra_convs: apply ReLU before each additional convolution but the first
    """

    def __init__(
        self,
        in_channels: Upstream[List[int]],
        out_channel: int = 256,
        spatial_scales: Upstream[Optional[List[float]]] = None,
        has_extra_convs: bool = False,
        extra_stage: int = 1,
        use_c5: bool = True,
        relu_before_extra_convs: bool = True,
    ):
        super().__init__()
        if extra_stage > 1 and not has_extra_convs:
            raise UserError("FPN: extra_stage above 1 needs has_extra_convs: true")
        stages = range(LAST_STAGE + 1 - len(in_channels), LAST_STAGE + 1)
        strides = [round(1 / scale) for scale in spatial_scales or [2.0**-stage for stage in stages]]
        self.use_c5 = use_c5
        self.between = nn.ReLU() if relu_before_extra_convs else nn.Identity()
        fan = 9 * out_channel
        self.lateral_names = [f"fpn_inner_res{stage}_sum_lateral" for stage in stages[:-1]] + ["fpn_inner_res5_sum"]
        self.output_names = [f"fpn_res{stage}_sum" for stage in stages]
        self.extra_names = [f"fpn_{LAST_STAGE + 1 + i}" for i in range(extra_stage if has_extra_convs else 0)]
        for lateral, output, channels in zip(self.lateral_names, self.output_names, in_channels):
            self.add_sublayer(lateral, conv(channels, out_channel, 1, 1, channels))
            self.add_sublayer(output, conv(out_channel, out_channel, 3, 1, fan))
        for i, name in enumerate(self.extra_names):
            channels = in_channels[-1] if i == 0 and use_c5 else out_channel
            self.add_sublayer(name, conv(channels, out_channel, 3, 2, fan))
        self.pooled = extra_stage - len(self.extra_names)
        strides += [strides[-1] * 2 ** (i + 1) for i in range(extra_stage)]
        self.out_shape = [ShapeSpec(out_channel, stride) for stride in strides]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """The backbone's maps, finest first -> the levels, finest first."""
        sums = add_coarser([getattr(self, name)(feat) for name, feat in zip(self.lateral_names, feats)])
        levels = [getattr(self, name)(x) for name, x in zip(self.output_names, sums)]
        source = feats[-1] if self.use_c5 else levels[-1]
        for i, name in enumerate(self.extra_names):
            levels.append(getattr(self, name)(source if i == 0 else self.between(levels[-1])))
        for _ in range(self.pooled):
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return levels
