"""SAPD's head: an anchor-point detector, one pair of subnets for all levels of a pyramid. FSAF is the same, trained
on one level an object and without weights.

B images, L levels, H, W a level's map, N points of all levels, K classes, G objects of an image.
Source: Zhu et al., "Soft Anchor-Point Object Detection", ECCV 2020.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, nn
from paddle.nn.initializer import Constant, Normal

from ppdet_repro.core.registry import Part, Shared, Upstream, register
from ppdet_repro.modeling.anchor_points import boxes_from_distances, make_grid, make_points, rows
from ppdet_repro.modeling.assigners.anchor_point_assigner import NOBODY, Objects, PointTargets
from ppdet_repro.modeling.assignment_drawing import AssignedBoxes, Assignment, LevelBars, WeightMap, cells
from ppdet_repro.modeling.boxes import clip_to_image, to_original_image
from ppdet_repro.modeling.ground_truth import without_padding
from ppdet_repro.modeling.layers import batch_norm
from ppdet_repro.modeling.level_selection import LevelShares
from ppdet_repro.modeling.losses.anchor_point_loss import AnchorPointLoss, PointPredictions
from ppdet_repro.modeling.nms import best_pairs
from ppdet_repro.utils.errors import UserError


class SAPDOutputs(NamedTuple):
    """Of each level: `logits` [B, K, H, W]; `distances` [B, 4, H, W] to left, top, right and bottom in units of the
    head's `z` strides; and the `pyramid` [B, C, H, W] that they came from, from which levels are selected."""

    logits: List[paddle.Tensor]
    distances: List[paddle.Tensor]
    pyramid: List[paddle.Tensor]


class PointAssignment(NamedTuple):
    """What a batch's points learn: `predictions`, and for each image `objects` and `targets`; `shares` are the
    levels'."""

    predictions: PointPredictions
    objects: List[Objects]
    targets: List[PointTargets]
    shares: LevelShares


