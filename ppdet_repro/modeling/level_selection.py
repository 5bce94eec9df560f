"""Which levels of a feature pyramid learn an object, and how much each of them counts.

B images, G objects of an image, R objects of the batch, L levels, C channels of a level.
Source: SAPD, section 3.3; one level an object: Zhu et al., "Feature Selective Anchor-Free Module", CVPR 2019.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal
from paddle.vision.ops import roi_align

from ppdet_repro.core.registry import Part, Upstream, register
from ppdet_repro.modeling.assigners.anchor_point_assigner import NOBODY
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.utils.errors import UserError

CROP = 7
SAMPLES = 2  # a side of a crop's cell
MOMENTUM, EPSILON = 0.99, 1e-3  # of batch norms; the BiFPN paper, section 4.2


class LevelShares(NamedTuple):
    """`top_k`: the number of levels that learn an object now; `weights` [G, L] of each image: what each counts;
    `predicted` [G, L] of each image: the shares that a network sees, for pictures (none without one); `logits` [R, L]
    that learn from the best levels (None if nothing does)."""

    top_k: int
    weights: List[paddle.Tensor]
    predicted: List[paddle.Tensor]
    logits: Optional[paddle.Tensor]


@register
class OneLevel(nn.Layer):
    """FSAF: the level of least loss alone, at full weight; nothing is learned."""

    def forward(
        self, pyramid: Sequence[paddle.Tensor], boxes: Sequence[paddle.Tensor], progress: paddle.Tensor
    ) -> LevelShares:
        """Maps [B, C, H, W], finest first; xyxy boxes [G, 4] of each image; `progress` [1] does not matter."""
        return LevelShares(1, [paddle.ones([len(b), len(pyramid)]) for b in boxes], [], None)

    def losses(self, shares: LevelShares, best: Sequence[paddle.Tensor]) -> Dict[str, paddle.Tensor]:
        """None."""
        return {}


def conv3x3_relu(in_channels: int, channels: int, norm_type: Optional[str]) -> nn.Sequential:
    """3x3 convolution without padding, batch norm if one is named (the convolution then has no bias), ReLU."""
    attributes = _normal()
    if norm_type is None:
        return nn.Sequential(nn.Conv2D(in_channels, channels, 3, **attributes), nn.ReLU())
    conv = nn.Conv2D(in_channels, channels, 3, weight_attr=attributes["weight_attr"], bias_attr=False)
    return nn.Sequential(conv, batch_norm(channels, norm_type, momentum=MOMENTUM, epsilon=EPSILON), nn.ReLU())


def _normal() -> Dict[str, ParamAttr]:
    """Weights from N(0, 0.01), biases 0. SAPD, section 3.4."""
    return {"weight_attr": ParamAttr(initializer=Normal(0.0, 0.01)), "bias_attr": ParamAttr(initializer=Constant(0.0))}


@register
class FeatureSelectionNet(nn.Layer):
    """From what all levels show of an object to a logit a level. SAPD, Table 1.

    `norm_type` bn adds a batch norm after each convolution, as the BiFPN paper's table 1 has it; SAPD's has none.
    """

    def __init__(self, in_channels: Upstream[List[int]], channels: int = 256, norm_type: Optional[str] = None):
        super().__init__()
        self.convs = nn.Sequential(
            *[conv3x3_relu(sum(in_channels) if i == 0 else channels, channels, norm_type) for i in range(CROP // 2)]
        )
        self.fc = nn.Linear(channels, len(in_channels), **_normal())

    def forward(self, crops: paddle.Tensor) -> paddle.Tensor:
        """[R, L*C, 7, 7] -> [R, L]."""
        return self.fc(self.convs(crops).flatten(1))  # 7 -> 5 -> 3 -> 1


@register
class SoftLevels(nn.Layer):
    """The `top_k` levels of least loss, each with the share that a network predicts for it.

    The network `net`(crops [R, L*C, 7, 7]) -> [R, L] learns which level has the least loss, by cross entropy times
    `loss_weight`; the shares themselves get no gradient. Before `start` (progress of the training, 0
    to 1; with 1 throughout) objects are learned on one level alone at full weight, while the network already learns.
    Without any object the network does not run.
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

    def forward(
        self, pyramid: Sequence[paddle.Tensor], boxes: Sequence[paddle.Tensor], progress: paddle.Tensor
    ) -> LevelShares:
        """Maps [B, C, H, W], finest first; xyxy boxes [G, 4] of each image; `progress` [1] from 0 to 1."""
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

    def losses(self, shares: LevelShares, best: Sequence[paddle.Tensor]) -> Dict[str, paddle.Tensor]:
        """`loss_select`: how well the logits foresee the `best` [G] levels of each image (negative: an object without
        points, left out), the mean over objects."""
        if shares.logits is None:
            return {"loss_select": paddle.zeros([])}
        levels = paddle.concat([b for b in best if len(b)])  # [R]
        entropies = F.cross_entropy(shares.logits, levels, ignore_index=NOBODY, reduction="none")
        known = (levels >= 0).astype("float32").sum().clip(min=1.0)
        return {"loss_select": entropies.sum() / known * self.loss_weight}


def by_image(values: paddle.Tensor, counts: Sequence[int]) -> List[paddle.Tensor]:
    """[R, L] of all objects as [G, L] of each image's `counts`."""
    ends = np.cumsum(counts).tolist()
    empty = paddle.zeros([0, values.shape[1]])
    return [values[end - count : end] if count else empty for count, end in zip(counts, ends)]


def crop(pyramid: Sequence[paddle.Tensor], boxes: Sequence[paddle.Tensor], strides: Sequence[int]) -> paddle.Tensor:
    """What all levels show of each box (RoIAlign): maps [B, C, H, W], boxes [G, 4] of each image -> [R, L*C, 7, 7]."""
    counts = paddle.to_tensor([len(b) for b in boxes], "int32")
    every = paddle.concat([b for b in boxes if len(b)])  # [R, 4]
    crops = [
        roi_align(level.astype("float32"), every, counts, CROP, 1.0 / stride, SAMPLES, aligned=True)
        for level, stride in zip(pyramid, strides)
    ]
    return paddle.concat(crops, axis=1)
