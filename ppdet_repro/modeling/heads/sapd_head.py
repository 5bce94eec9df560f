"""SAPD's head: an anchor-point detector, one pair of subnets for all levels of a pyramid.

FSAF has the same head, trained on one level per object and without weights.
B images, L levels, H, W size of a level's map, N points of all levels, K classes, G objects of an image.
Source: Zhu et al., "Soft Anchor-Point Object Detection", ECCV 2020.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
from paddle import Tensor, nn

from ppdet_repro.core.contract import Batch, Losses, Suppressor
from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.modeling import functional as F
from ppdet_repro.modeling.anchor_points import make_grid, make_points, rows
from ppdet_repro.modeling.assigners.anchor_point_assigner import NOBODY, Objects, PointTargets
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment, LevelBars, WeightMap
from ppdet_repro.modeling.boxes import clip_to_image, to_original_image, xyxy_from_center_size, xyxy_from_distances
from ppdet_repro.modeling.ground_truth import ground_truths
from ppdet_repro.modeling.layers import batch_norm, conv3x3, conv_tower, prior_bias
from ppdet_repro.modeling.level_selection import LevelShares
from ppdet_repro.modeling.losses.anchor_point_loss import AnchorPointLoss, PointPredictions, positive_weights
from ppdet_repro.modeling.nms import best_pairs
from ppdet_repro.utils.errors import UserError


class SAPDOutputs(NamedTuple):
    """One tensor per level, finest first."""

    logits: List[Tensor]  # [B, K, H, W]
    distances: List[Tensor]  # [B, 4, H, W] to left, top, right and bottom, in units of `z` strides
    pyramid: List[Tensor]  # [B, C, H, W]: the feature maps, from which levels are selected


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with 16 channels per group."""
    return nn.GroupNorm(max(1, channels // 16), channels)


NORMS: Dict[str, Callable[[int], nn.Layer]] = {"gn": group_norm, "bn": batch_norm}


@register
class SAPDFeat(nn.Layer):
    """The two subnets without their last layers, shared by all levels.

    `norm_type` gn or bn adds a norm after each convolution, for training from scratch; the paper's subnets have none.
    """

    def __init__(
        self, in_channels: Upstream[List[int]], feat_out: int = 256, num_convs: int = 4, norm_type: Optional[str] = None
    ):
        super().__init__()
        if len(set(in_channels)) != 1:
            raise UserError(f"SAPDFeat: all levels share its layers, so {in_channels} channels must be equal")
        if norm_type not in (None, *NORMS):
            raise UserError(f"SAPDFeat: norm_type {norm_type!r} is not null, {' or '.join(NORMS)}")
        self.feat_out = feat_out
        norm = None if norm_type is None else NORMS[norm_type]
        self.cls_subnet = conv_tower(in_channels[0], feat_out, num_convs, norm)
        self.reg_subnet = conv_tower(in_channels[0], feat_out, num_convs, norm)

    def forward(self, feat: Tensor) -> Tuple[Tensor, Tensor]:
        """A feature map [B, C, H, W] -> features for the classes, features for the distances."""
        return self.cls_subnet(feat), self.reg_subnet(feat)


@register
class PointBranch(nn.Layer):
    """Anchor points on the features of a head's two subnets: the last layers, their losses, and decoding.

    Args:
        strides: Stride of each level in input pixels.
        feat_in: Channels of the subnets' features.
        levels: Which levels learn an object: SoftLevels (SAPD) or OneLevel (FSAF).
        eta: How fast a point's weight falls from the center of its object to its sides; 0: all weights are 1 (FSAF).
        epsilon: Points within the object's box scaled by `epsilon` around its center learn it.
        z: A distance of 1 is `z` strides.
        nms_pre: How many pairs of point and class per level and image, the best ones, reach the NMS.
        prior_prob: The score that the head predicts before training.
        prior_distance: The distance that the head predicts before training, in `z` strides.
    """

    def __init__(
        self,
        strides: Upstream[List[int]],
        num_classes: Shared[int] = 80,
        feat_in: int = 256,
        levels: Part[nn.Layer] = "OneLevel",
        loss_class: Part[nn.Layer] = "FocalLoss",
        eta: float = 0.0,
        epsilon: float = 0.2,
        z: float = 4.0,
        nms_pre: int = 1000,
        prior_prob: float = 0.01,
        prior_distance: float = 0.1,
    ):
        super().__init__()
        self.strides = list(strides)
        self.levels = levels
        self.point_loss = AnchorPointLoss(loss_class, eta, epsilon)
        self.z = z
        self.nms_pre = nms_pre
        self.cls_score = conv3x3(feat_in, num_classes, bias=prior_bias(prior_prob))
        self.distance_pred = conv3x3(feat_in, 4, bias=prior_distance)

    def predict(self, features: Sequence[Tuple[Tensor, Tensor]], feats: Sequence[Tensor]) -> SAPDOutputs:
        """The subnets' features of each level, and the feature maps [B, C, H, W] they are made from -> raw outputs."""
        logits = [self.cls_score(for_classes) for for_classes, _ in features]
        distances = [F.relu(self.distance_pred(for_distances)) for _, for_distances in features]
        return SAPDOutputs(logits, distances, list(feats))

    def losses(self, raw: SAPDOutputs, batch: Batch) -> Losses:
        """`loss_cls`, `loss_reg`, `loss_select` if the selection of levels is learned, and their sum `loss`.

        The losses of the points are divided by the sum of the positive points' weights over the batch, at least 1. Each
        process normalizes by its own images.
        """
        predictions, objects, targets, shares = self.assign(raw, batch)
        normalizer = positive_weights(targets).sum().clip(min=1.0)
        losses = self.point_loss.losses(predictions, objects, targets, normalizer)
        losses.update(self.levels.losses(shares, [target.levels.best for target in targets]))
        return {"loss": sum(losses.values()), **losses}

    def assign(
        self, raw: SAPDOutputs, batch: Batch
    ) -> Tuple[PointPredictions, List[Objects], List[PointTargets], LevelShares]:
        """The points' predictions, each image's objects, what its points learn, and the shares of the levels."""
        logits, distances = (paddle.concat([rows(m) for m in maps], axis=1).astype("float32") for maps in raw[:2])
        predictions = PointPredictions(logits, distances, make_points(raw.logits, self.strides, self.z))
        truths = ground_truths(batch)
        shares = self.levels(raw.pyramid, [truth.boxes for truth in truths], batch["progress"])
        objects = [Objects(t.boxes, t.classes.astype("int64"), weights) for t, weights in zip(truths, shares.weights)]
        return predictions, objects, self.point_loss.targets(predictions, objects, shares.top_k), shares

    @paddle.no_grad()
    def assignment(self, raw: SAPDOutputs, batch: Batch) -> List[Assignment]:
        """The cells of each image's positive points, their weights, and the predicted shares of the levels.

        Weights are maps, one per level; shares are per object and level (SAPD, figures 3 and 7).
        """
        (_, _, points), truths, targets, level_shares = self.assign(raw, batch)
        cells = xyxy_from_center_size(points.centers, points.units / self.z).numpy()  # [N, 4]
        sizes = [level.shape[2:] for level in raw.logits]
        ends = np.cumsum([height * width for height, width in sizes])[:-1]
        names = [f"P{int(math.log2(stride))}" for stride in self.strides]
        assignments = []
        for objects, target, shares in zip(truths, targets, level_shares.predicted or [None] * len(truths)):
            owners = target.owners.numpy()
            positive = owners != NOBODY
            boxes = AssignedBoxes("cells of positive points", cells[positive], owners[positive])
            weights = np.split(np.where(positive, target.weights.numpy(), 0), ends)
            maps = [WeightMap(f"weights on {n}", w.reshape(size)) for n, w, size in zip(names, weights, sizes)]
            bars = [] if shares is None else [LevelBars(f"shares of {names[0]} to {names[-1]}", shares.numpy())]
            assignments.append(Assignment(objects.boxes.numpy(), [boxes], maps, bars))
        return assignments

    def decode(self, raw: SAPDOutputs, im_shape: Tensor, scale_factor: Tensor) -> Tuple[Tensor, Tensor]:
        """The candidates for the NMS.

        Boxes are [B, n, 4] in pixels of the original images, clipped to them. Scores are [B, K, n], 0 except for the
        best `nms_pre` pairs of point and class of each level.
        """
        boxes, scores = [], []
        for logits, distances, stride in zip(raw.logits, raw.distances, self.strides):
            centers = make_grid(logits, stride).centers  # [H*W, 2]
            level = xyxy_from_distances(centers, rows(distances) * (self.z * stride))  # [B, H*W, 4]
            best = best_pairs(level, F.sigmoid(logits.flatten(2)), self.nms_pre)
            boxes.append(best[0])
            scores.append(best[1])
        clipped = clip_to_image(paddle.concat(boxes, axis=1), im_shape)
        return to_original_image(clipped, scale_factor), paddle.concat(scores, axis=2)


@register
class SAPDHead(PointBranch):
    """The whole head: subnets shared by all levels, and anchor points. The parameters are those of `PointBranch`."""

    def __init__(
        self,
        strides: Upstream[List[int]],
        num_classes: Shared[int] = 80,
        conv_feat: Part[nn.Layer] = "SAPDFeat",
        levels: Part[nn.Layer] = "SoftLevels",
        loss_class: Part[nn.Layer] = "FocalLoss",
        eta: float = 1.0,
        epsilon: float = 0.2,
        z: float = 4.0,
        nms: Part[Any] = "MultiClassNMS",
        nms_pre: int = 1000,
        prior_prob: float = 0.01,
        prior_distance: float = 0.1,
    ):
        width = conv_feat.feat_out
        super().__init__(
            strides, num_classes, width, levels, loss_class, eta, epsilon, z, nms_pre, prior_prob, prior_distance
        )
        self.conv_feat = conv_feat
        self.suppress: Suppressor = nms

    def forward(self, feats: List[Tensor]) -> SAPDOutputs:
        """Feature maps [B, C, H, W], one per level, finest first -> raw outputs."""
        return self.predict([self.conv_feat(feat) for feat in feats], feats)
