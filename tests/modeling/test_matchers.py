"""All matchers of anchors: their common interface, and examples computed by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import paddle
import pytest
from scipy.optimize import linear_sum_assignment

from ppdet_repro.modeling.assigners.atss_assigner import ATSSAssigner
from ppdet_repro.modeling.assigners.hungarian_assigner import HungarianAssigner
from ppdet_repro.modeling.assigners.matches import IGNORED, NEGATIVE
from ppdet_repro.modeling.assigners.max_iou_assigner import MaxIoUAssigner
from ppdet_repro.modeling.assigners.uniform_assigner import UniformAssigner
from ppdet_repro.modeling.boxes import l1_distance
from ppdet_repro.utils.errors import UserError

MATCHERS = [UniformAssigner(0.15, 0.7), MaxIoUAssigner(0.5, 0.4), ATSSAssigner(), HungarianAssigner()]


def boxes(*rows):
    return paddle.to_tensor(rows, "float32").reshape([-1, 4])


def squares(centers, side=32.0):
    return boxes(*[[x - side / 2, -side / 2, x + side / 2, side / 2] for x in centers])


ANCHORS = squares([0, 32, 64, 96, 128])  # five locations in a row, one anchor of 32 px each
FAR = squares([1000] * 5)  # predictions away from everything


def pairs(matches):
    return list(zip(matches.anchors.tolist(), matches.gts.tolist()))


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda matcher: type(matcher).__name__)
def test_every_matcher_has_the_same_interface(matcher):
    matches = matcher(ANCHORS, ANCHORS, squares([2, 60]), [5])
    assert matches.labels.shape == [5] and set(matches.labels.tolist()) <= {0, 1, NEGATIVE, IGNORED}
    assert set(pairs(matches)) >= {(0, 0), (2, 1)}
    nothing = matcher(ANCHORS, ANCHORS, paddle.zeros([0, 4]), [5])
    assert nothing.labels.tolist() == [NEGATIVE] * 5
    assert nothing.anchors.shape == [0] and nothing.gts.shape == [0]


@pytest.mark.parametrize("matcher", MATCHERS, ids=lambda matcher: type(matcher).__name__)
def test_permuting_boxes_permutes_the_pairs(matcher):
    gts, order = squares([5, 62, 130]), [2, 0, 1]
    plain = matcher(ANCHORS, ANCHORS, gts, [5])
    permuted = matcher(ANCHORS, ANCHORS, gts[order], [5])
    assert sorted((a, order[g]) for a, g in pairs(permuted)) == sorted(pairs(plain))


def test_max_iou_by_hand():
    # a box at 40, 32 wide: anchor 32 overlaps by 24/40 = .6, anchor 64 by 8/56 = .14, the others by nothing
    matches = MaxIoUAssigner(0.5, 0.1)(FAR, ANCHORS, squares([40]))
    assert matches.labels.tolist() == [NEGATIVE, 0, IGNORED, NEGATIVE, NEGATIVE]
    assert pairs(matches) == [(1, 0)]
    # large boxes get more: one of 96 px around 64 contains three anchors, IoU 32*32 / (96*32) = 1/3 each
    wide = boxes([16, -16, 112, 16])
    assert len(MaxIoUAssigner(0.3, 0.3)(FAR, ANCHORS, wide).anchors) == 3


def test_atss_by_hand():
    # a box from 24 to 104 (80 wide) at center 64, the three nearest anchors 64 (0), 32 and 96 (32 away).
    # overlaps: 64: 32*32 / (80*32) = .4; 96 (80..112): 24 / (80 + 32 - 24) = .2727; 32 (16..48): the same.
    # mean .3152, deviation sqrt((.0848^2 + 2 * .0424^2) / 2) = .0735: threshold .3887, so 64 alone
    box = boxes([24, -16, 104, 16])
    matches = ATSSAssigner(3)(FAR, ANCHORS, box)
    assert matches.labels.tolist() == [NEGATIVE, NEGATIVE, 0, NEGATIVE, NEGATIVE]
    # its one nearest anchor alone: the threshold is its own IoU, which it reaches
    assert pairs(ATSSAssigner(1)(FAR, ANCHORS, box)) == [(2, 0)]


def test_atss_wants_the_center_inside_the_box():
    # a box from 40 to 60 between the anchors 32 and 64: the nearest (64, 14 away) has its center outside
    assert pairs(ATSSAssigner(1)(FAR, ANCHORS, boxes([40, -16, 60, 16]))) == []


def test_atss_gives_an_anchor_to_the_box_that_it_overlaps_most():
    # both boxes have anchor 64 as their only candidate: IoU 32 / 40 = .8 and 32 / 64 = .5
    assert pairs(ATSSAssigner(1)(FAR, ANCHORS, boxes([32, -16, 96, 16], [44, -16, 84, 16]))) == [(2, 1)]


def test_atss_takes_candidates_from_each_level():
    # the same five locations again as a second level with anchors of 64 px: box 48..80 has on the first level anchor 2
    # (IoU 1), on the second anchor 7 (IoU 32*32 / 64*64 = .25): mean .625, deviation sqrt(2 * .375^2) = .530: none
    # reaches 1.155. With both as one level, k = 1 finds anchor 2 alone.
    two = paddle.concat([ANCHORS, squares([0, 32, 64, 96, 128], 64.0)])
    box = squares([64])
    assert pairs(ATSSAssigner(1)(two, two, box, [5, 5])) == []
    assert pairs(ATSSAssigner(1)(two, two, box)) == [(2, 0)]


def test_more_candidates_than_anchors_are_all_anchors():
    assert pairs(ATSSAssigner(19)(FAR, ANCHORS, squares([64]))) == [(2, 0)]
    with pytest.raises(UserError, match="topk 0"):
        ATSSAssigner(0)


def test_hungarian_never_gives_an_anchor_to_two_boxes():
    # boxes at 60 and 70 both are nearest to anchor 64; distances |dx|: to 64: 4 and 6, to 32: 28 and 38, to 96: 36
    # and 26. 60 -> 64 and 70 -> 96 costs 4 + 26 = 30, 60 -> 32 and 70 -> 64 costs 28 + 6 = 34
    assert pairs(HungarianAssigner()(ANCHORS, ANCHORS, squares([60, 70]))) == [(2, 0), (3, 1)]


def test_hungarian_weighs_anchors_and_predictions_alike():
    # anchors 32 and 64 are equally far from 48; the prediction of 64 sits on it
    predictions = squares([0, 32, 48, 96, 128])
    assert pairs(HungarianAssigner()(predictions, ANCHORS, squares([48]))) == [(2, 0)]


def test_hungarian_is_scipys_optimum_and_no_permutation_is_better():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (10, 2))
    every = boxes(*np.concatenate([corners, corners + rng.uniform(5, 40, (10, 2))], axis=1).tolist())
    anchors, gts = every[:6], every[6:]
    matches = HungarianAssigner()(anchors, anchors, gts)
    cost = 2 * l1_distance(anchors, gts).numpy()  # [6, 4]
    mine = sum(cost[a, g] for a, g in pairs(matches))
    assert mine == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-6)
    assert mine == pytest.approx(min(cost[list(p), range(4)].sum() for p in permutations(range(6), 4)), rel=1e-6)


def test_more_boxes_than_anchors_leave_some_without():
    matches = HungarianAssigner()(ANCHORS, ANCHORS, squares([0, 1, 32, 64, 96, 128]))
    assert sorted(matches.gts.tolist()) == [0, 2, 3, 4, 5]
