"""The analysis of an evaluation: matches, confusion matrix, curves, TIDE's errors, and the report."""

from __future__ import annotations

import re
import sys

import cv2
import numpy as np
import pytest
from detection_rows import objects, rows

from ppdet_repro.engine.analysis import tide
from ppdet_repro.engine.analysis.report import EvaluationResult, write_report
from ppdet_repro.metrics.analysis import (
    FALSE_POSITIVE,
    IGNORED,
    confusion_matrix,
    count_mistakes,
    match_image,
    precision_recall_curves,
)
from ppdet_repro.metrics.detections import ImageDetections, coco_document, coco_rows, from_coco_document, from_coco_rows
from ppdet_repro.metrics.f1 import best_f1
from ppdet_repro.utils.errors import UserError

TRUTH = objects((0, 0, 0, 10, 10), (1, 20, 0, 30, 10), (0, 40, 0, 50, 10), (0, 60, 0, 80, 20, True))
FOUND = rows(
    (0, 0.9, 0, 0, 10, 10),  # right
    (0, 0.8, 0, 0, 10, 9),  # the same object again: a false positive
    (0, 0.7, 21, 0, 31, 10),  # on the object of class 1: 9 / 11 = .82
    (1, 0.6, 62, 2, 70, 10),  # inside the difficult object: ignored
    (1, 0.5, 90, 0, 99, 9),  # a false positive
    (0, 0.1, 40, 0, 50, 10),  # right, but below the threshold: object 2 is missed
)


def test_matches_of_an_image_by_hand():
    matches = match_image(FOUND[::-1], TRUTH, threshold=0.3)
    assert matches.objects.tolist() == [0, FALSE_POSITIVE, 1, IGNORED, FALSE_POSITIVE]
    assert matches.missed.tolist() == [False, False, True, False]
    # one missed, two false positives, one of the wrong class
    assert count_mistakes(matches, TRUTH) == 4


def test_confusion_matrix_by_hand():
    matrix = confusion_matrix([match_image(FOUND, TRUTH, 0.3)], [TRUTH], 2)
    # class 0: one found as 0, one missed; class 1: found as 0; false positives: one of class 0, one of class 1
    assert matrix.tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 0]]


def test_images_without_objects_or_detections():
    empty = objects()
    matches = match_image(rows(), empty, 0.3)
    assert count_mistakes(matches, empty) == 0
    assert count_mistakes(match_image(rows(), TRUTH, 0.3), TRUTH) == 3
    assert count_mistakes(match_image(FOUND[:1], empty, 0.3), empty) == 1


def test_curves_are_means_over_classes_that_have_objects():
    # 10 thresholds, 2 recall thresholds, 3 classes (the last without objects), 4 sizes, 1 limit
    precision = np.full((10, 2, 3, 4, 1), -1.0)
    precision[:, :, 0, 0, 0], precision[:, :, 1, 0, 0] = 1.0, 0.5
    precision[0, 1, 1, 0, 0] = 0.1
    precision[:, :, 0, 1, 0] = 0.25
    curves = precision_recall_curves(precision, np.array([0.0, 1.0]), ["a", "b", "c"])
    assert curves.by_iou["IoU .50"].tolist() == [0.75, 0.55]
    assert curves.by_class["b"].tolist() == [0.5, 0.1] and "c" not in curves.by_class
    assert curves.sizes["a"] == [0.25, None, None, 1.0]
    assert precision_recall_curves(np.full((10, 2, 1, 4, 1), -1.0), np.zeros(2), ["a"]).by_iou == {}


@pytest.fixture
def result(tmp_path):
    """The result of an evaluation on two images; the second has neither objects nor detections."""
    files = {}
    for im_id in (7, 8):
        files[im_id] = str(tmp_path / f"<{im_id}>.png")
        cv2.imwrite(files[im_id], np.full((60, 100, 3), 90, np.uint8))
    ids, names = [3, 5], ["disc & co", "ring"]
    truth = coco_document({7: TRUTH, 8: objects()}, ids, names)
    detections = [ImageDetections(7, FOUND), ImageDetections(8, rows())]
    found, objects_of = coco_rows(detections, ids), {7: TRUTH, 8: objects()}
    f1 = best_f1(objects_of, detections, names)
    return EvaluationResult(truth, found, objects_of, detections, files, names, ids, "the scores", f1)


