"""Which points of a feature pyramid learn which object, and the weight of each point's loss.

G objects of an image, L levels, H, W size of a level's map, N points of all levels, P pairs of an object and a point,
K classes.
Source: SAPD, sections 3.1 to 3.3; the choice of levels by their losses is FSAF's (Zhu et al., CVPR 2019).
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppdet_repro.modeling.anchor_points import AnchorPoints, Grid
from ppdet_repro.modeling.boxes import area, centerness, cxcywh_from_xyxy, distances_from_xyxy, has_area

NOBODY = -1

PointLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Objects(NamedTuple):
    """One image's ground truth. Boxes without area are not learned."""

    boxes: Tensor  # [G, 4] xyxy, input pixels
    classes: Tensor  # [G] int64
    level_weights: Tensor  # [G, L]: the weight of each level for each object


class LevelChoice(NamedTuple):
    """The levels on which objects are learned."""

    losses: Tensor  # [G, L]: mean loss of the object's points on the level, infinite where it has none
    chosen: Tensor  # [G, L] bool
    best: Tensor  # [G] int64: the level with the smallest loss, NOBODY for an object without points


class PointTargets(NamedTuple):
    """What the points of one image learn."""

    owners: Tensor  # [N] int64: the object that a point learns, NOBODY for background
    distances: Tensor  # [N, 4] to the sides of the object's box, 0 for background
    weights: Tensor  # [N]: weight of the point's loss, 1 for background
    levels: LevelChoice


def valid_points(boxes: Tensor, grid: Grid, epsilon: float) -> Tensor:
    """Which points of a level may learn which box: [G, 4] -> bool [G, H*W].

    These are the points in the valid box, which has the same center and `epsilon` times the sides. If there are none,
    it is the point nearest to the center, provided that it is inside the box. SAPD does not say what happens to boxes
    between the points; without the second rule most boxes below 40 pixels would have no point on the finest level.
    """
    x1, y1, x2, y2 = boxes.unsqueeze(-1).unbind(1)  # [G, 1] each
    cx, cy, w, h = cxcywh_from_xyxy(boxes).unsqueeze(-1).unbind(1)  # [G, 1] each
    columns, rows = (grid.x - cx).abs() <= epsilon * w / 2, (grid.y - cy).abs() <= epsilon * h / 2  # [G, W], [G, H]
    some = columns.any(axis=1, keepdim=True) & rows.any(axis=1, keepdim=True)  # [G, 1]
    columns = (some & columns) | (~some & nearest_to(cx, grid.x) & (grid.x > x1) & (grid.x < x2))  # [G, W]
    rows = (some & rows) | (~some & nearest_to(cy, grid.y) & (grid.y > y1) & (grid.y < y2))  # [G, H]
    return ((rows & has_area(boxes).unsqueeze(1)).unsqueeze(2) & columns.unsqueeze(1)).flatten(1)


def nearest_to(centers: Tensor, coordinates: Tensor) -> Tensor:
    """Which of the coordinates is nearest to a center, the first of two: [G, 1], [n] -> bool [G, n]."""
    return F.one_hot((coordinates - centers).abs().argmin(axis=1), coordinates.shape[0]) > 0


def ranks(values: Tensor) -> Tensor:
    """The rank of each value along the last axis, 0 for the smallest; equal values in order: [..., n] int64.

    Without ==, which takes numbers for equal in Paddle 2 that differ by less than 1e-8.
    """
    one, other = values.unsqueeze(-1), values.unsqueeze(-2)
    earlier = paddle.tril(paddle.ones([values.shape[-1]] * 2), -1) > 0
    return ((other < one) | ((other <= one) & earlier)).astype("int64").sum(axis=-1)


def choose_levels(losses: Tensor, top_k: int) -> LevelChoice:
    """The `top_k` levels with the smallest losses [G, L] for each object. Infinite ones are never chosen."""
    rank, possible = ranks(losses), paddle.isfinite(losses)
    best = paddle.where(possible.any(axis=1), rank.argmin(axis=1), paddle.full([len(losses)], NOBODY, "int64"))
    return LevelChoice(losses, (rank < top_k) & possible, best)


