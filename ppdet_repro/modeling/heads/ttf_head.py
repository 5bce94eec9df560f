"""TTFNet's head: a heat map of object centres and the distances to the box's sides, at every fourth pixel.

B images, K classes, H, W the map, P places that regress.
Source: Liu et al., "Training-Time-Friendly Network for Real-Time Object Detection", AAAI 2020; PAFNet,
section 3.1.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Normal

from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment, WeightMap, cells, owners_of
from ppdet_repro.modeling.boxes import xyxy_from_distances
from ppdet_repro.modeling.losses.ags import ChannelSoftmaxAGS
from ppdet_repro.modeling.ttf_layers import DeformConv, LiteConv, bias_attr
from ppdet_repro.utils.errors import UserError

PRIOR = 0.01
CLIP = 1e-4
NamedLayers = List[Tuple[str, nn.Layer]]


class TTFOutputs(NamedTuple):
    """`logits` [B, K, H, W] of the heat map; `distances` [B, 4, H, W] to the left, top, right and bottom side
    in input pixels."""

    logits: paddle.Tensor
    distances: paddle.Tensor


class Conv(NamedTuple):
    """A kind of convolution: named layers from (name, in_channels, out_channels), and how the 1x1 convolution
    after them starts (None: Paddle's default)."""

    layers: Callable[[str, int, int], NamedLayers]
    head_weight: Optional[ParamAttr]


class Branch(nn.Layer):
    """`depth` convolutions of one kind, then a 1x1 convolution."""

    def __init__(self, in_channels: int, channels: int, depth: int, out_channels: int, conv: Conv, bias: float):
        super().__init__()
        layers: NamedLayers = []
        for i in range(depth):
            layers += conv.layers(f"conv.{i}", channels if i else in_channels, channels)
        self.feat = nn.Sequential(*layers)
        self.head = nn.Conv2D(
            channels if depth else in_channels, out_channels, 1, weight_attr=conv.head_weight, bias_attr=bias_attr(bias)
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.feat(x))


def normal() -> ParamAttr:
    return ParamAttr(initializer=Normal(0.0, 0.01))


def plain_conv(name: str, in_channels: int, channels: int) -> NamedLayers:
    """3x3 convolution with bias, ReLU."""
    conv = nn.Conv2D(in_channels, channels, 3, padding=1, weight_attr=normal(), bias_attr=bias_attr())
    return [(name, conv), (f"{name}.act", nn.ReLU())]


def deform_conv(name: str, in_channels: int, channels: int) -> NamedLayers:
    """Deformable 3x3 convolution without bias, ReLU."""
    return [(name, DeformConv(in_channels, channels, normal())), (f"{name}.act", nn.ReLU())]


def lite_conv(branch: str, norm_type: str) -> Callable[[str, int, int], NamedLayers]:
    """LiteConvs of the branch `hm` or `wh`, which end in an activation of their own."""

    def layers(name: str, in_channels: int, channels: int) -> NamedLayers:
        return [(f"{branch}.{name}", LiteConv(in_channels, channels, norm_type))]

    return layers


@register
class TTFHead(nn.Layer):
    """The two branches, their losses, and the mapping from distances to boxes.

    The heat map's branch has `hm_head_conv_num` convolutions of `hm_head_planes` channels, the other branch
    likewise; `dcn_head` makes them deformable, `lite_head` PAFNet-lite's depthwise ones. Distances are a ReLU
    times `wh_offset_base` pixels. `ags` reweights the regression (see `losses/ags.py`; none if left out).
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
        if lite_head:
            hm, wh = (Conv(lite_conv(branch, norm_type), None) for branch in ("hm", "wh"))
        else:
            hm = wh = Conv(deform_conv if dcn_head else plain_conv, normal())
        prior = -math.log((1 - PRIOR) / PRIOR)
        self.hm_head = Branch(in_channels, hm_head_planes, hm_head_conv_num, num_classes, hm, prior)
        self.wh_head = Branch(in_channels, wh_head_planes, wh_head_conv_num, 4, wh, 0.0)
        self.hm_loss = hm_loss
        self.wh_loss = wh_loss
        self.wh_offset_base = wh_offset_base
        self.down_ratio = down_ratio
        self.ags = ChannelSoftmaxAGS() if ags_module else ags

    def forward(self, feats: List[paddle.Tensor]) -> TTFOutputs:
        """[[B, C, H, W]] -> raw outputs."""
        return TTFOutputs(self.hm_head(feats[0]), F.relu(self.wh_head(feats[0])) * self.wh_offset_base)

    def losses(self, raw: TTFOutputs, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        """`hm_loss`, `wh_loss` and their sum `loss`.

        `batch` holds `ttf_heatmap` [B, K, H, W], `ttf_box_target` [B, 4, H, W] (xyxy input pixels),
        `ttf_reg_weight` [B, 1, H, W] and, where images were mixed, `ttf_score` [B, 1, H, W]. Boxes regress
        wherever the weight is positive; their loss is divided by the sum of the weights (+ 1e-4). Each
        process normalises by its own images, as in PaddleDetection.
        """
        logits, distances = raw.logits.astype("float32"), raw.distances.astype("float32")
        probabilities = F.sigmoid(logits).clip(CLIP, 1 - CLIP)
        hm_loss = self.hm_loss(probabilities, batch["ttf_heatmap"], batch.get("ttf_score", 1.0))
        weights = batch["ttf_reg_weight"].squeeze(1)  # [B, H, W]
        wh_loss = self.box_loss(logits, distances, batch["ttf_box_target"], weights)
        return {"loss": hm_loss + wh_loss, "hm_loss": hm_loss, "wh_loss": wh_loss}

    @paddle.no_grad()
    def assignment(self, raw: TTFOutputs, batch: Dict[str, Any]) -> List[Assignment]:
        """For each image the objects' centre cells, the heat map, the regression weights and AGS's factors.

        An object whose places all went to smaller ones is not among the objects.
        """
        weights = batch["ttf_reg_weight"].squeeze(1)  # [B, H, W]
        factors = paddle.zeros_like(weights)
        places = paddle.nonzero(weights > 0)
        if self.ags is not None and places.shape[0]:
            targets = batch["ttf_box_target"].transpose([0, 2, 3, 1]).gather_nd(places)
            factor = self.ags(raw.logits.astype("float32"), places, targets)
            factors = paddle.scatter_nd(places, factor, factors.shape)
        maps = batch["ttf_heatmap"], batch["ttf_box_target"], weights, factors
        return [self.describe(*(t[i].numpy() for t in maps)) for i in range(weights.shape[0])]

    def describe(self, heatmap, targets, weights, factors) -> Assignment:
        """One image's heat map [K, H, W], target boxes [4, H, W], weights and AGS factors [H, W]."""
        objects = np.unique(targets[:, weights > 0].T, axis=0)  # [G, 4]
        centres = np.argwhere((heatmap == 1).any(axis=0))  # [n, 2]: y, x
        owners = owners_of(targets[:, centres[:, 0], centres[:, 1]].T, objects)
        shown = [WeightMap("heat map", heatmap.max(axis=0)), WeightMap("regression weight", weights)]
        if self.ags is not None:
            shown.append(WeightMap("AGS factor of the GIoU", factors))
        return Assignment(objects, [AssignedBoxes("positive cells", cells(centres, self.down_ratio), owners)], shown)

    def box_loss(self, logits, distances, targets, weights) -> paddle.Tensor:
        """Logits [B, K, H, W], distances and target boxes [B, 4, H, W], weights [B, H, W] -> a scalar."""
        places = paddle.nonzero(weights > 0)  # [P, 3]: image, y, x
        if places.shape[0] == 0:
            return distances.sum() * 0.0
        weight = weights.gather_nd(places)  # [P]
        distances, targets = (
            maps.transpose([0, 2, 3, 1]).gather_nd(places) for maps in (distances, targets)
        )  # [P, 4] each
        points = (places[:, 2:0:-1] * self.down_ratio).astype("float32")  # [P, 2]: x, y
        factor = 1.0 if self.ags is None else self.ags(logits, places, targets)
        loss = self.wh_loss(xyxy_from_distances(points, distances), targets, weight, factor)
        return loss / (weights.sum() + 1e-4)
