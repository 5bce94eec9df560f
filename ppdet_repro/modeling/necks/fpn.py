"""Feature pyramid: every level sees what the coarser ones see.

The parameter names are PaddleDetection's, so published detectors load.
Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017; the levels beyond the backbone's: Lin et
al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.
"""

from __future__ import annotations

from typing import List, Optional

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import XavierUniform

from ppdet_repro.core.registry import Upstream, register
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

LAST_STAGE = 5  # a backbone's last map is C5


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int, fan_out: int) -> nn.Conv2D:
    """Convolution with bias 0, weights uniform by Xavier's rule for `fan_out`."""
    return nn.Conv2D(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        weight_attr=ParamAttr(initializer=XavierUniform(fan_out=fan_out)),
    )


@register
class FPN(nn.Layer):
    """1x1 convolutions of the backbone's maps, each joined by the next coarser one enlarged twice, and a 3x3
    convolution of each sum; no norm.

    `extra_stage` further levels are 3x3 convolutions of stride 2 where `has_extra_convs` is true, the first of the
    backbone's last map (`use_c5`) or of the pyramid's, with a ReLU before each but the first
    (`relu_before_extra_convs`); else a single one is every second place of the last level. Each map of the backbone
    must be twice as high and wide as the next (pad images to a multiple of 32).
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
        first = LAST_STAGE + 1 - len(in_channels)
        scales = list(spatial_scales or [2.0**-stage for stage in range(first, LAST_STAGE + 1)])
        self.use_c5 = use_c5
        self.between = nn.ReLU() if relu_before_extra_convs else nn.Identity()
        fan = 9 * out_channel
        self.lateral_names, self.output_names, self.extra_names = [], [], []
        for stage, channels in enumerate(in_channels, first):
            name = "fpn_inner_res5_sum" if stage == LAST_STAGE else f"fpn_inner_res{stage}_sum_lateral"
            self.add_sublayer(name, conv(channels, out_channel, 1, 1, channels))
            self.lateral_names.append(name)
            self.add_sublayer(f"fpn_res{stage}_sum", conv(out_channel, out_channel, 3, 1, fan))
            self.output_names.append(f"fpn_res{stage}_sum")
        for i in range(extra_stage if has_extra_convs else 0):
            channels = in_channels[-1] if i == 0 and use_c5 else out_channel
            name = f"fpn_{LAST_STAGE + 1 + i}"
            self.add_sublayer(name, conv(channels, out_channel, 3, 2, fan))
            self.extra_names.append(name)
        self.pooled = extra_stage - len(self.extra_names)
        strides = [round(1 / scale) for scale in scales]
        strides += [strides[-1] * 2 ** (i + 1) for i in range(extra_stage)]
        self.out_shape = [ShapeSpec(out_channel, stride) for stride in strides]

    def forward(self, feats: List[paddle.Tensor]) -> List[paddle.Tensor]:
        """Maps of the backbone, finest first -> the levels, finest first."""
        sums = [getattr(self, name)(feat) for name, feat in zip(self.lateral_names, feats)]
        for i in reversed(range(len(sums) - 1)):
            sums[i] = sums[i] + F.interpolate(sums[i + 1], scale_factor=2.0, mode="nearest")
        levels = [getattr(self, name)(x) for name, x in zip(self.output_names, sums)]
        source = feats[-1] if self.use_c5 else levels[-1]
        for i, name in enumerate(self.extra_names):
            levels.append(getattr(self, name)(source if i == 0 else self.between(levels[-1])))
        for _ in range(self.pooled):
            levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        return levels
