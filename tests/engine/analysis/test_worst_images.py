"""The images with the most mistakes, the file that keeps them for the page of a run, and the page."""

from __future__ import annotations

import json
import logging
import re

import cv2
import numpy as np
import pytest

from ppdet_repro.engine.analysis.report import EvaluationResult
from ppdet_repro.engine.analysis.run_page import EVALUATION, PAGE, RunPage, class_table
from ppdet_repro.engine.analysis.worst_images import draw_worst, load_evaluation
from ppdet_repro.engine.training.run_folder import save_details, set_aside
from ppdet_repro.metrics.detections import ImageDetections, Objects, coco_document, coco_rows
from ppdet_repro.metrics.f1 import best_f1
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

NAMES = ["cat", "<dog>"]
TRAIN = {"kind": "train", "epoch": 1, "step": 10, "lr": 0.1, "loss": 1.0}
EVAL = {"kind": "eval", "epoch": 1, "step": 10, "bbox_mAP": 0.4, "bbox_mAP_50": 0.5, "bbox_F1": 0.6}
RUN = RunPage("my_run", 1, [], [], "epoch: 1")


def objects(*items):
    """Ground truth from one tuple (class, x1, y1, x2, y2) per object; none is difficult."""
    rows = np.array(items, float).reshape(-1, 5)
    return Objects(rows[:, 1:], rows[:, 0].astype(int), np.zeros(len(rows), bool))


def found(im_id, *items):
    return ImageDetections(im_id, np.array(items, np.float32).reshape(-1, 6))


TRUTH = {
    1: objects((0, 10, 10, 30, 30)),
    2: objects((0, 10, 10, 30, 30), (1, 50, 10, 80, 40)),
    3: objects((0, 5, 5, 30, 30), (1, 50, 10, 80, 40)),
}
DETECTIONS = [
    found(1, (0, 0.9, 10, 10, 30, 30)),  # right
    found(2, (1, 0.9, 10, 10, 30, 30), (0, 0.8, 60, 60, 70, 70)),  # wrong class, nothing; and one missed: 3 mistakes
    found(3, (0, 0.9, 5, 5, 30, 30)),  # one missed
]


@pytest.fixture
def result(tmp_path):
    files = {i: str(tmp_path / f"image{i}.png") for i in TRUTH}
    for i, (width, height) in {1: (100, 100), 2: (1280, 960), 3: (100, 100)}.items():
        cv2.imwrite(files[i], np.full((height, width, 3), 90, np.uint8))
    f1 = best_f1(TRUTH, DETECTIONS, NAMES)
    document, rows = coco_document(TRUTH, [1, 2], NAMES), coco_rows(DETECTIONS, [1, 2])
    return EvaluationResult(document, rows, TRUTH, DETECTIONS, files, NAMES, [1, 2], "the scores", f1)


def test_the_worst_come_first_and_those_without_mistakes_are_left_out(result, tmp_path):
    save_details(tmp_path, result)
    last = load_evaluation(tmp_path / EVALUATION)
    assert [image.file for image in last.worst] == [result.files[2], result.files[3]]
    # right: 2 of 4 detections at the threshold .01 to .8, F1 4 / (4 + 5); 2 of 3 above .8, F1 4 / (3 + 5)
    assert last.line == result.f1.line() and last.threshold == 0.81 and last.classes == result.f1.classes
    first, second = (draw_worst(image, last.names) for image in last.worst)
    assert (
        first[0] == "image2.png: 1 missed, 0 detections of nothing, 1 of the wrong class"
    )  # .8 is below the threshold
    assert second[0] == "image3.png: 1 missed, 0 detections of nothing, 0 of the wrong class"
    picture = cv2.imdecode(np.frombuffer(first[1], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (480, 2 * 640 + 8, 3)  # 1280 x 960 was shrunk to 640 x 480, twice beside each other
    # the object of image 2 is at half its coordinates: on the left the edge of its box, from 5, 5 to 15, 15
    assert np.abs(picture[10, 5].astype(int) - 90).max() > 60 and np.abs(picture[300, 300].astype(int) - 90).max() < 9


def test_the_page_has_the_classes_and_the_worst_images(result, tmp_path):
    save_details(tmp_path, result)
    evaluation = {**EVAL, "bbox_AP/cat": 0.7, "bbox_AP/<dog>": 0.1}
    (tmp_path / "log.jsonl").write_text(f"{json.dumps(TRAIN)}\n{json.dumps(evaluation)}\n")
    RUN.write(tmp_path / "log.jsonl")
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert re.findall(r"<figcaption>(\w+\.png)", page) == ["image2.png", "image3.png"]
    assert page.count("data:image/jpeg;base64") == 2 and not re.search(r"https?://|<script|<link", page)
    assert page.index("<td>&lt;dog&gt;</td><td>0.100</td>") < page.index(
        "<td>cat</td><td>0.700</td>"
    )  # the worst first
    assert f"The last evaluation: {result.f1.line()}; the columns" in page
    assert "<th>AP</th><th>AP50</th><th>F1</th>" in page and "<td>0.400</td><td>0.500</td><td>0.600</td>" in page


def test_classes_by_hand(result, tmp_path):
    save_details(tmp_path, result)
    last = load_evaluation(tmp_path / EVALUATION)
    table = class_table([{**EVAL, "bbox_AP/cat": 0.7}], last)
    # of the 3 detections from .81 on, cat has 2, both right, of 3 objects: F1 4 / 5
    assert table["classes"] == [("cat", [0.7, 1.0, pytest.approx(2 / 3), pytest.approx(0.8)])]
    assert class_table([], None) == {"score": "VOC mAP", "f1_line": None, "classes": []}
    assert class_table([{**EVAL, "bbox_AP/cat": 0.7}], None)["classes"] == [("cat", [0.7, None, None, None])]


def test_an_image_that_is_gone_is_said_and_the_page_is_written(result, tmp_path):
    save_details(tmp_path, result)
    (tmp_path / "image2.png").unlink()
    (tmp_path / "log.jsonl").write_text(json.dumps(TRAIN))
    RUN.write(tmp_path / "log.jsonl")
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "image2.png cannot be read" in page.replace(": cannot", " cannot") and page.count("data:image/jpeg") == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"threshold": 0.5, "worst": [{"file": "a", "objects": [1]}]}'])
def test_a_damaged_file_is_one_clear_error(text, tmp_path):
    (tmp_path / EVALUATION).write_text(text)
    with pytest.raises(UserError, match=f"{EVALUATION} is not what a training wrote"):
        load_evaluation(tmp_path / EVALUATION)


def test_a_full_disk_is_one_line_and_no_exception(result, tmp_path, monkeypatch):
    def full(path, data):
        raise UserError(f"cannot write {path}: No space left on device")

    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    get_logger().addHandler(handler)
    monkeypatch.setattr("ppdet_repro.engine.analysis.worst_images.write_output", full)
    try:
        save_details(tmp_path, result)
    finally:
        get_logger().removeHandler(handler)
    (line,) = lines
    assert line.startswith("the page of the run will lack") and line.endswith("No space left on device")


def test_a_new_run_moves_the_file_away(result, tmp_path):
    save_details(tmp_path, result)
    (tmp_path / "checkpoints" / "epoch_1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "epoch_1" / "state.json").write_text("{}")
    set_aside(tmp_path)
    assert not (tmp_path / EVALUATION).exists() and (tmp_path / "previous" / EVALUATION).exists()
