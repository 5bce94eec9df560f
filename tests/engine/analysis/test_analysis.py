"""What an evaluation tells beyond its scores: matches, confusions, curves, errors, and the report."""

from __future__ import annotations

import re
import sys

import cv2
import numpy as np
import pytest

from ppdet_repro.engine.analysis import tide
from ppdet_repro.engine.analysis.report import Evaluated, coco_document, detections_of, objects_of, write_report
from ppdet_repro.metrics.analysis import (
    UNCOUNTED,
    WRONG,
    best_threshold,
    confusion_matrix,
    curves_of,
    match_image,
    mistakes,
)
from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.metrics.voc import Objects
from ppdet_repro.utils.errors import UserError


def objects(*items):
    """(class, x1, y1, x2, y2[, difficult]) of each."""
    return Objects(
        np.array([item[1:5] for item in items], float).reshape(-1, 4),
        np.array([item[0] for item in items], int),
        np.array([len(item) > 5 and item[5] for item in items], bool),
    )


def rows(*items):
    return np.array(items, np.float32).reshape(-1, 6)


TRUTH = objects((0, 0, 0, 10, 10), (1, 20, 0, 30, 10), (0, 40, 0, 50, 10), (0, 60, 0, 80, 20, True))
FOUND = rows(
    (0, 0.9, 0, 0, 10, 10),  # right
    (0, 0.8, 0, 0, 10, 9),  # the same object again: nothing is left there
    (0, 0.7, 21, 0, 31, 10),  # on the object of class 1: 9 / 11 = .82
    (1, 0.6, 62, 2, 70, 10),  # wholly inside the difficult object: does not count
    (1, 0.5, 90, 0, 99, 9),  # on nothing
    (0, 0.1, 40, 0, 50, 10),  # right, but below the threshold: object 2 is missed
)


def test_an_image_is_matched_by_hand():
    outcome = match_image(FOUND[::-1], TRUTH, threshold=0.3)
    assert outcome.owners.tolist() == [0, WRONG, 1, UNCOUNTED, WRONG]
    assert outcome.missed.tolist() == [False, False, True, False]
    # one missed, two on nothing, one confused
    assert mistakes(outcome, TRUTH) == 4


def test_confusions_by_hand():
    matrix = confusion_matrix([match_image(FOUND, TRUTH, 0.3)], [TRUTH], 2)
    # class 0: one found as 0, one missed; class 1: found as 0; nothing: once called 0, once 1
    assert matrix.tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 0]]


def test_nothing_found_and_nothing_there():
    empty = objects()
    outcome = match_image(rows(), empty, 0.3)
    assert mistakes(outcome, empty) == 0
    assert mistakes(match_image(rows(), TRUTH, 0.3), TRUTH) == 3
    assert mistakes(match_image(FOUND[:1], empty, 0.3), empty) == 1


def test_the_best_threshold_is_where_f1_is_best():
    # one object: right at 0.62, wrong at 0.33 and 0.12. Up to 0.1 there are three, F1 2/4; two up
    # to 0.3, 2/3; one from 0.35 to 0.6, 1
    truth = {1: objects((0, 0, 0, 10, 10))}
    found = rows((0, 0.62, 0, 0, 10, 10), (0, 0.33, 20, 0, 30, 10), (0, 0.12, 40, 0, 50, 10))
    assert best_threshold([ImageDetections(1, found)], truth) == 0.35


def test_curves_are_means_over_classes_that_have_objects():
    # 10 thresholds, 2 recall places, 3 classes (the last without objects), 4 sizes, 1 limit
    precision = np.full((10, 2, 3, 4, 1), -1.0)
    precision[:, :, 0, 0, 0], precision[:, :, 1, 0, 0] = 1.0, 0.5
    precision[0, 1, 1, 0, 0] = 0.1
    precision[:, :, 0, 1, 0] = 0.25
    curves = curves_of(precision, np.array([0.0, 1.0]), ["a", "b", "c"])
    assert curves.by_iou["IoU .50"].tolist() == [0.75, 0.55]
    assert curves.by_class["b"].tolist() == [0.5, 0.1] and "c" not in curves.by_class
    assert curves.sizes["a"] == [0.25, None, None, 1.0]
    assert curves_of(np.full((10, 2, 1, 4, 1), -1.0), np.zeros(2), ["a"]).by_iou == {}


