"""Which levels of a feature pyramid learn an object, and the weight of each level.

B images, G objects of an image, R objects of the batch, L levels, C channels of a level.
Source: SAPD, section 3.3; one level per object: Zhu et al., "Feature Selective Anchor-Free Module", CVPR 2019.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Normal
from paddle.vision.ops import roi_align

from ppdet_repro.core.registry import Part, Upstream, register
from ppdet_repro.modeling.assigners.anchor_point_assigner import NOBODY
from ppdet_repro.modeling.layers import batch_norm, conv3x3
from ppdet_repro.utils.errors import UserError

CROP = 7
SAMPLES = 2  # per side of a crop's cell
MOMENTUM, EPSILON = 0.99, 1e-3  # of batch norms; the BiFPN paper, section 4.2


class LevelShares(NamedTuple):
    """How the objects of a batch are shared among the levels."""

    top_k: int  # number of levels that learn an object
    weights: List[Tensor]  # per image [G, L]: weight of each level
    predicted: List[Tensor]  # per image [G, L]: the network's shares, for drawing; empty without a network
    logits: Optional[Tensor]  # [R, L] of the network, which learns from the best levels; None if nothing is learned


@register
class OneLevel(nn.Layer):
    """FSAF: the level with the smallest loss learns an object, at full weight. Nothing is learned."""

    def forward(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor], progress: Tensor) -> LevelShares:
        """See `SoftLevels.forward`; `progress` has no effect."""
        return LevelShares(1, [paddle.ones([len(b), len(pyramid)]) for b in boxes], [], None)

    def losses(self, shares: LevelShares, best: Sequence[Tensor]) -> Dict[str, Tensor]:
        """No losses."""
        return {}


def conv3x3_relu(in_channels: int, channels: int, norm_type: Optional[str]) -> nn.Sequential:
    """3x3 convolution without padding, ReLU; with a norm type, batch norm between them and no bias."""
    if norm_type is None:
        return nn.Sequential(conv3x3(in_channels, channels, padding=0), nn.ReLU())
    conv = conv3x3(in_channels, channels, bias=None, padding=0)
    return nn.Sequential(conv, batch_norm(channels, norm_type, momentum=MOMENTUM, epsilon=EPSILON), nn.ReLU())


@register
class FeatureSelectionNet(nn.Layer):
    """One logit per level from crops of all levels. SAPD, Table 1, and section 3.4 for the initialization.

    `norm_type` bn adds a batch norm after each convolution, as in table 1 of the BiFPN paper; SAPD's network has none.

    Args:
        channels: channels of the hidden convolutions
    """

    def __init__(self, in_channels: Upstream[List[int]], channels: int = 256, norm_type: Optional[str] = None):
        super().__init__()
        self.convs = nn.Sequential(
            *[conv3x3_relu(sum(in_channels) if i == 0 else channels, channels, norm_type) for i in range(CROP // 2)]
        )
        weight, bias = ParamAttr(initializer=Normal(0.0, 0.01)), ParamAttr(initializer=Constant(0.0))
        self.fc = nn.Linear(channels, len(in_channels), weight_attr=weight, bias_attr=bias)

    def forward(self, crops: Tensor) -> Tensor:
        """Crops [R, L*C, 7, 7] -> logits [R, L]."""
        return self.fc(self.convs(crops).flatten(1))  # 7 -> 5 -> 3 -> 1


@register
class SoftLevels(nn.Layer):
    """The `top_k` levels with the smallest losses learn an object, each weighted by the share that a network predicts.

    The network learns by cross entropy which level has the smallest loss. No gradient flows through the shares. Without
    any object in the batch the network does not run.

    Args:
        strides: Stride of each level in input pixels.
        net: From crops [R, L*C, 7, 7] to logits [R, L].
        top_k: How many levels learn an object.
        start: The progress of training (0 to 1) at which the shares take effect. Before it, and with 1 in the whole
            training, one level learns an object at full weight, while the network already learns.
        loss_weight: Weight of the cross entropy.
    """

    def __init__(
        self,
        strides: Upstream[List[int]],
        net: Part[nn.Layer] = "FeatureSelectionNet",
        top_k: int = 3,
        start: float = 0.5,
        loss_weight: float = 0.1,
    ):
        super().__init__()
        if not 1 <= top_k <= len(strides):
            raise UserError(f"SoftLevels: top_k {top_k} is not between 1 and the number of levels, {len(strides)}")
        self.strides = list(strides)
        self.net = net
        self.top_k = top_k
        self.start = start
        self.loss_weight = loss_weight

    def forward(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor], progress: Tensor) -> LevelShares:
        """Feature maps [B, C, H, W], finest first, xyxy input pixels [G, 4] per image, progress [1] -> shares."""
        levels, counts = len(pyramid), [len(b) for b in boxes]
        ones = [paddle.ones([count, levels]) for count in counts]
        if sum(counts) == 0:
            return LevelShares(1, ones, ones, None)
        logits = self.net(crop(pyramid, boxes, self.strides)).astype("float32")  # [R, L]
        shares = F.softmax(logits).detach()
        predicted = by_image(shares, counts)
        if progress.item() < self.start:
            return LevelShares(1, ones, predicted, logits)
        return LevelShares(self.top_k, predicted, predicted, logits)

    def losses(self, shares: LevelShares, best: Sequence[Tensor]) -> Dict[str, Tensor]:
        """`loss_select`, the weighted mean over all objects of the cross entropy of the logits.

        `best` holds the best level of each object [G] of each image; NOBODY for an object without points, which does
        not count.
        """
        if shares.logits is None:
            return {"loss_select": paddle.zeros([])}
        levels = paddle.concat([b for b in best if len(b)])  # [R]
        entropies = F.cross_entropy(shares.logits, levels, ignore_index=NOBODY, reduction="none")
        known = (levels >= 0).astype("float32").sum().clip(min=1.0)
        return {"loss_select": entropies.sum() / known * self.loss_weight}


def by_image(values: Tensor, counts: Sequence[int]) -> List[Tensor]:
    """Split the rows [R, L] of all objects into the images' [G, L]; `counts` are the objects per image."""
    ends = np.cumsum(counts).tolist()
    empty = paddle.zeros([0, values.shape[1]])
    return [values[end - count : end] if count else empty for count, end in zip(counts, ends)]


def crop(pyramid: Sequence[Tensor], boxes: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Crops of each box from all levels by RoIAlign, side by side: [R, L*C, 7, 7]. See `SoftLevels.forward`."""
    counts = paddle.to_tensor([len(b) for b in boxes], "int32")
    every = paddle.concat([b for b in boxes if len(b)])  # [R, 4]
    crops = [
        roi_align(level.astype("float32"), every, counts, CROP, 1.0 / stride, SAMPLES, aligned=True)
        for level, stride in zip(pyramid, strides)
    ]
    return paddle.concat(crops, axis=1)
