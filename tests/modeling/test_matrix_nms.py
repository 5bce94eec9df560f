"""Matrix NMS: the operator, its limit on candidates, and the NumPy version, compared with the definition."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import paddle
import pytest
from paths import ROOT

from ppdet_repro.modeling.nms import MatrixNMS
from ppdet_repro.runtime.matrix_nms import best_pairs, decay, matrix_nms
from ppdet_repro.utils.errors import UserError


def iou(a, b):
    """With the +1 of inclusive pixels; 0 for boxes that do not touch."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width < 0 or height < 0:
        return 0.0
    both = (width + 1) * (height + 1)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return both / (sum(areas) - both)


def by_definition(boxes, scores, threshold=0.01, keep=100):
    """The rows of one image, computed box by box (SOLOv2's Matrix NMS with the linear kernel)."""
    found = []
    for label, row in enumerate(scores):
        order = [i for i in np.argsort(-row, kind="stable") if row[i] > threshold]
        for n, i in enumerate(order):
            factor = 1.0
            for m, j in enumerate(order[:n]):
                covered = max((iou(boxes[j], boxes[k]) for k in order[:m]), default=0.0)
                factor = min(factor, (1 - iou(boxes[i], boxes[j])) / (1 - covered))
            if row[i] * factor > threshold:
                found.append((label, row[i] * factor, *boxes[i]))
    return np.array(sorted(found, key=lambda r: -r[1])[:keep]).reshape(-1, 6)


