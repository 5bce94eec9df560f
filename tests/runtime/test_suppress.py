"""Suppression outside Paddle: numpy finds what Paddle's operators find, and agreement of detections as sets."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppdet_repro.metrics.agreement import agreement
from ppdet_repro.modeling.nms import MatrixNMS, MultiClassNMS
from ppdet_repro.modeling.ttf_box import TTFBox
from ppdet_repro.runtime import matrix_nms as numpy_matrix_nms
from ppdet_repro.runtime.suppress import multiclass_nms, open_suppress, suppress_batch
from ppdet_repro.utils.errors import UserError


def candidates(seed, images=2, boxes=80, classes=4):
    """Boxes [B, N, 4] in heaps, scores [B, C, N]."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (images, boxes, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (images, boxes, 2))], axis=2).astype(np.float32)
    return boxes, rng.uniform(0, 1, (images, classes, boxes.shape[1])).astype(np.float32)


def in_numpy(component, boxes, scores):
    entry = {"type": component.name, **component.settings}
    return suppress_batch(open_suppress(entry, "infer_cfg.yml"), boxes, scores)


@pytest.mark.parametrize(
    "component",
    [
        MultiClassNMS(score_threshold=0.05, nms_top_k=1000, keep_top_k=100, nms_threshold=0.6),
        MultiClassNMS(score_threshold=0.5, nms_top_k=10, keep_top_k=7, nms_threshold=0.5, normalized=False),
        MultiClassNMS(score_threshold=0.3, keep_top_k=-1, nms_threshold=0.3, background_label=1),
        MultiClassNMS(score_threshold=2.0),
        MatrixNMS(score_threshold=0.01, post_threshold=0.3, keep_top_k=30, background_label=-1),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_numpy_keeps_the_rows_that_the_operator_keeps(component, seed):
    boxes, scores = candidates(seed)
    expected = component(paddle.to_tensor(boxes), paddle.to_tensor(scores))
    rows, counts = in_numpy(component, boxes, scores)
    assert counts.tolist() == expected.bbox_num.tolist()
    ends = np.cumsum(counts)[:-1]
    for own, other in zip(np.split(rows, ends), np.split(expected.bbox.numpy(), ends)):
        assert agreement(other, own, 1e-5, 1e-4).unmatched == 0


@pytest.mark.parametrize("second", [[5, 0, 5, 10], [5, 5, 5, 15], [5, 20, 5, 30], [0, 0, 10, 10], [5, 0, 4, 10]])
def test_flat_boxes_fare_as_in_the_operator(second):
    boxes = np.array([[5, 0, 5, 10], second], np.float32)
    scores = np.array([[0.9, 0.8]], np.float32)
    nms = MultiClassNMS(score_threshold=0.1, nms_top_k=-1, keep_top_k=-1, nms_threshold=0.5)
    expected = nms(paddle.to_tensor(boxes[None]), paddle.to_tensor(scores[None])).bbox.numpy()
    found = multiclass_nms(boxes, scores, 0.1, -1, -1, 0.5, True, -1)
    np.testing.assert_array_equal(found, expected)


SETTINGS = {"score_threshold": 0.05, "post_threshold": 0.05, "keep_top_k": 20, "candidates": None}


@pytest.mark.parametrize("first", [1, 20, 60])
@pytest.mark.parametrize("changed", [{}, {"use_gaussian": True}, {"nms_top_k": 3}, {"post_threshold": 0.6}])
@pytest.mark.parametrize("decimals", [7, 1])  # with one decimal, many scores are equal
def test_matrix_nms_of_the_best_pairs_is_that_of_all_pairs(monkeypatch, first, changed, decimals):
    boxes, scores = candidates(0, images=1)
    scores = scores[0].round(decimals)
    found = []
    for count in (scores.size, first):
        monkeypatch.setattr(numpy_matrix_nms, "FIRST", count)
        found.append(numpy_matrix_nms.matrix_nms(boxes[0], scores, **{**SETTINGS, **changed}))
    assert len(found[0]) > 5
    np.testing.assert_array_equal(*found)


def test_a_pair_outside_the_first_ones_can_be_among_the_best(monkeypatch):
    """The second box is the first again, so its score becomes 0, and the third, far away, is kept instead."""
    monkeypatch.setattr(numpy_matrix_nms, "FIRST", 2)
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    scores = np.array([[0.9, 0.8, 0.3]], np.float32)
    rows = numpy_matrix_nms.matrix_nms(boxes, scores, keep_top_k=2)
    np.testing.assert_array_equal(rows[:, 1], np.float32([0.9, 0.3]))


def test_peaks_are_the_rows_of_ttfbox_without_its_filler():
    boxes, _ = candidates(0, images=1, boxes=3)
    scores = np.array([[[0.5, 0.0, 0.0], [0.0, 0.005, 0.3]]], np.float32)  # classes 0, 1, 1; the second is too low
    rows, counts = in_numpy(TTFBox(score_thresh=0.01).select, boxes, scores)
    assert counts.tolist() == [2] and rows[:, 0].tolist() == [0, 1]
    np.testing.assert_allclose(rows[:, 1], [0.5, 0.3])
    np.testing.assert_array_equal(rows[:, 2:], boxes[0, [0, 2]])
    rows, counts = in_numpy(TTFBox(score_thresh=0.6).select, boxes, scores)
    assert rows.shape == (0, 6) and counts.tolist() == [0]


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"type": "SoftNMS"}, "x.yml: PostProcess has type 'SoftNMS'; known are MultiClassNMS, MatrixNMS, TTFBox"),
        ({"type": "TTFBox"}, r"x.yml: PostProcess TTFBox has \[\]; it takes \['score_thresh'\]"),
        ({"type": ["TTFBox"]}, r"x.yml: PostProcess has type \['TTFBox'\]"),
        ({"type": "MultiClassNMS", **MultiClassNMS(nms_eta=0.9).settings}, "nms_eta other than 1 needs the NMS inside"),
    ],
)
def test_a_strange_entry_is_one_line(entry, message):
    with pytest.raises(UserError, match=message):
        open_suppress(entry, "x.yml")


def test_rows_pair_in_any_order_and_only_within_the_tolerances():
    rows = np.array([[0, 0.9, 0, 0, 10, 10], [0, 0.8, 20, 20, 30, 30]])
    moved = rows[::-1] + np.array([0, 0.0001, 0.01, 0, 0, 0])
    same = agreement(rows, moved, score=0.001, box=0.05)
    assert same.rows == 2 and same.unmatched == 0
    assert same.score == pytest.approx(0.0001) and same.box == pytest.approx(0.01)
    assert agreement(rows, moved, score=0.001, box=0.005).unmatched == 2  # 0.9 and its copy; 0.8 is the last, so exempt
    assert agreement(rows, rows + [1, 0, 0, 0, 0, 0], 0.001, 0.05).unmatched == 2  # other classes


def test_rows_at_the_threshold_may_lack_a_partner():
    rows = np.array([[0, 0.9, 0, 0, 10, 10], [0, 0.0505, 20, 20, 30, 30]])
    assert agreement(rows, rows[:1], 0.001, 0.05, lowest=0.05).unmatched == 0
    assert agreement(rows, rows[1:], 0.001, 0.05, lowest=0.05).unmatched == 1
    assert agreement(rows[:0], rows[:0], 0.001, 0.05) == (0, 0, 0.0, 0.0)
    assert agreement(rows[:0], rows, 0.001, 0.05, lowest=0.05).unmatched == 1
