"""MobileNet (V1). Source: Howard et al., "MobileNets", 2017, table 1.

Parameters have the names of PaddleDetection, so its ImageNet weights (SSLD included) and detectors load.
"""

from __future__ import annotations

from functools import partial
from typing import List, Optional, Union

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import KaimingNormal
from paddle.regularizer import L2Decay

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling.layers import ACTIVATIONS, ConvNorm, Norm, batch_norm, conv2d
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

BLOCKS = (  # name, output channels, stride
    ("conv2_1", 64, 1),
    ("conv2_2", 128, 2),
    ("conv3_1", 128, 1),
    ("conv3_2", 256, 2),
    ("conv4_1", 256, 1),
    ("conv4_2", 512, 2),
    *((f"conv5_{i}", 512, 1) for i in range(1, 6)),
    ("conv5_6", 1024, 2),
    ("conv6", 1024, 1),
)
EXTRA_BLOCK_FILTERS = ((256, 512), (128, 256), (128, 256), (64, 128))


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    attr: ParamAttr,
    norm: Norm,
    act: str = "relu",
    stride: int = 1,
    groups: int = 1,
) -> ConvNorm:
    """Convolution without bias, whose weight has the attributes `attr`, batch norm, and the activation of that name."""
    conv = conv2d(in_channels, out_channels, kernel_size, stride, groups, weight_attr=attr)
    return ConvNorm(conv, norm(out_channels), ACTIVATIONS[act], ("_conv", "_batch_norm"))


@register
class MobileNet(nn.Layer):
    """MobileNet: a stem, then 13 blocks of a depthwise 3x3 and a 1x1 convolution.

    Args:
        norm_decay: L2 coefficient of the batch norms
        conv_decay: L2 coefficient of the convolutions
        scale: factor on all channels of the stem and the blocks
        conv_learning_rate: factor on the learning rate of the convolutions
        feature_maps: the numbers of the blocks, from 1, whose feature maps are returned, by default 4, 6 and 13
        with_extra_blocks: append blocks 14, 15, ... of a 1x1 and a 3x3 convolution with stride 2, as SSD uses them
        extra_block_filters: middle and output channels of each extra block
    """

    def __init__(
        self,
        norm_type: Shared[str] = "bn",
        norm_decay: float = 0.0,
        conv_decay: float = 0.0,
        scale: float = 1.0,
        conv_learning_rate: float = 1.0,
        feature_maps: Optional[Union[int, List[int]]] = None,
        with_extra_blocks: bool = False,
        extra_block_filters: Optional[List[List[int]]] = None,
    ):
        super().__init__()
        wanted = [4, 6, 13] if feature_maps is None else feature_maps
        self.feature_maps = [wanted] if isinstance(wanted, int) else list(wanted)
        attr = ParamAttr(initializer=KaimingNormal(), learning_rate=conv_learning_rate, regularizer=L2Decay(conv_decay))
        norm = partial(batch_norm, norm_type=norm_type, decay=norm_decay)
        conv = partial(conv_norm, attr=attr, norm=norm)

        channels, stride = int(32 * scale), 2
        self.conv1 = conv(3, channels, 3, stride=2)
        shapes: List[ShapeSpec] = []
        self.block_names: List[str] = []

        def append(name: str, block: nn.Layer) -> None:
            self.add_sublayer(name, block)
            self.block_names.append(name)
            shapes.append(ShapeSpec(channels, stride))

        for name, out, step in BLOCKS:
            depthwise = conv(channels, channels, 3, stride=step, groups=channels)
            pointwise = conv(channels, int(out * scale), 1)
            channels, stride = int(out * scale), stride * step
            append(name, nn.Sequential(("_depthwise_conv", depthwise), ("_pointwise_conv", pointwise)))
        extra = EXTRA_BLOCK_FILTERS if extra_block_filters is None else extra_block_filters
        for i, (middle, out) in enumerate(extra if with_extra_blocks else (), 1):
            narrow = conv(channels, middle, 1, act="relu6")
            halve = conv(middle, out, 3, act="relu6", stride=2)
            channels, stride = out, stride * 2
            append(f"conv7_{i}", nn.Sequential(("pointwise_conv", narrow), ("normal_conv", halve)))

        unknown = [i for i in self.feature_maps if not 1 <= i <= len(shapes)]
        if unknown:
            raise UserError(f"MobileNet: feature_maps {unknown} are not blocks 1 to {len(shapes)}")
        self.out_shape = [shapes[i - 1] for i in sorted(self.feature_maps)]

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the feature maps of `feature_maps`, finest first."""
        x = self.conv1(image)
        feats = []
        for number, name in enumerate(self.block_names, 1):
            x = getattr(self, name)(x)
            if number in self.feature_maps:
                feats.append(x)
        return feats
