"""DarkNet-53. Source: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, table 1.

The parameter names are PaddleDetection's, so its ImageNet weights and detectors load.
"""

from __future__ import annotations

from typing import List, Literal, NamedTuple, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

BLOCKS = {53: (1, 2, 8, 8, 4)}
WIDTHS = (64, 128, 256, 512, 1024)


class Norm(NamedTuple):
    """How the batch norms are built (see `layers.batch_norm`)."""

    norm_type: str
    decay: Optional[float]
    frozen: bool


class ConvNorm(nn.Layer):
    """Convolution without bias, batch norm, leaky ReLU of slope 0.1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, norm: Norm):
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2D(in_channels, out_channels, kernel_size, stride, padding, bias_attr=False)
        self.batch_norm = batch_norm(out_channels, *norm)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.leaky_relu(self.batch_norm(self.conv(x)), 0.1)


class DownSample(nn.Layer):
    """3x3 convolution of stride 2."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm):
        super().__init__()
        self.conv_bn_layer = ConvNorm(in_channels, out_channels, 3, 2, norm)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv_bn_layer(x)


class BasicBlock(nn.Layer):
    """Residual block: 1x1 convolution to half the channels, 3x3 back."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.conv1 = ConvNorm(channels, channels // 2, 1, 1, norm)
        self.conv2 = ConvNorm(channels // 2, channels, 3, 1, norm)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.conv2(self.conv1(x))


class Stage(nn.Sequential):
    """`count` blocks of one width: `basicblock0`, then `stage.<index>.1`, `stage.<index>.2`, ..."""

    def __init__(self, index: int, count: int, norm: Norm):
        names = ["basicblock0"] + [f"stage.{index}.{i}" for i in range(1, count)]
        super().__init__(*[(name, BasicBlock(WIDTHS[index], norm)) for name in names])


@register
class DarkNet(nn.Layer):
    """DarkNet that returns the maps of the stages in `return_idx` (0 to 4, strides 2 to 32).

    `freeze_at` n cuts the gradient at the output of stage n (-1: nowhere). The batch norms before the cut
    still normalise by the batch and move their running statistics, and the parameters still count as
    trainable: PaddleDetection's behaviour. `freeze_norm` makes every batch norm use its running statistics.
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
        norm = Norm(norm_type, norm_decay, freeze_norm)
        self.conv0 = ConvNorm(3, 32, 3, 1, norm)
        self.downsample0 = DownSample(32, WIDTHS[0], norm)
        self.stage = nn.LayerList([Stage(i, BLOCKS[depth][i], norm) for i in range(num_stages)])
        for i in range(num_stages - 1):
            self.add_sublayer(f"stage.{i}.downsample", DownSample(WIDTHS[i], WIDTHS[i + 1], norm))
        self.out_shape = [ShapeSpec(WIDTHS[i], 2 ** (i + 1)) for i in self.return_idx]

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the chosen maps, finest first."""
        x = self.downsample0(self.conv0(image))
        feats = []
        for i, stage in enumerate(self.stage):
            if i > 0:
                x = self._sub_layers[f"stage.{i - 1}.downsample"](x)
            x = stage(x)
            if i == self.freeze_at:
                x = x.detach()
            if i in self.return_idx:
                feats.append(x)
        return feats