def test_objects_survive_the_conversion_to_a_coco_document_and_back(result):
    found = from_coco_document(result.truth, result.category_ids, [7, 8])
    back = found[7]
    assert back.boxes.tolist() == TRUTH.boxes.tolist()
    assert back.classes.tolist() == TRUTH.classes.tolist() and back.difficult.tolist() == TRUTH.difficult.tolist()
    assert len(found[8].boxes) == 0


@pytest.mark.parametrize("bias", [0, 1])
def test_detections_survive_the_conversion_to_coco_rows_and_back(result, bias):
    result_rows = coco_rows(result.detections, result.category_ids, bias)
    first, second = from_coco_rows(result_rows, result.category_ids, [7, 8], bias)
    assert first.im_id == 7 and second.rows.shape == (0, 6)
    np.testing.assert_allclose(first.rows, FOUND, atol=1e-5)


def test_the_report_is_one_file_that_needs_no_network(result, tmp_path):
    errors = tide.TideErrors(40.0, dict.fromkeys(tide.MEANINGS, 1.0), {"FP": 2.0, "FN": 3.0})
    path = write_report("A & B", result, errors, str(tmp_path / "new"))
    page = path.read_text(encoding="utf-8")
    assert "<h1>A &amp; B</h1>" in page and "the scores" in page and "disc &amp; co" in page
    assert "&lt;7&gt;.png: " in page and "&lt;8&gt;.png" not in page  # only images with mistakes
    sources = re.findall(r'src="([^"]{5})', page)
    assert sources == ["data:"] * 4  # errors, curves, confusions, one image
    assert not re.search(r"https?://|<script|<link", page)
    # 3 objects. Scores from .81 on keep one detection, which is right: F1 2 / (1 + 3); from .01 on 2 of 6 are: 4 / 9
    assert "precision 1.000, recall 0.333, F1 0.500 at the score threshold 0.81" in page
    assert re.search("disc &amp; co</td>.*<td>1.000</td><td>0.500</td><td>0.667</td></tr>", page)
    assert re.search("ring</td>.*<td>-</td><td>0.000</td><td>0.000</td></tr>", page)
    assert "TIDE" not in write_report("A", result, None, str(tmp_path)).read_text(encoding="utf-8")
    assert r"a\udce9" in write_report("a\udce9", result, None, str(tmp_path)).read_text(encoding="utf-8")  # not UTF-8


def test_a_report_that_cannot_be_written_is_one_clear_error(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report("A", result, None, str(tmp_path / "file"))


def test_an_evaluation_without_objects_can_be_reported(result, tmp_path):
    bare = result._replace(truth={**result.truth, "annotations": []}, objects={7: objects(), 8: objects()})
    assert "6 detections" in write_report("A", bare, None, str(tmp_path)).read_text(encoding="utf-8")


def test_without_tidecv_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tidecv", None)
    with pytest.raises(UserError, match="--tide needs tidecv .*--no-deps tidecv"):
        tide.import_tidecv()


def test_tide_errors_by_hand():
    """Class 0 alone: two objects; one found (.9), one found in the wrong place (.8, IoU 1/3) -- Loc -- and a
    detection of nothing (.7) -- Bkg. Recall .5 at precision 1: AP is 51 of 101 recall thresholds. With an accurate box
    both are found first: AP 100. Without the detection of nothing, which comes after all hits, AP stays."""
    pytest.importorskip("tidecv")
    truth = coco_document({1: objects((0, 0, 0, 10, 10), (0, 50, 0, 60, 10))}, [1], ["a"])
    found = rows((0, 0.9, 0, 0, 10, 10), (0, 0.8, 55, 0, 65, 10), (0, 0.7, 80, 0, 90, 10))
    errors = tide.tide_errors(truth, coco_rows([ImageDetections(1, found)], [1]), [1])
    assert errors.ap == pytest.approx(100 * 51 / 101, abs=0.1)
    assert errors.main["Loc"] == pytest.approx(100 - errors.ap, abs=0.1)
    assert errors.main["Bkg"] == pytest.approx(0, abs=1e-6) and set(errors.main) == set(tide.MEANINGS)
    assert set(errors.special) == {"FP", "FN"} and "inaccurate box, right class" in errors.table()
