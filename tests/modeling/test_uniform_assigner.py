"""Uniform matching: examples computed by hand."""

from __future__ import annotations

import numpy as np
import paddle

from ppdet_repro.modeling.assigners.matches import IGNORED, NEGATIVE
from ppdet_repro.modeling.assigners.uniform_assigner import UniformAssigner

# Five locations in a row, one square anchor of 32 px each, centers x = 0, 32, 64, 96, 128 at y = 0
CENTRES = [0, 32, 64, 96, 128]


def squares(centers, side=32.0):
    return paddle.to_tensor([[x - side / 2, -side / 2, x + side / 2, side / 2] for x in centers], "float32")


ANCHORS = squares(CENTRES)
FAR = squares([1000] * 5)  # predictions away from everything


def assign(predictions, gts, match_times=1, pos=0.15, neg=0.7):
    return UniformAssigner(pos, neg, match_times)(predictions, ANCHORS, gts)


def pairs(matches):
    return list(zip(matches.anchors.tolist(), matches.gts.tolist()))


def test_nearest_anchor_is_positive():
    # one box at x = 70: anchor 2 (64) is nearest by anchors (IoU 26/38 = .68); all predictions are equally far,
    # so one pair comes from them too, at whichever location: its anchor overlaps by less than .15, or is anchor 2
    matches = assign(FAR, squares([70]))
    assert matches.labels[2] == 0
    assert (2, 0) in pairs(matches)


def test_pair_with_a_poor_anchor_is_ignored():
    # the prediction of location 4 sits on the box at 64, its anchor at 128 does not overlap the box: ignored, and
    # no pair regresses there
    predictions = squares([1000, 1000, 1000, 1000, 66])
    matches = assign(predictions, squares([64]))
    assert matches.labels.tolist() == [NEGATIVE, NEGATIVE, 0, NEGATIVE, IGNORED]
    assert pairs(matches) == [(2, 0)]


def test_prediction_and_anchor_of_one_location_count_twice():
    predictions = squares([1000, 1000, 64, 1000, 1000])
    matches = assign(predictions, squares([64]))
    assert matches.labels.tolist() == [NEGATIVE, NEGATIVE, 0, NEGATIVE, NEGATIVE]
    assert pairs(matches) == [(2, 0), (2, 0)]


def test_prediction_that_overlaps_is_not_a_negative():
    # locations 1 and 3 both predict the box at 64 with IoU 30/34 and 1; location 3 is nearer and takes the pair
    # (anchor 96 against box 64: no overlap, ignored); location 1 has IoU .88 > .7: ignored as well
    predictions = squares([1000, 66, 1000, 64, 1000])
    matches = assign(predictions, squares([64]))
    assert matches.labels.tolist() == [NEGATIVE, IGNORED, 0, IGNORED, NEGATIVE]


def test_later_pairs_win():
    """Two boxes compete for anchor 2. Pairs are ordered by rank, then by ground truth, and the last pair wins.

    Kept on purpose: the reference writes all pairs in one indexed assignment, whose order is undefined."""
    matches = assign(FAR, squares([60, 70]))
    assert matches.labels[2] == 1
    assert {(2, 0), (2, 1)} <= set(pairs(matches))  # both still regress


def test_a_later_ignored_pair_overwrites_a_positive():
    # box 0 at 64 takes anchor 2 (prediction far away); box 1 is 300 px wide around 64: nearest anchor by L1 is 2
    # too, with IoU 32*32/(300*32) = .107 < .15: the anchor ends ignored, the pair of box 0 still regresses
    wide = paddle.to_tensor([[64 - 150.0, -16, 64 + 150, 16]])
    matches = assign(FAR, paddle.concat([squares([64]), wide]))
    assert matches.labels[2] == IGNORED
    assert (2, 0) in pairs(matches) and (2, 1) not in pairs(matches)


def test_every_box_gets_as_many_pairs_whatever_its_size():
    """The paper's point (section 4.2): k pairs from anchors and k from predictions for every box."""
    gts = paddle.to_tensor([[50, -10, 70, 10], [0, -60, 120, 60], [60, -14, 92, 18]], "float32")
    matches = UniformAssigner(0.0, 0.7, 2)(ANCHORS + 3, ANCHORS, gts)
    assert np.bincount(matches.gts.numpy()).tolist() == [4, 4, 4]


def test_no_boxes_is_all_negative():
    matches = assign(FAR, paddle.zeros([0, 4]))
    assert matches.labels.tolist() == [NEGATIVE] * 5
    assert matches.anchors.shape == [0] and matches.gts.shape == [0]


def test_fewer_anchors_than_matches():
    matches = assign(FAR, squares([64]), match_times=9)
    assert matches.labels[2] == 0


def test_permuting_boxes_permutes_labels():
    gts = squares([5, 62, 130])
    labels = assign(FAR, gts).labels.numpy()
    permuted = assign(FAR, gts[[2, 0, 1]]).labels.numpy()
    assert [[2, 0, 1][i] if i >= 0 else i for i in permuted] == labels.tolist()