def smallest_owner(claims: Tensor, areas: Tensor) -> Tensor:
    """The smallest object that claims a point, the first of equal ones: bool [G, N], areas [G] -> [N] int64."""
    none = claims.shape[0]
    order = ranks(areas).unsqueeze(1).expand(claims.shape)
    order = paddle.where(claims, order, paddle.full_like(order, none))  # [G, N]
    return paddle.where(order.min(axis=0) < none, order.argmin(axis=0), paddle.full([claims.shape[1]], NOBODY, "int64"))


@paddle.no_grad()
def instance_losses(
    candidates: Tensor, objects: Objects, points: AnchorPoints, logits: Tensor, distances: Tensor, loss: PointLoss
) -> Tensor:
    """The mean loss of each object on each level [G, L], infinite where the object has no candidates.

    Other objects and all weights are disregarded. Candidates are the points that may learn an object, bool [G, N];
    logits are [N, K], distances [N, 4] in the points' units. `loss` takes logits, one-hot classes, distances and target
    distances, [P, K], [P, K], [P, 4], [P, 4] -> [P]. Source: FSAF, section 3.2.
    """
    (count, levels), classes = objects.level_weights.shape, logits.shape[-1]
    owners, index = paddle.nonzero(candidates).unbind(1)  # [P] each: object, point
    sides = distances_from_xyxy(points.centers.gather(index), objects.boxes.gather(owners))
    targets = sides / points.units.gather(index)  # [P, 4]
    one_hot = F.one_hot(objects.classes.gather(owners), classes)  # [P, K]
    losses = loss(logits.gather(index), one_hot, distances.gather(index), targets)  # [P]
    slots = (owners * levels + points.levels.gather(index)).unsqueeze(1)
    sums, numbers = (paddle.scatter_nd(slots, t, [count * levels]) for t in (losses, paddle.ones_like(losses)))
    means = sums / numbers.clip(min=1)
    return paddle.where(numbers > 0, means, paddle.full_like(means, float("inf"))).reshape([count, levels])


@paddle.no_grad()
def assign_points(
    objects: Objects,
    points: AnchorPoints,
    logits: Tensor,
    distances: Tensor,
    loss: PointLoss,
    top_k: int,
    eta: float,
    epsilon: float,
) -> PointTargets:
    """One image's targets.

    Each object is learned on the `top_k` levels where its points have the smallest mean loss. A point that several
    objects claim there goes to the smallest one. Its weight is its centerness, times the weight of its level. For
    logits, distances and loss see `instance_losses`, for eta `centerness`, for epsilon `valid_points`.
    """
    count, levels = objects.level_weights.shape
    candidates = None
    if count:
        candidates = paddle.concat([valid_points(objects.boxes, grid, epsilon) for grid in points.grids], axis=1)
    if candidates is None or not bool(candidates.any()):
        return background(count, levels, points)
    choice = choose_levels(instance_losses(candidates, objects, points, logits, distances, loss), top_k)
    chosen = choice.chosen.astype("int32").gather(points.levels, axis=1) > 0  # [G, N]
    owners = smallest_owner(candidates & chosen, area(objects.boxes))
    owned, owner = owners >= 0, owners.clip(min=0)
    targets = distances_from_xyxy(points.centers, objects.boxes.gather(owner)) / points.units  # [N, 4]
    inside = paddle.where(owned.unsqueeze(1).expand_as(targets), targets, paddle.ones_like(targets))
    weights = centerness(inside, eta) * objects.level_weights.flatten().gather(owner * levels + points.levels)
    weights = paddle.where(owned, weights, paddle.ones_like(weights))
    return PointTargets(owners, inside * owned.astype("float32").unsqueeze(1), weights, choice)


def background(count: int, levels: int, points: AnchorPoints) -> PointTargets:
    """The targets of an image with `count` objects, none of which has a point."""
    number = points.levels.shape[0]
    owners, best = (paddle.full([n], NOBODY, "int64") for n in (number, count))
    choice = LevelChoice(paddle.full([count, levels], float("inf")), paddle.zeros([count, levels], "bool"), best)
    return PointTargets(owners, paddle.zeros([number, 4]), paddle.ones([number]), choice)
