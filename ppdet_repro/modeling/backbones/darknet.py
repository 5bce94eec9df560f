"""DarkNet-53. Source: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, table 1.

Parameters have the names of PaddleDetection, so its ImageNet weights and detectors load.
"""

from __future__ import annotations

from functools import partial
from typing import List, Literal, Optional

import paddle
from paddle import nn

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.layers import Norm, batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.modeling.yolo_layers import conv_norm_act
from ppdet_repro.utils.errors import UserError

BLOCKS = {53: (1, 2, 8, 8, 4)}
WIDTHS = (64, 128, 256, 512, 1024)


def down_sample(in_channels: int, out_channels: int, norm: Norm) -> nn.Sequential:
    """3x3 convolution with stride 2."""
    return nn.Sequential(("conv_bn_layer", conv_norm_act(in_channels, out_channels, 3, norm, stride=2)))


class BasicBlock(nn.Layer):
    """Residual block: a 1x1 convolution to half of the channels, then a 3x3 convolution back to all."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.conv1 = conv_norm_act(channels, channels // 2, 1, norm)
        self.conv2 = conv_norm_act(channels // 2, channels, 3, norm)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.conv2(self.conv1(x))


class Stage(nn.Sequential):
    """`count` blocks of the same width, named `basicblock0`, `stage.<index>.1`, `stage.<index>.2`, ..."""

    def __init__(self, index: int, count: int, norm: Norm):
        names = ["basicblock0"] + [f"stage.{index}.{i}" for i in range(1, count)]
        super().__init__(*[(name, BasicBlock(WIDTHS[index], norm)) for name in names])


@register
class DarkNet(nn.Layer):
    """DarkNet-53.

    Args:
        freeze_at: stop the gradient at the output of this stage (-1: nowhere). As in PaddleDetection, batch norms
            before it still normalize by the batch and update their running statistics, and parameters before it still
            count as trainable.
        return_idx: the stages whose feature maps are returned, 0 to 4 (strides 2 to 32); by default the last three
        num_stages: build only the first stages
        norm_decay: L2 coefficient of the batch norms
        freeze_norm: all batch norms use their running statistics and compute no gradients
    """

    def __init__(
        self,
        depth: Literal[53] = 53,
        freeze_at: int = -1,
        return_idx: Optional[List[int]] = None,
        num_stages: int = 5,
        norm_type: Shared[str] = "bn",
        norm_decay: float = 0.0,
        freeze_norm: bool = False,
    ):
        super().__init__()
        self.return_idx = [2, 3, 4] if return_idx is None else list(return_idx)
        if any(not 0 <= i < num_stages for i in self.return_idx):
            raise UserError(f"DarkNet: return_idx {self.return_idx} names a stage outside 0..{num_stages - 1}")
        self.freeze_at = freeze_at
        norm = partial(batch_norm, norm_type=norm_type, decay=norm_decay, frozen=freeze_norm)
        self.conv0 = conv_norm_act(3, 32, 3, norm)
        self.downsample0 = down_sample(32, WIDTHS[0], norm)
        self.stage = nn.LayerList([Stage(i, BLOCKS[depth][i], norm) for i in range(num_stages)])
        for i in range(num_stages - 1):
            self.add_sublayer(f"stage.{i}.downsample", down_sample(WIDTHS[i], WIDTHS[i + 1], norm))
        self.out_shape = [ShapeSpec(WIDTHS[i], 2 ** (i + 1)) for i in self.return_idx]

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the feature maps of `return_idx`, finest first."""
        x = self.downsample0(self.conv0(image))
        feats = []
        for i, stage in enumerate(self.stage):
            if i > 0:
                x = getattr(self, f"stage.{i - 1}.downsample")(x)
            x = stage(x)
            if i == self.freeze_at:
                x = x.detach()
            if i in self.return_idx:
                feats.append(x)
        return feats
