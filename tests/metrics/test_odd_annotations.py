"""Evaluation with odd but legal annotation files: as pycocotools evaluates a cleaned copy. Rows of result files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from voc_devkit import write_devkit, xml

from ppdet_repro.core.config import RunSettings
from ppdet_repro.engine.evaluation.evaluate import evaluate_detections
from ppdet_repro.engine.evaluation.result_files import file_names
from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import ImageDetections, Objects, read_rows
from ppdet_repro.metrics.voc import evaluate_voc
from ppdet_repro.utils.errors import UserError

IMAGES, CLASSES = 6, 3


def clean(seed=0):
    """A file without oddities: boxes of all sizes in classes 1, 2 and 3, some crowds, and detections near them."""
    rng = np.random.default_rng(seed)
    annotations, rows = [], []
    for number in range(1, 25):
        box = [float(side) for side in (rng.uniform(0, 300, 2).tolist() + rng.uniform(5, 200, 2).tolist())]
        entry = {"image_id": int(rng.integers(1, IMAGES + 1)), "category_id": int(rng.integers(1, CLASSES + 1))}
        crowd = int(rng.random() < 0.15)
        annotations.append({"id": number, **entry, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd})
        near = [side + float(noise) for side, noise in zip(box, rng.normal(0, 4, 4))]
        rows.append({**entry, "bbox": near, "score": float(rng.random())})
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 500, "height": 500} for i in range(1, IMAGES + 1)]
    categories = [{"id": i, "name": f"c{i}"} for i in range(1, CLASSES + 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, rows


def numbered_from_0(entries):
    for number, entry in enumerate(entries):
        entry["id"] = number


def all_the_same(entries):
    for entry in entries:
        entry["id"] = 7


def absent(entries):
    for entry in entries:
        del entry["id"]


def texts(entries):
    for entry in entries:
        entry["id"] = f"box {entry['id']}"


def huge(entries):
    for entry in entries:
        entry["id"] += 1 << 70


def lists(entries):
    for entry in entries:
        entry["id"] = [entry["id"]]


def floats(entries):
    for entry in entries:
        entry.update({key: float(entry[key]) for key in ("id", "image_id", "category_id", "iscrowd")})


def texts_of_numbers(entries):
    for entry in entries:
        entry.update({key: str(entry[key]) for key in ("image_id", "category_id", "iscrowd", "area")})


def nulls(entries):
    for entry in entries:
        entry.update(area=None, ignore=None)
        if not entry["iscrowd"]:
            entry["iscrowd"] = None


def areas_that_are_none(entries):
    for entry, area in zip(entries, [0, -1, float("nan"), "none", [], float("inf")] * 4):
        entry["area"] = area


def annotations_without_a_box(entries):
    entries += [{**entry, "id": 100 + i, "bbox": box} for i, (entry, box) in enumerate(zip(entries, ([], None)))]


ODD = [
    numbered_from_0, all_the_same, absent, texts, huge, lists, floats, texts_of_numbers, nulls, areas_that_are_none,
    annotations_without_a_box,
]  # fmt: skip


@pytest.mark.parametrize("change", ODD, ids=lambda change: change.__name__)
def test_odd_files_are_evaluated_as_pycocotools_evaluates_the_clean_one(tmp_path, change):
    truth, rows = clean()
    expected = evaluate_coco(truth, rows, reference=True)
    assert 0.1 < expected.summary["bbox_mAP"] < 0.9
    change(truth["annotations"])
    (tmp_path / "a.json").write_text(json.dumps(truth))
    found = evaluate_coco(load_coco_json(tmp_path / "a.json"), rows)
    assert list(found.summary.values()) == pytest.approx(list(expected.summary.values()), abs=1e-12)
    assert [c.ap for c in found.classes] == pytest.approx([c.ap for c in expected.classes], abs=1e-12)


def test_ignore_means_nothing_in_the_evaluation_as_in_pycocotools(tmp_path):
    truth, rows = clean()
    for entry in truth["annotations"][::2]:
        entry["ignore"] = 1
    expected = evaluate_coco(truth, rows, reference=True)
    (tmp_path / "a.json").write_text(json.dumps(truth))
    assert evaluate_coco(load_coco_json(tmp_path / "a.json"), rows).summary == pytest.approx(expected.summary)


def test_two_classes_of_one_name_keep_their_scores():
    truth, rows = clean()
    truth["categories"][1]["name"] = "c1"
    scores = evaluate_coco(truth, rows)
    assert {"bbox_AP/c1 (id 1)", "bbox_AP/c1 (id 2)", "bbox_AP/c3"} <= set(scores.values())


def test_a_voc_set_of_difficult_objects_has_no_ap():
    truth = {1: Objects(np.array([[0, 0, 9, 9]]), np.array([0]), np.ones(1, bool))}
    scores = evaluate_voc(truth, [ImageDetections(1, np.array([[0, 0.9, 0, 0, 9, 9]]))], ["a"])
    assert scores.mean is None and scores.values() == {"bbox_mAP": -1.0}
    assert "-" in scores.table().splitlines()[-1].split() and "0.000" not in scores.table()


# --- result files

ROW = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    "row, message",
    [
        ({**ROW, "bbox": [1, 2, 3]}, r"row 1 has the bbox \[1, 2, 3\]: write \[x, y, width, height\]"),
        ({**ROW, "bbox": None}, "row 1 has the bbox None"),
        ({**ROW, "bbox": ["1", 2, 3, 4]}, "row 1 has the bbox"),
        ({**ROW, "bbox": [1, 2, float("nan"), 4]}, "row 1 has the bbox"),
        ({**ROW, "bbox": [1, 2, 10**400, 4]}, "row 1 has the bbox"),
        ({**ROW, "score": "0.5"}, "row 1 has the score '0.5': write a number"),
        ({**ROW, "score": None}, "row 1 has the score None"),
        ({**ROW, "score": float("nan")}, "row 1 has the score nan"),
        ({**ROW, "image_id": [1]}, r"row 1 has the image_id \[1\]: write an integer"),
        ({**ROW, "image_id": 1 << 64}, "row 1 has the image_id"),
        ({**ROW, "category_id": None}, "row 1 has the category_id None"),
        ({"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}, "row 1 has no 'score'"),
        (None, "row 1 is None: write an object"),
        ([1, 2], r"row 1 is \[1, 2\]"),
    ],
    ids=str,
)
def test_rows_that_are_none_get_one_line(tmp_path, row, message):
    (tmp_path / "bbox.json").write_text(json.dumps([ROW, row]))
    with pytest.raises(UserError, match=f"bbox.json: {message}") as error:
        read_rows(tmp_path / "bbox.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "text, message",
    [("{}", "not a COCO result file"), ("[" * 100_000, "not valid JSON"), ("[", "not valid JSON")],
    ids=lambda value: value[:20],
)
def test_files_that_are_no_results(tmp_path, text, message):
    (tmp_path / "bbox.json").write_text(text)
    with pytest.raises(UserError, match=f"bbox.json is {message}"):
        read_rows(tmp_path / "bbox.json")


def test_ids_of_rows_may_be_floats(tmp_path):
    (tmp_path / "bbox.json").write_text(json.dumps([{**ROW, "image_id": 1.0, "extra": 3}]))
    assert read_rows(tmp_path / "bbox.json") == [{**ROW, "bbox": [1.0, 2.0, 3.0, 4.0]}]


# --- file names from names of classes


def test_names_of_classes_that_are_no_file_names():
    names = ["a/b", "a:b", "../x", "A_b", "x" * 300]
    safe = file_names(names)
    assert safe[:2] == ["a_b", "a_b_1"] and len({name.lower() for name in safe}) == 5
    assert not any("/" in name or len(name) > 60 for name in safe)


def test_a_class_with_a_slash_is_written_for_the_server(tmp_path):
    source = write_devkit(tmp_path, {"a": xml([])}, labels=["cat/dog", "cow"], allow_empty=True)
    run = RunSettings(metric="VOC", output_eval=str(tmp_path / "out"), save_prediction_only=True)
    evaluate_detections([ImageDetections(0, np.array([[0, 0.5, 1, 2, 3, 4]], np.float32))], source, run)
    assert sorted(path.name for path in (tmp_path / "out").glob("comp4*")) == [
        "comp4_det_train_cat_dog.txt",
        "comp4_det_train_cow.txt",
    ]
