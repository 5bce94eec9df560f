"""HRNet. Source: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2021.

Parameters have the names of PaddleDetection, so its ImageNet weights and detectors load.
"""

from __future__ import annotations

from functools import partial
from typing import List, Literal, Optional, Sequence, Union

import paddle
from paddle import ParamAttr, nn
from paddle.nn.initializer import Normal

from ppdet_repro.core.registry import register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.layers import Activation, ConvNorm, Norm, SqueezeExcitation, batch_norm, conv2d
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

MODULES = (1, 4, 3)  # of the stages 2 to 4
BLOCKS = 4  # of a branch of a module

Maps = List[paddle.Tensor]


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: Norm,
    stride: int = 1,
    act: Optional[Activation] = F.relu,
) -> ConvNorm:
    """Convolution without bias, batch norm, activation."""
    attr = ParamAttr(initializer=Normal(0.0, 0.01))
    return ConvNorm(conv2d(in_channels, out_channels, kernel_size, stride, weight_attr=attr), norm(out_channels), act)


def excitation(channels: int, has_se: bool) -> nn.Layer:
    """What scales the channels of a block before the shortcut is added, if anything."""
    return SqueezeExcitation(channels, ("squeeze", "excitation")) if has_se else nn.Identity()


class Bottleneck(nn.Layer):
    """1x1, 3x3 and 1x1 convolution to 256 channels, with a projection in the shortcut if the input has others."""

    def __init__(self, in_channels: int, norm: Norm, has_se: bool):
        super().__init__()
        self.conv1 = conv_norm(in_channels, 64, 1, norm)
        self.conv2 = conv_norm(64, 64, 3, norm)
        self.conv3 = conv_norm(64, 256, 1, norm, act=None)
        self.conv_down = nn.Identity() if in_channels == 256 else conv_norm(in_channels, 256, 1, norm, act=None)
        self.se = excitation(256, has_se)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.conv_down(x) + self.se(self.conv3(self.conv2(self.conv1(x)))))


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions."""

    def __init__(self, channels: int, norm: Norm, has_se: bool):
        super().__init__()
        self.conv1 = conv_norm(channels, channels, 3, norm)
        self.conv2 = conv_norm(channels, channels, 3, norm, act=None)
        self.se = excitation(channels, has_se)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(x + self.se(self.conv2(self.conv1(x))))


class Transition(nn.Layer):
    """To the branches of the next stage: its new branch halves the last map; the others change channels if needed."""

    def __init__(self, name: str, before: Sequence[int], channels: Sequence[int], norm: Norm):
        super().__init__()
        self.names: List[Optional[str]] = []  # of the layer of each branch
        for i, wanted in enumerate(channels):
            given, stride = (before[i], 1) if i < len(before) else (before[-1], 2)
            changes = stride == 2 or given != wanted
            self.names.append(f"transition_{name}_layer_{i + 1}" if changes else None)
            if changes:
                self.add_sublayer(self.names[-1], conv_norm(given, wanted, 3, norm, stride))

    def forward(self, maps: Maps) -> Maps:
        """Maps of the branches, finest first -> those of the next stage."""
        sources = maps + maps[-1:] * (len(self.names) - len(maps))
        return [x if name is None else getattr(self, name)(x) for name, x in zip(self.names, sources)]


class Branches(nn.Layer):
    """Blocks on every map, which do not see the other maps."""

    def __init__(self, name: str, channels: Sequence[int], norm: Norm, has_se: bool):
        super().__init__()
        self.names = [
            [f"bb_{name}_branch_layer_{i}_{j + 1}" for j in range(BLOCKS)] for i in range(1, len(channels) + 1)
        ]
        for names, width in zip(self.names, channels):
            for block in names:
                self.add_sublayer(block, BasicBlock(width, norm, has_se))

    def forward(self, maps: Maps) -> Maps:
        """[B, C, H, W] per branch -> the same shapes."""
        outs = []
        for names, x in zip(self.names, maps):
            for block in names:
                x = getattr(self, block)(x)
            outs.append(x)
        return outs


class Fusion(nn.Layer):
    """The first `outputs` maps, each plus all others, which are enlarged (nearest neighbors) or halved repeatedly."""

    def __init__(self, name: str, channels: Sequence[int], outputs: int, norm: Norm):
        super().__init__()
        self.name, self.outputs = name, outputs
        for i in range(outputs):
            for j, width in enumerate(channels):
                names = self.path(i, j)
                for k, layer in enumerate(names, 1):
                    if j > i:
                        conv = conv_norm(width, channels[i], 1, norm, act=None)
                    elif k < len(names):
                        conv = conv_norm(width, width, 3, norm, stride=2)
                    else:
                        conv = conv_norm(width, channels[i], 3, norm, stride=2, act=None)
                    self.add_sublayer(layer, conv)

    def path(self, i: int, j: int) -> List[str]:
        """The names of the layers from map j to map i."""
        prefix = f"residual_{self.name}_layer_{i + 1}_{j + 1}"
        return [prefix] if j > i else [f"{prefix}_{k}" for k in range(1, i - j + 1)]

    def forward(self, maps: Maps) -> Maps:
        """[B, C, H, W] per branch, finest first -> the first `outputs` of them."""
        outs = []
        for i in range(self.outputs):
            total = maps[i]
            for j, x in enumerate(maps):
                for layer in self.path(i, j):
                    x = getattr(self, layer)(x)
                if j > i:
                    x = F.interpolate(x, scale_factor=float(2 ** (j - i)))
                if j != i:
                    total = total + x
            outs.append(F.relu(total))
        return outs


def make_stage(
    name: str, channels: Sequence[int], modules: int, outputs: int, norm: Norm, has_se: bool
) -> nn.Sequential:
    """Modules of branches and their fusion. The last one gives the first `outputs` maps."""
    layers = []
    for i in range(1, modules + 1):
        own = f"{name}_{i}"
        branches = Branches(own, channels, norm, has_se)
        fusion = Fusion(own, channels, outputs if i == modules else len(channels), norm)
        layers.append((f"stage_{own}", nn.Sequential(("branches_func", branches), ("fuse_func", fusion))))
    return nn.Sequential(*layers)


@register
class HRNet(nn.Layer):
    """HRNet, whose maps of strides 4 to 32 are computed side by side.

    Args:
        width: channels of the finest map; every coarser one has twice as many
        has_se: add squeeze-and-excitation to every block
        freeze_at: stop the gradient at this map, 0 to 3 (-1: nowhere). As in PaddleDetection, it is the finest by
            default, and the other maps still train the same layers.
        freeze_norm: all batch norms use their running statistics and compute no gradients
        norm_momentum: the share of the old running statistics that an update keeps
        norm_decay: L2 coefficient of the batch norms
        return_idx: the maps that are returned, by default all; [0] alone has fewer layers
        upsample, downsample: PaddleDetection's keys for other tasks; only false is accepted
    """

    def __init__(
        self,
        width: Literal[18, 30, 32, 40, 44, 48, 60, 64] = 18,
        has_se: bool = False,
        freeze_at: int = 0,
        freeze_norm: bool = True,
        norm_momentum: float = 0.9,
        norm_decay: float = 0.0,
        return_idx: Optional[Union[int, List[int]]] = None,
        upsample: Literal[False] = False,
        downsample: Literal[False] = False,
    ):
        super().__init__()
        wanted = [0, 1, 2, 3] if return_idx is None else return_idx
        self.return_idx = [wanted] if isinstance(wanted, int) else list(wanted)
        outputs = 4 if len(self.return_idx) > 1 else 1
        if not self.return_idx or any(not 0 <= i < outputs for i in self.return_idx):
            raise UserError(f"HRNet: return_idx {self.return_idx} is neither [0] nor several of 0..3")
        self.freeze_at = freeze_at
        widths = [width * 2**i for i in range(4)]
        self.out_shape = [ShapeSpec(widths[i], 4 * 2**i) for i in self.return_idx]
        norm = partial(batch_norm, decay=norm_decay, frozen=freeze_norm, momentum=norm_momentum)
        self.conv_layer1_1 = conv_norm(3, 64, 3, norm, stride=2)
        self.conv_layer1_2 = conv_norm(64, 64, 3, norm, stride=2)
        blocks = [(f"block_layer2_{i + 1}", Bottleneck(64 if i == 0 else 256, norm, has_se)) for i in range(4)]
        self.la1 = nn.Sequential(*blocks)
        before = [256]
        for i, modules in enumerate(MODULES):
            channels = widths[: i + 2]
            self.add_sublayer(f"tr{i + 1}", Transition(f"tr{i + 1}", before, channels, norm))
            last = outputs if i == 2 else len(channels)
            self.add_sublayer(f"st{i + 2}", make_stage(f"st{i + 2}", channels, modules, last, norm, has_se))
            before = channels

    def forward(self, image: paddle.Tensor) -> Maps:
        """[B, 3, H, W] -> the maps of `return_idx`, finest first."""
        maps = [self.la1(self.conv_layer1_2(self.conv_layer1_1(image)))]
        for i in range(len(MODULES)):
            maps = getattr(self, f"st{i + 2}")(getattr(self, f"tr{i + 1}")(maps))
        return [maps[i].detach() if i == self.freeze_at else maps[i] for i in self.return_idx]
