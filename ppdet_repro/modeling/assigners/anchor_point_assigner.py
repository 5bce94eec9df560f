"""Which points of a feature pyramid learn which object, and how much each counts.

G objects, L levels, H, W a level's map, N points of all levels, P pairs of an object and a point, K classes.
Source: SAPD, sections 3.1 to 3.3; the choice of levels by their losses is FSAF's (Zhu et al., CVPR 2019).
"""

from __future__ import annotations

from typing import Callable, NamedTuple

import paddle
import paddle.nn.functional as F

from ppdet_repro.modeling.anchor_points import AnchorPoints, Grid, centredness, distances_to_sides
from ppdet_repro.modeling.boxes import area

NOBODY = -1

PointLoss = Callable[[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor], paddle.Tensor]


class Objects(NamedTuple):
    """One image's ground truth: `boxes` [G, 4] xyxy input pixels, `classes` [G] int64; boxes without area learn
    nothing. `level_weights` [G, L] is what each level counts for each object."""

    boxes: paddle.Tensor
    classes: paddle.Tensor
    level_weights: paddle.Tensor


class LevelChoice(NamedTuple):
    """`losses` [G, L]: the mean loss of an object's points on a level, infinite where it has none; `chosen` [G, L]
    the levels that learn it; `best` [G] int64 the one of least loss, NOBODY for an object without points."""

    losses: paddle.Tensor
    chosen: paddle.Tensor
    best: paddle.Tensor


class PointTargets(NamedTuple):
    """`owners` [N] int64: the object that a point learns, NOBODY for background; `distances` [N, 4] to its sides (0
    for background); `weights` [N] of its loss (1 for background)."""

    owners: paddle.Tensor
    distances: paddle.Tensor
    weights: paddle.Tensor
    levels: LevelChoice


def valid_points(boxes: paddle.Tensor, grid: Grid, epsilon: float) -> paddle.Tensor:
    """Which points of a level may learn which box: [G, 4] -> bool [G, H*W].

    Those in the valid box, which has the same centre and `epsilon` times the sides; if there are none, the point
    nearest to the centre, provided that it lies inside the box. SAPD does not say what becomes of boxes between
    the points; without the second rule most boxes below 40 pixels would have none on the finest level.
    """
    x1, y1, x2, y2 = boxes.unsqueeze(-1).unbind(1)  # [G, 1] each
    columns, rows = _in_valid_side(x1, x2, grid.x, epsilon), _in_valid_side(y1, y2, grid.y, epsilon)
    some = columns.any(axis=1, keepdim=True) & rows.any(axis=1, keepdim=True)  # [G, 1]
    columns = (some & columns) | (~some & _nearest_inside(x1, x2, grid.x))  # [G, W]
    rows = (some & rows) | (~some & _nearest_inside(y1, y2, grid.y))  # [G, H]
    has_area = (x2 > x1) & (y2 > y1)
    return ((rows & has_area).unsqueeze(2) & columns.unsqueeze(1)).flatten(1)


def _in_valid_side(low, high, places, epsilon) -> paddle.Tensor:
    """Sides [G, 1] and places [n] -> bool [G, n]."""
    return (places - (low + high) / 2).abs() <= epsilon * (high - low) / 2


def _nearest_inside(low, high, places) -> paddle.Tensor:
    """The place nearest to the middle, the first of two, if it is inside: [G, 1], [n] -> bool [G, n]."""
    nearest = F.one_hot((places - (low + high) / 2).abs().argmin(axis=1), places.shape[0]) > 0
    return nearest & (places > low) & (places < high)


def ranks(values: paddle.Tensor) -> paddle.Tensor:
    """Each value's place, 0 for the least, among those of the last axis; equal ones in order: [..., n] int64."""
    one, other = values.unsqueeze(-1), values.unsqueeze(-2)
    earlier = paddle.tril(paddle.ones([values.shape[-1]] * 2), -1) > 0
    return ((other < one) | ((other == one) & earlier)).astype("int64").sum(axis=-1)