@pytest.fixture
def done(tmp_path):
    """Two images in memory as an evaluation leaves them; the second has no objects and none is found."""
    files = {}
    for im_id in (7, 8):
        files[im_id] = str(tmp_path / f"<{im_id}>.png")
        cv2.imwrite(files[im_id], np.full((60, 100, 3), 90, np.uint8))
    source = type("Source", (), {"category_ids": [3, 5], "class_names": ["disc & co", "ring"]})
    truth = coco_document(source, {7: TRUTH, 8: objects()})
    detections = [ImageDetections(7, FOUND), ImageDetections(8, rows())]
    result_rows = coco_rows(detections, source.category_ids)
    return Evaluated(truth, result_rows, detections, files, source.class_names, source.category_ids, "the scores")


def test_a_documents_objects_are_those_it_was_made_of(done):
    back = objects_of(done)[7]
    assert back.boxes.tolist() == TRUTH.boxes.tolist()
    assert back.classes.tolist() == TRUTH.classes.tolist() and back.difficult.tolist() == TRUTH.difficult.tolist()
    assert len(objects_of(done)[8].boxes) == 0


@pytest.mark.parametrize("bias", [0, 1])
def test_result_rows_go_back_to_detections(done, bias):
    result_rows = coco_rows(done.detections, done.category_ids, bias)
    first, second = detections_of(result_rows, done.category_ids, [7, 8], bias)
    assert first.im_id == 7 and second.rows.shape == (0, 6)
    np.testing.assert_allclose(first.rows, FOUND, atol=1e-5)


def test_the_report_is_one_file_that_needs_no_network(done, tmp_path):
    errors = tide.TideErrors(40.0, dict.fromkeys(tide.MEANINGS, 1.0), {"FP": 2.0, "FN": 3.0})
    path = write_report("A & B", done, errors, str(tmp_path / "new"))
    page = path.read_text(encoding="utf-8")
    assert "<h1>A &amp; B</h1>" in page and "the scores" in page and "disc &amp; co" in page
    assert "&lt;7&gt;.png: " in page and "&lt;8&gt;.png" not in page  # only images with mistakes
    sources = re.findall(r'src="([^"]{5})', page)
    assert sources == ["data:"] * 4  # errors, curves, confusions, one image
    assert not re.search(r"https?://|<script|<link", page)
    assert "TIDE" not in write_report("A", done, None, str(tmp_path)).read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_is_one_clear_error(done, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report("A", done, None, str(tmp_path / "file"))


def test_an_evaluation_without_objects_can_be_reported(done, tmp_path):
    bare = done._replace(truth={**done.truth, "annotations": []})
    assert "6 detections" in write_report("A", bare, None, str(tmp_path)).read_text(encoding="utf-8")


def test_without_tidecv_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tidecv", None)
    with pytest.raises(UserError, match="--tide needs tidecv .*--no-deps tidecv"):
        tide.tidecv()


def test_tides_errors_by_hand():
    """Class 0 alone: two objects; one found (.9), one found in the wrong place (.8, IoU 1/3) -- Loc -- and a
    detection of nothing (.7) -- Bkg. Recall .5 at precision 1: AP is 51 of 101 recall places. With the box put right
    both are found first: AP 100. Without the detection of nothing, which comes after all hits, AP stays."""
    pytest.importorskip("tidecv")
    source = type("Source", (), {"category_ids": [1], "class_names": ["a"]})
    truth = coco_document(source, {1: objects((0, 0, 0, 10, 10), (0, 50, 0, 60, 10))})
    found = rows((0, 0.9, 0, 0, 10, 10), (0, 0.8, 55, 0, 65, 10), (0, 0.7, 80, 0, 90, 10))
    errors = tide.tide_errors(truth, coco_rows([ImageDetections(1, found)], [1]), [1])
    assert errors.ap == pytest.approx(100 * 51 / 101, abs=0.1)
    assert errors.main["Loc"] == pytest.approx(100 - errors.ap, abs=0.1)
    assert errors.main["Bkg"] == pytest.approx(0, abs=1e-6) and set(errors.main) == set(tide.MEANINGS)
    assert set(errors.special) == {"FP", "FN"} and "an inaccurate box" in errors.table()
