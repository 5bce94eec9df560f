"""Precision, recall and F1 at the best threshold, against hand-computed numbers."""

from __future__ import annotations

import numpy as np
import pytest
from detection_rows import objects, rows

from ppdet_repro.metrics.detections import ImageDetections, Objects
from ppdet_repro.metrics.f1 import IGNORED, RIGHT, WRONG, best_f1, judge

TRUTH = {
    1: objects((0, 0, 0, 10, 10), (1, 0, 0, 10, 10), (0, 40, 0, 60, 20, True)),
    2: objects((0, 0, 0, 10, 10), (2, 50, 50, 60, 60)),
}
FOUND = [
    ImageDetections(
        1,
        rows(
            (0, 0.9, 0, 0, 10, 10),  # right
            (0, 0.8, 0, 0, 10, 9),  # the same object again: wrong
            (1, 0.7, 0, 0, 10, 5),  # IoU 50 / 100, which is enough: right, although class 0 has the place
            (0, 0.6, 45, 5, 50, 10),  # inside the difficult object: does not count
        ),
    ),
    ImageDetections(2, rows((1, 0.5, 0, 0, 10, 10), (0, 0.4, 1, 0, 11, 10), (0, 0.2, 80, 80, 90, 90))),
    # the wrong class; right, IoU 90 / 110; wrong
]


def test_each_detection_is_right_or_wrong_or_does_not_count():
    assert judge(FOUND[0].rows, TRUTH[1]).tolist() == [RIGHT, WRONG, RIGHT, IGNORED]
    assert judge(FOUND[0].rows[::-1], TRUTH[1]).tolist() == [IGNORED, RIGHT, WRONG, RIGHT]  # the best score comes first
    assert judge(FOUND[1].rows, TRUTH[2]).tolist() == [WRONG, RIGHT, WRONG]
    in_difficult = rows((0, 0.9, 40, 0, 60, 20), (0, 0.8, 40, 0, 60, 20), (1, 0.7, 40, 0, 60, 20))
    assert judge(in_difficult, TRUTH[1]).tolist() == [IGNORED, IGNORED, WRONG]  # the last is of another class
    assert judge(rows(), TRUTH[1]).tolist() == [] and judge(FOUND[1].rows, objects()).tolist() == [WRONG] * 3


def test_scores_at_the_best_threshold_by_hand():
    """4 objects count. Of the detections with a score of at least

    .9: 1 of 1 right, F1 2*1/(1+4) = .4       .8: 1 of 2, F1 2/6 = .333      .7: 2 of 3, F1 4/7 = .571
    .5: 2 of 4, F1 4/8 = .5                   .4: 3 of 5, F1 6/9 = .667      .2: 3 of 6, F1 6/10 = .6

    The best F1 is that of the thresholds .21 to .40, of which .21 is the lowest.
    """
    scores = best_f1(TRUTH, FOUND, ["a", "b", "c", "d"])
    assert scores.values() == pytest.approx(
        {"bbox_precision": 3 / 5, "bbox_recall": 3 / 4, "bbox_F1": 2 / 3, "bbox_threshold": 0.21}
    )
    assert "precision 0.600, recall 0.750, F1 0.667 at the score threshold 0.21" in scores.line()
    a, b, c, d = scores.classes
    assert a[1:] == pytest.approx((2 / 3, 1.0, 0.8))  # 3 detections, 2 right, 2 objects
    assert b[1:] == pytest.approx((1 / 2, 1.0, 2 / 3))
    assert c[1:] == (None, 0.0, 0.0)  # never found
    assert d[1:] == (None, None, None)  # neither objects nor detections
    assert "0.667" in scores.table()


def test_a_score_equal_to_the_threshold_is_kept():
    """float32(.7) is below .7. With .71 the F1 would be 0."""
    truth = {1: objects((0, 0, 0, 10, 10))}
    found = rows((0, 0.7, 0, 0, 10, 10), (0, 0.69, 20, 0, 30, 10))
    assert best_f1(truth, [ImageDetections(1, found)], ["a"])[:4] == (1.0, 1.0, 1.0, 0.7)


def test_without_detections_or_objects():
    assert best_f1(TRUTH, [ImageDetections(1, rows())], ["a", "b", "c"])[:3] == (0.0, 0.0, 0.0)
    nothing = best_f1({1: objects()}, [ImageDetections(1, FOUND[0].rows)], ["a", "b"])
    assert set(nothing.values().values()) == {-1.0}


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_the_best_of_all_thresholds(seed):
    """Against a plain loop over thresholds that drops the detections and matches again."""
    rng = np.random.default_rng(seed)
    truth, found = {}, []
    for im_id in range(6):
        xy = rng.integers(0, 40, (5, 2)).astype(float)
        truth[im_id] = Objects(np.concatenate([xy, xy + 20], 1), rng.integers(0, 2, 5), rng.random(5) < 0.2)
        boxes = truth[im_id].boxes[rng.integers(0, 5, 12)] + rng.normal(0, 3, (12, 4))
        found.append(ImageDetections(im_id, np.column_stack([rng.integers(0, 2, 12), rng.random(12), boxes])))
    found = [image._replace(rows=image.rows.astype(np.float32)) for image in found]
    number = sum(int((~o.difficult).sum()) for o in truth.values())
    expected = []
    for threshold in np.arange(1, 100) / 100:
        verdicts = [judge(rows[rows[:, 1] >= np.float32(threshold)], truth[im_id]) for im_id, rows in found]
        right, wrong = (sum(int((v == kind).sum()) for v in verdicts) for kind in (RIGHT, WRONG))
        expected.append((2 * right / (right + wrong + number), -threshold))
    f1, threshold = max(expected)
    scores = best_f1(truth, found, ["a", "b"])
    assert (scores.f1, scores.threshold) == pytest.approx((f1, -threshold)) and 0.2 < f1 < 0.9