def choose_levels(losses: paddle.Tensor, top_k: int) -> LevelChoice:
    """The `top_k` levels of least loss for each object: [G, L]; infinite ones are never chosen."""
    rank, possible = ranks(losses), paddle.isfinite(losses)
    best = paddle.where(possible.any(axis=1), rank.argmin(axis=1), paddle.full([len(losses)], NOBODY, "int64"))
    return LevelChoice(losses, (rank < top_k) & possible, best)


def smallest_owner(claims: paddle.Tensor, areas: paddle.Tensor) -> paddle.Tensor:
    """The smallest of the objects that claim a point, the first of equals: bool [G, N], [G] -> [N] int64."""
    none = claims.shape[0]
    order = ranks(areas).unsqueeze(1).expand(claims.shape)
    order = paddle.where(claims, order, paddle.full_like(order, none))  # [G, N]
    return paddle.where(order.min(axis=0) < none, order.argmin(axis=0), paddle.full([claims.shape[1]], NOBODY, "int64"))


@paddle.no_grad()
def instance_losses(
    candidates: paddle.Tensor,
    objects: Objects,
    points: AnchorPoints,
    logits: paddle.Tensor,
    distances: paddle.Tensor,
    loss: PointLoss,
) -> paddle.Tensor:
    """The mean loss of each object's candidates [G, N] on each level: [G, L], infinite where there are none.

    FSAF, section 3.2; other objects and all weights are left out of account.
    """
    (count, levels), classes = objects.level_weights.shape, logits.shape[-1]
    owners, places = paddle.nonzero(candidates).unbind(1)  # [P] each
    targets = distances_to_sides(
        points.centres.gather(places), objects.boxes.gather(owners), points.units.gather(places)
    )
    one_hot = F.one_hot(objects.classes.gather(owners), classes)  # [P, K]
    pair_losses = loss(logits.gather(places), one_hot, distances.gather(places), targets)  # [P]
    slots = (owners * levels + points.levels.gather(places)).unsqueeze(1)
    sums, numbers = (
        paddle.scatter_nd(slots, values, [count * levels]) for values in (pair_losses, paddle.ones_like(pair_losses))
    )
    means = sums / numbers.clip(min=1)
    return paddle.where(numbers > 0, means, paddle.full_like(means, float("inf"))).reshape([count, levels])


@paddle.no_grad()
def assign_points(
    objects: Objects,
    points: AnchorPoints,
    logits: paddle.Tensor,
    distances: paddle.Tensor,
    loss: PointLoss,
    *,
    top_k: int,
    eta: float,
    epsilon: float,
) -> PointTargets:
    """One image's targets from its predictions: logits [N, K], distances [N, 4] in the points' units.

    Each object is learned on the `top_k` levels where its points have the least `loss`(logits [P, K], one-hot
    classes [P, K], distances [P, 4], their targets [P, 4]) -> [P]. A point that several objects claim there goes
    to the smallest. It counts as much as it is central (see `centredness`), times its level's weight.
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
    targets = distances_to_sides(points.centres, objects.boxes.gather(owner), points.units)  # [N, 4]
    inside = paddle.where(owned.unsqueeze(1).expand_as(targets), targets, paddle.ones_like(targets))
    weights = centredness(inside, eta) * objects.level_weights.flatten().gather(owner * levels + points.levels)
    weights = paddle.where(owned, weights, paddle.ones_like(weights))
    return PointTargets(owners, inside * owned.astype("float32").unsqueeze(1), weights, choice)


def background(count: int, levels: int, points: AnchorPoints) -> PointTargets:
    """The targets of an image none of whose `count` objects has a point."""
    number = points.levels.shape[0]
    choice = LevelChoice(
        paddle.full([count, levels], float("inf")),
        paddle.zeros([count, levels], "bool"),
        paddle.full([count], NOBODY, "int64"),
    )
    owners = paddle.full([number], NOBODY, "int64")
    return PointTargets(owners, paddle.zeros([number, 4]), paddle.ones([number]), choice)
