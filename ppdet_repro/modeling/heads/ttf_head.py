"""TTFNet's head: a heat map of object centers and the distances to the sides of the boxes, at stride 4.

B images, K classes, H, W size of the map, P locations that regress.
Source: Liu et al., "Training-Time-Friendly Network for Real-Time Object Detection", AAAI 2020; PAFNet,
section 3.1.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import paddle
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Normal

from ppdet_repro.core.contract import Batch, Losses
from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment, WeightMap, cells, owners_of
from ppdet_repro.modeling.boxes import xyxy_from_distances
from ppdet_repro.modeling.layers import prior_bias
from ppdet_repro.modeling.losses.ags import ChannelSoftmaxAGS
from ppdet_repro.modeling.losses.ctfocal_loss import positive_weights
from ppdet_repro.modeling.ttf_layers import DeformConv, LiteConv, bias_attr
from ppdet_repro.utils.errors import UserError

PRIOR = 0.01
CLIP = 1e-4
NamedLayers = List[Tuple[str, nn.Layer]]
Conv = Callable[[str, int, int], NamedLayers]  # name, in_channels, out_channels
Weight = Optional[ParamAttr]


class TTFOutputs(NamedTuple):
    """The two maps."""

    logits: Tensor  # [B, K, H, W], of the heat map
    distances: Tensor  # [B, 4, H, W] to the left, top, right and bottom side, in input pixels


class Branch(nn.Layer):
    """`depth` convolutions of one kind, then a 1x1 convolution with these weights (None: Paddle's default) and bias."""

    def __init__(
        self, in_channels: int, channels: int, depth: int, conv: Conv, width: int, weight: Weight, bias: float
    ):
        super().__init__()
        inputs = [in_channels] + [channels] * depth
        self.feat = nn.Sequential(*sum((conv(f"conv.{i}", inputs[i], channels) for i in range(depth)), []))
        self.head = nn.Conv2D(inputs[-1], width, 1, weight_attr=weight, bias_attr=bias_attr(bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.feat(x))


def normal() -> Weight:
    return ParamAttr(initializer=Normal(0.0, 0.01))


def plain_conv(name: str, in_channels: int, channels: int) -> NamedLayers:
    """3x3 convolution with bias, ReLU."""
    conv = nn.Conv2D(in_channels, channels, 3, padding=1, weight_attr=normal(), bias_attr=bias_attr())
    return [(name, conv), (f"{name}.act", nn.ReLU())]


def deform_conv(name: str, in_channels: int, channels: int) -> NamedLayers:
    """Deformable 3x3 convolution without bias, ReLU."""
    return [(name, DeformConv(in_channels, channels, normal())), (f"{name}.act", nn.ReLU())]


def lite_conv(branch: str, norm_type: str, name: str, in_channels: int, channels: int) -> NamedLayers:
    """A `LiteConv`, which ends with an activation, of the branch `hm` or `wh`."""
    return [(f"{branch}.{name}", LiteConv(in_channels, channels, norm_type))]


@register
class TTFHead(nn.Layer):
    """The two branches, their losses, and the mapping from distances to boxes.

    Args:
        hm_head_planes, wh_head_planes: Channels of the branches of the heat map and of the distances.
        hm_head_conv_num, wh_head_conv_num: Number of convolutions of these branches.
        hm_loss, wh_loss: The losses of the heat map (see `CTFocalLoss`) and of the boxes (see `GIoULoss`).
        wh_offset_base: Distances are the ReLU of the branch's output times this number of pixels.
        down_ratio: Stride of the maps in input pixels.
        dcn_head: Use deformable convolutions.
        lite_head: Use the depthwise convolutions of PAFNet-lite.
        ags_module: Use PaddleDetection's form of AGS (`ChannelSoftmaxAGS`).
        ags: Weights of the regression; see `losses/ags.py`. None: no AGS.
    """

    def __init__(
        self,
        in_channels: Upstream[int],
        num_classes: Shared[int] = 80,
        hm_head_planes: int = 128,
        wh_head_planes: int = 64,
        hm_head_conv_num: int = 2,
        wh_head_conv_num: int = 2,
        hm_loss: Part[nn.Layer] = "CTFocalLoss",
        wh_loss: Part[nn.Layer] = "GIoULoss",
        wh_offset_base: float = 16.0,
        down_ratio: Shared[int] = 4,
        dcn_head: bool = False,
        lite_head: bool = False,
        norm_type: Shared[str] = "bn",
        ags_module: bool = False,
        ags: Optional[Part[Any]] = None,
    ):
        super().__init__()
        if lite_head and dcn_head:
            raise UserError("TTFHead: lite_head and dcn_head exclude each other")
        if ags_module and ags is not None:
            raise UserError("TTFHead: ags_module (PaddleDetection's) and ags exclude each other")
        if wh_loss.reduction != "sum":
            raise UserError("TTFHead: wh_loss needs reduction: sum, it is divided by the sum of the weights")
        hm: Conv = deform_conv if dcn_head else plain_conv
        wh, weight, prior = hm, normal(), prior_bias(PRIOR)
        if lite_head:
            hm, wh, weight = partial(lite_conv, "hm", norm_type), partial(lite_conv, "wh", norm_type), None
        self.hm_head = Branch(in_channels, hm_head_planes, hm_head_conv_num, hm, num_classes, weight, prior)
        self.wh_head = Branch(in_channels, wh_head_planes, wh_head_conv_num, wh, 4, weight, 0.0)
        self.hm_loss, self.wh_loss = hm_loss, wh_loss
        self.wh_offset_base = wh_offset_base
        self.down_ratio = down_ratio
        self.ags = ChannelSoftmaxAGS() if ags_module else ags

    def forward(self, feats: List[Tensor]) -> TTFOutputs:
        """One feature map [B, C, H, W] in a list -> raw outputs."""
        distances = F.relu(self.wh_head(feats[0]))
        factor = self.wh_offset_base
        return TTFOutputs(self.hm_head(feats[0]), distances if factor == 1 else distances * factor)

    def losses(self, raw: TTFOutputs, batch: Batch) -> Losses:
        """`hm_loss`, `wh_loss` and their sum `loss`.

        `batch` holds the targets of `Gt2TTFTarget`. Boxes regress wherever the weight is positive. The heat map's loss
        is divided by the number of positives (weighted by `ttf_score`, where images were mixed), at least 1; the boxes'
        by the sum of the weights, + 1e-4. Each process normalizes by its own images, as in PaddleDetection.
        """
        logits, distances = raw.logits.astype("float32"), raw.distances.astype("float32")
        probabilities = F.sigmoid(logits).clip(CLIP, 1 - CLIP)
        heatmap, weights = batch["ttf_heatmap"], batch["ttf_reg_weight"].squeeze(1)  # [B, K, H, W], [B, H, W]
        positives = positive_weights(heatmap, batch.get("ttf_score", 1.0))
        hm_loss = self.hm_loss(probabilities, heatmap, positives, normalizer=positives.sum().clip(min=1.0))
        wh_loss = self.box_loss(logits, distances, batch["ttf_box_target"], weights, normalizer=weights.sum() + 1e-4)
        return {"loss": hm_loss + wh_loss, "hm_loss": hm_loss, "wh_loss": wh_loss}

    @paddle.no_grad()
    def assignment(self, raw: TTFOutputs, batch: Batch) -> List[Assignment]:
        """The center cells of each image's objects, the heat map, the regression weights and the factors of AGS.

        An object is missing if all its locations belong to smaller objects.
        """
        weights = batch["ttf_reg_weight"].squeeze(1)  # [B, H, W]
        factors = paddle.zeros_like(weights)
        locations = paddle.nonzero(weights > 0)
        if self.ags is not None and locations.shape[0]:
            targets = batch["ttf_box_target"].transpose([0, 2, 3, 1]).gather_nd(locations)
            factor = self.ags(raw.logits.astype("float32"), locations, targets)
            factors = paddle.scatter_nd(locations, factor, factors.shape)
        maps = batch["ttf_heatmap"], batch["ttf_box_target"], weights, factors
        return [self.describe(*(t[i].numpy() for t in maps)) for i in range(weights.shape[0])]

    def describe(
        self, heatmap: np.ndarray, targets: np.ndarray, weights: np.ndarray, factors: np.ndarray
    ) -> Assignment:
        """From one image's heat map [K, H, W], target boxes [4, H, W], weights and factors of AGS [H, W]."""
        objects = np.unique(targets[:, weights > 0].T, axis=0)  # [G, 4]
        centers = np.argwhere((heatmap == 1).any(axis=0))  # [n, 2]: y, x
        owners = owners_of(targets[:, centers[:, 0], centers[:, 1]].T, objects)
        shown = [WeightMap("heat map", heatmap.max(axis=0)), WeightMap("regression weight", weights)]
        if self.ags is not None:
            shown.append(WeightMap("AGS factor of the GIoU", factors))
        return Assignment(objects, [AssignedBoxes("positive cells", cells(centers, self.down_ratio), owners)], shown)

    def box_loss(
        self, logits: Tensor, distances: Tensor, targets: Tensor, weights: Tensor, normalizer: Tensor
    ) -> Tensor:
        """The weighted sum over the locations with a positive weight, divided by the normalizer, as a scalar.

        Logits are the heat map's [B, K, H, W], distances [B, 4, H, W], targets xyxy boxes in input pixels [B, 4, H, W],
        weights [B, H, W].
        """
        locations = paddle.nonzero(weights > 0)  # [P, 3]: image, y, x
        if locations.shape[0] == 0:
            return distances.sum() * 0.0
        weight = weights.gather_nd(locations)  # [P]
        distances, targets = (t.transpose([0, 2, 3, 1]).gather_nd(locations) for t in (distances, targets))  # [P, 4]
        points = (locations[:, 2:0:-1] * self.down_ratio).astype("float32")  # [P, 2]: x, y
        factor: Union[Tensor, float] = 1.0 if self.ags is None else self.ags(logits, locations, targets)
        return self.wh_loss(xyxy_from_distances(points, distances), targets, weight, factor) / normalizer
