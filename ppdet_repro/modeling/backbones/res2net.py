"""Res2Net and Res2NeXt. Source: Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", TPAMI 2021.

Parameters have the names of PaddleDetection, so its ImageNet weights and detectors load.
"""

from __future__ import annotations

from functools import partial
from typing import List, Literal, Optional, Union

import paddle
from paddle import nn

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.backbones.resnet import StageSettings, choose_conv3x3, conv_norm, make_stem, stage_indices
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.modeling.shape_spec import ShapeSpec
from ppdet_repro.utils.errors import UserError

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 12, 48, 3)}
WIDTHS = (256, 512, 1024, 2048)


class Block(nn.Layer):
    """1x1 convolution, 3x3 convolutions of `scales` - 1 of `scales` equal groups of channels, 1x1 convolution.

    In blocks with stride 1 each 3x3 convolution also sees the output of the one before; the last group is passed on.
    In blocks with stride 2 the last group is averaged over 3x3 windows.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        width: int,
        scales: int,
        stride: int,
        projects: bool,
        stage: StageSettings,
    ):
        super().__init__()
        norm, lr = stage.norm, stage.lr
        self.scales, self.stride = scales, stride
        self.branch1 = conv_norm(in_channels, channels, 1, stride, norm, lr, act=None) if projects else nn.Identity()
        self.branch2a = conv_norm(in_channels, width * scales, 1, 1, norm, lr)
        self.branch2b = nn.LayerList(
            [stage.conv3x3(width, width, 3, stride, norm, lr, groups=stage.groups) for _ in range(scales - 1)]
        )
        self.branch2c = conv_norm(width * scales, channels, 1, 1, norm, lr, act=None)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        *groups, last = paddle.split(self.branch2a(x), self.scales, axis=1)
        outs: List[paddle.Tensor] = []
        for conv, group in zip(self.branch2b, groups):
            outs.append(conv(group + outs[-1] if outs and self.stride == 1 else group))
        outs.append(last if self.stride == 1 else F.avg_pool2d(last, 3, self.stride, 1))
        return F.relu(self.branch2c(F.concat(outs, axis=1)) + self.branch1(x))


@register
class Res2Net(nn.Layer):
    """Res2Net, or Res2NeXt if `groups` is above 1. Stages are numbered from 0 to 3.

    Args:
        width: channels of a group in the first stage; every further stage has twice as many
        scales: groups of channels in a block
        variant: c and d have a stem of three 3x3 convolutions. As in PaddleDetection, blocks are the same in all
            variants.
        lr_mult_list: factors on the learning rate, one per stage
        groups: of the 3x3 convolutions
        norm_decay: L2 coefficient of the batch norms
        freeze_norm: all batch norms use their running statistics and compute no gradients
        freeze_at: stop the gradient at the output of this stage (-1: nowhere). As in PaddleDetection, parameters before
            it still count as trainable.
        return_idx: the stages whose feature maps are returned, by default all
        dcn_v2_stages: stages with modulated deformable 3x3 convolutions in all blocks
        num_stages: build only the first stages
    """

    def __init__(
        self,
        depth: Literal[50, 101, 152, 200] = 50,
        width: int = 26,
        scales: int = 4,
        variant: Literal["a", "b", "c", "d"] = "b",
        lr_mult_list: Optional[List[float]] = None,
        groups: int = 1,
        norm_type: Shared[str] = "bn",
        norm_decay: float = 0.0,
        freeze_norm: bool = True,
        freeze_at: int = 0,
        return_idx: Optional[Union[int, List[int]]] = None,
        dcn_v2_stages: Optional[Union[int, List[int]]] = None,
        num_stages: int = 4,
    ):
        super().__init__()
        lr_mult_list = lr_mult_list or [1.0] * 4
        if len(lr_mult_list) != 4:
            raise UserError(f"Res2Net: lr_mult_list needs 4 values, one per stage, not {len(lr_mult_list)}")
        self.freeze_at = freeze_at
        self.return_idx = stage_indices("return_idx", return_idx, list(range(num_stages)), num_stages)
        deformable = stage_indices("dcn_v2_stages", dcn_v2_stages, [], num_stages)
        norm = partial(batch_norm, norm_type=norm_type, decay=norm_decay, frozen=freeze_norm)
        self.res1 = make_stem(64, variant, 1, norm)
        self.stage_names = [f"res{i + 2}" for i in range(num_stages)]
        self.out_shape = [ShapeSpec(WIDTHS[i], 4 * 2**i) for i in self.return_idx]
        in_channels = 64
        for i, name in enumerate(self.stage_names):
            conv3x3 = choose_conv3x3(False, i in deformable, False)
            settings, blocks = StageSettings("b", groups, 64, norm, lr_mult_list[i], conv3x3, False), []
            for block in range(BLOCKS[depth][i]):
                stride = 2 if block == 0 and i > 0 else 1
                blocks.append(Block(in_channels, WIDTHS[i], width * 2**i, scales, stride, block == 0, settings))
                in_channels = WIDTHS[i]
            self.add_sublayer(name, nn.Sequential(("blocks", nn.Sequential(*blocks))))

    def forward(self, image: paddle.Tensor) -> List[paddle.Tensor]:
        """[B, 3, H, W] -> the feature maps of `return_idx`, finest first."""
        x = F.max_pool2d(self.res1(image), kernel_size=3, stride=2, padding=1)
        feats = []
        for i, name in enumerate(self.stage_names):
            x = getattr(self, name)(x)
            if i == self.freeze_at:
                x = x.detach()
            if i in self.return_idx:
                feats.append(x)
        return feats