def conv3x3(in_channels: int, out_channels: int, bias: float = 0.0) -> nn.Conv2D:
    """3x3 convolution of unchanged size, weights N(0, 0.01), constant bias."""
    return nn.Conv2D(
        in_channels,
        out_channels,
        3,
        padding=1,
        weight_attr=ParamAttr(initializer=Normal(0.0, 0.01)),
        bias_attr=ParamAttr(initializer=Constant(bias)),
    )


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of 16 channels a group."""
    return nn.GroupNorm(max(1, channels // 16), channels)


NORMS = {"gn": group_norm, "bn": batch_norm}


def subnet(in_channels: int, channels: int, depth: int, norm_type: Optional[str]) -> nn.Sequential:
    """`depth` times 3x3 convolution, norm if there is one, ReLU."""
    layers: List[nn.Layer] = []
    for i in range(depth):
        layers.append(conv3x3(in_channels if i == 0 else channels, channels))
        if norm_type is not None:
            layers.append(NORMS[norm_type](channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


@register
class SAPDFeat(nn.Layer):
    """The two subnets without their last layers, shared by all levels. `norm_type` gn or bn adds a norm after each
    convolution, for training from scratch; the paper has none."""

    def __init__(
        self, in_channels: Upstream[List[int]], feat_out: int = 256, num_convs: int = 4, norm_type: Optional[str] = None
    ):
        super().__init__()
        if len(set(in_channels)) != 1:
            raise UserError(f"SAPDFeat: all levels share its layers, so {in_channels} channels must be equal")
        if norm_type not in (None, *NORMS):
            raise UserError(f"SAPDFeat: norm_type {norm_type!r} is not null, {' or '.join(NORMS)}")
        self.feat_out = feat_out
        self.cls_subnet = subnet(in_channels[0], feat_out, num_convs, norm_type)
        self.reg_subnet = subnet(in_channels[0], feat_out, num_convs, norm_type)

    def forward(self, feat: paddle.Tensor):
        """[B, C, H, W] -> features for the classes, features for the distances."""
        return self.cls_subnet(feat), self.reg_subnet(feat)


@register
class PointBranch(nn.Layer):
    """Anchor points on the features of a head's two subnets: the last layers, their losses, and decoding.

    levels    which levels learn an object: SoftLevels (SAPD), OneLevel (FSAF)
    eta       how steeply a point's weight falls from the middle of its object; 0: all weigh 1 (FSAF)
    epsilon   points in the middle `epsilon` of an object's sides learn it
    z         a distance of 1 is `z` strides
    nms_pre   so many pairs of point and class of each level and image reach the NMS
    prior_prob, prior_distance   score and distance (in `z` strides) that the last layers give before they are trained
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
        self.cls_score = conv3x3(feat_in, num_classes, bias=-math.log((1 - prior_prob) / prior_prob))
        self.distance_pred = conv3x3(feat_in, 4, bias=prior_distance)

    def predict(
        self, features: Sequence[Tuple[paddle.Tensor, paddle.Tensor]], feats: Sequence[paddle.Tensor]
    ) -> SAPDOutputs:
        """Of each level, finest first, the subnets' features and the map [B, C, H, W] that they saw -> raw outputs."""
        logits = [self.cls_score(for_classes) for for_classes, _ in features]
        distances = [F.relu(self.distance_pred(for_distances)) for _, for_distances in features]
        return SAPDOutputs(logits, distances, list(feats))

    def losses(self, raw: SAPDOutputs, batch: Dict[str, Any]) -> Dict[str, paddle.Tensor]:
        """`loss_cls`, `loss_reg`, what the selection of levels learns from (`loss_select`), and their sum `loss`.

        `batch` holds `gt_bbox` (B tensors [G, 4] xyxy input pixels), `gt_class` (B tensors [G, 1]; boxes without
        area are padding) and `progress`, how far the training is, 0 to 1. The losses of points are divided by the
        sum of the positive ones' weights over the batch, 1 at least; each process normalises by its own images.
        """
        assigned = self.assign(raw, batch)
        found = self.point_loss.losses(assigned.predictions, assigned.objects, assigned.targets)
        losses = {"loss_cls": found.classes, "loss_reg": found.boxes}
        losses.update(self.levels.losses(assigned.shares, [target.levels.best for target in assigned.targets]))
        return {"loss": sum(losses.values()), **losses}

    def assign(self, raw: SAPDOutputs, batch: Dict[str, Any]) -> PointAssignment:
        """What the points of a batch learn."""
        predictions = self.predictions(raw)
        truths = [without_padding(*truth) for truth in zip(batch["gt_bbox"], batch["gt_class"])]
        shares = self.levels(raw.pyramid, [boxes for boxes, _ in truths], batch["progress"])
        objects = [
            Objects(boxes, classes.astype("int64"), weights)
            for (boxes, classes), weights in zip(truths, shares.weights)
        ]
        targets = self.point_loss.targets(predictions, objects, shares.top_k)
        return PointAssignment(predictions, objects, targets, shares)

    def predictions(self, raw: SAPDOutputs) -> PointPredictions:
        """All levels in one."""
        logits, distances = (
            paddle.concat([rows(level) for level in maps], axis=1).astype("float32")
            for maps in (raw.logits, raw.distances)
        )  # [B, N, K], [B, N, 4]
        return PointPredictions(logits, distances, make_points(raw.logits, self.strides, self.z))

    @paddle.no_grad()
    def assignment(self, raw: SAPDOutputs, batch: Dict[str, Any]) -> List[Assignment]:
        """For each image the cells of the positive points, their weights on each level, and the levels' shares in
        each object as the network predicts them (SAPD, figures 3 and 7)."""
        assigned = self.assign(raw, batch)
        sizes = [level.shape[2:] for level in raw.logits]
        names = [f"P{int(math.log2(stride))}" for stride in self.strides]
        predicted = assigned.shares.predicted or [None] * len(assigned.objects)
        assignments = []
        for objects, target, shares in zip(assigned.objects, assigned.targets, predicted):
            boxes, owners, maps, start = [], [], [], 0
            for name, stride, (height, width) in zip(names, self.strides, sizes):
                part = slice(start, start + height * width)
                owner, weight = (t[part].numpy().reshape(height, width) for t in (target.owners, target.weights))
                places = np.argwhere(owner != NOBODY)  # [n, 2]: y, x
                boxes.append(cells(places, stride))
                owners.append(owner[owner != NOBODY])
                maps.append(WeightMap(f"weights on {name}", np.where(owner != NOBODY, weight, 0)))
                start = part.stop
            positive = AssignedBoxes("cells of positive points", np.concatenate(boxes), np.concatenate(owners))
            bars = [] if shares is None else [LevelBars(f"shares of {names[0]} to {names[-1]}", shares.numpy())]
            assignments.append(Assignment(objects.boxes.numpy(), [positive], maps, bars))
        return assignments

    def decode(self, raw: SAPDOutputs, im_shape: paddle.Tensor, scale_factor: paddle.Tensor):
        """Candidates for the NMS: boxes [B, n, 4] in pixels of the original images, clipped to them, and scores [B,
        K, n], 0 but for the best `nms_pre` pairs of point and class of each level."""
        boxes, scores = [], []
        for logits, distances, stride in zip(raw.logits, raw.distances, self.strides):
            centres = make_grid(logits, stride).centres  # [H*W, 2]
            level = boxes_from_distances(centres, rows(distances), self.z * stride)  # [B, H*W, 4]
            best = best_pairs(level, F.sigmoid(logits.flatten(2)), self.nms_pre)
            boxes.append(best[0])
            scores.append(best[1])
        clipped = clip_to_image(paddle.concat(boxes, axis=1), im_shape)
        return to_original_image(clipped, scale_factor), paddle.concat(scores, axis=2)


@register
class SAPDHead(PointBranch):
    """The whole head: subnets shared by all levels, and anchor points. See `PointBranch` for the parameters."""

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
        self.nms = nms

    def forward(self, feats: List[paddle.Tensor]) -> SAPDOutputs:
        """[B, C, H, W] of each level, finest first -> raw outputs."""
        return self.predict([self.conv_feat(feat) for feat in feats], feats)

    @property
    def suppress(self) -> Any:
        """Candidates [B, n, 4], [B, K, n] -> detections."""
        return self.nms