def random_case(seed, boxes=60, classes=4, share=0.5):
    """Overlapping boxes, and scores of which `share` pass the threshold."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (boxes, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 60, (boxes, 2))], 1).astype(np.float32)
    scores = rng.uniform(0.02, 1, (classes, len(boxes))) * (rng.random((classes, len(boxes))) < share)
    return boxes, scores.astype(np.float32)


def run(boxes, scores, **options):
    settings = dict(score_threshold=0.01, post_threshold=0.01, background_label=-1)
    return MatrixNMS(**{**settings, **options})(paddle.to_tensor(boxes), paddle.to_tensor(scores))


def assert_same_rows(found, expected):
    assert len(found) == len(expected)
    np.testing.assert_allclose(found[:, 1], expected[:, 1], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found[:, 0], expected[:, 0])
    np.testing.assert_allclose(found[:, 2:], expected[:, 2:], rtol=1e-6)


def test_three_boxes_by_hand():
    """Boxes of 10 x 10 pixels at x = 0, 5, 100, one class, scores .9, .8, .7. Of 10 x 10 pixels counted
    inclusively 5 x 10 are common: IoU 50 / 150 = 1/3, so the second decays to .8 * 2/3, below the third."""
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [100, 0, 109, 9]], np.float32)
    scores = np.array([[0.9, 0.8, 0.7]], np.float32)
    out = run(boxes[None], scores[None]).bbox.numpy()
    np.testing.assert_allclose(out[:, 1], [0.9, 0.7, 0.8 * 2 / 3], rtol=1e-6)
    np.testing.assert_array_equal(out[:, 2], [0, 100, 5])
    assert_same_rows(matrix_nms(boxes, scores), out)


def test_who_is_suppressed_suppresses_less():
    """A third box equal to the second: IoU 1 with it, but the second is itself covered by 1/3, and covers no more
    than (1 - 1) / (1 - 1/3) = 0 of the third. One equal to the first as well: (1 - 1) / (1 - 0) = 0."""
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [5, 0, 14, 9]], np.float32)
    out = run(boxes[None], np.array([[[0.9, 0.8, 0.7]]], np.float32)).bbox.numpy()
    np.testing.assert_allclose(out[:, 1], [0.9, 0.8 * 2 / 3], rtol=1e-6)


def test_classes_do_not_meet():
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 9]], np.float32)
    out = run(boxes[None], np.array([[[0.9, 0], [0, 0.8]]], np.float32)).bbox.numpy()
    np.testing.assert_allclose(out[:, :2], [[0, 0.9], [1, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_operator_and_numpy_follow_the_definition(seed):
    boxes, scores = random_case(seed)
    expected = by_definition(boxes, scores, keep=30)
    assert_same_rows(run(boxes[None], scores[None], keep_top_k=30).bbox.numpy(), expected)
    assert_same_rows(matrix_nms(boxes, scores, keep_top_k=30), expected)


@pytest.mark.parametrize("seed", range(5))
def test_few_candidates_give_the_same_rows_where_the_lowest_kept_beats_the_best_left_out(seed):
    boxes, scores = random_case(seed, boxes=200, classes=5)
    everything = run(boxes[None], scores[None], candidates=None, keep_top_k=20).bbox.numpy()
    raw = np.sort(scores.ravel())[::-1]
    needed = int((raw >= everything[-1, 1]).sum())  # pairs that could be among the best 20
    assert 20 <= needed < 300
    assert_same_rows(run(boxes[None], scores[None], candidates=needed, keep_top_k=20).bbox.numpy(), everything)
    assert_same_rows(matrix_nms(boxes, scores, candidates=needed, keep_top_k=20), everything)


def test_too_few_candidates_only_lose_rows():
    """Remaining rows have the right scores for any limit, because decays depend only on better boxes."""
    boxes, scores = random_case(0, boxes=200, classes=5)
    everything = {tuple(row) for row in matrix_nms(boxes, scores, candidates=None, keep_top_k=-1).round(5).tolist()}
    few = matrix_nms(boxes, scores, candidates=50, keep_top_k=50).round(5).tolist()
    assert 0 < len(few) <= 50 and all(tuple(row) in everything for row in few)


def test_equal_scores_do_not_break_the_bound():
    """An untrained network predicts thousands of equal scores, of which only `candidates` take part."""
    boxes, _ = random_case(0, boxes=500)
    scores = np.ones((3, 500), np.float32)
    assert len(best_pairs(scores, 0.01, 100)) == 100
    assert 0 < len(run(boxes[None], scores[None], candidates=100, keep_top_k=100).bbox) <= 100


def test_images_without_boxes_and_fewer_boxes_than_candidates():
    boxes, scores = random_case(1, boxes=7)
    batch = np.stack([boxes, boxes]), np.stack([np.zeros_like(scores), scores])
    out = run(*batch)
    alone = run(boxes[None], scores[None])
    assert out.bbox_num.tolist() == [0, len(alone.bbox)]
    np.testing.assert_array_equal(out.bbox.numpy(), alone.bbox.numpy())
    empty = run(boxes[None], np.zeros_like(scores)[None])
    assert empty.bbox.shape == [0, 6] and empty.bbox_num.tolist() == [0]
    assert matrix_nms(boxes, np.zeros_like(scores)).shape == (0, 6)
    assert matrix_nms(np.zeros((0, 4), np.float32), np.zeros((4, 0), np.float32)).shape == (0, 6)


@pytest.mark.parametrize(
    "options",
    [{"use_gaussian": True}, {"normalized": True}, {"nms_top_k": 5}, {"background_label": 0}, {"post_threshold": 0.4}],
)
def test_numpy_has_the_operator_s_options(options):
    boxes, scores = random_case(4, classes=3)
    if "normalized" in options:
        boxes = boxes / 120
    assert_same_rows(matrix_nms(boxes, scores, **options), run(boxes[None], scores[None], **options).bbox.numpy())


def test_more_rows_than_candidates_are_refused():
    for keep in (-1, 2049):
        with pytest.raises(UserError, match=rf"keep_top_k {keep} is not in 1\.\.candidates \(2048\)"):
            MatrixNMS(keep_top_k=keep)
    MatrixNMS(keep_top_k=-1, candidates=None)


def test_decays():
    ious = np.array([[1, 0.5, 0.2], [0.5, 1, 0.6], [0.2, 0.6, 1]])
    # third: min((1 - .2) / 1, (1 - .6) / (1 - .5)) = .8
    np.testing.assert_allclose(decay(ious), [1, 0.5, 0.8])
    exact = np.array([[1, 1.0, 0.3], [1.0, 1, 0.3], [0.3, 0.3, 1]])
    np.testing.assert_allclose(decay(exact), [1, 0, 0.7])  # the second, covered entirely, suppresses nothing


def test_numpy_form_needs_no_paddle():
    code = "import sys; import ppdet_repro.runtime.matrix_nms; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
