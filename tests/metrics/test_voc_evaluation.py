"""VOC: average precision against a second implementation, files for the evaluation server, united datasets.

The fixture contains the objects of BCCD's test split (MIT license), the 40 best detections per image of a PP-YOLOv2
trained with configs/ppyolo/ppyolov2_r18vd_256_bccd.yml, and the average precisions that mean-average-precision
2024.1.5.0 (PyPI) computes for them.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from parity_weights import FIXTURES
from voc_devkit import CAT, FIELDS, write_devkit, xml

from ppdet_repro.core.config import RunSettings
from ppdet_repro.data.source.union import UnionDataSet
from ppdet_repro.data.source.voc import VOCDataSet
from ppdet_repro.engine.evaluation.evaluate import evaluate_detections
from ppdet_repro.metrics.detections import ImageDetections, Objects
from ppdet_repro.metrics.voc import evaluate_voc
from ppdet_repro.utils.errors import UserError


def devkit_ap(truth, detections, label, eleven_points):
    """The average precision of a class, written from the devkit's description alone: loops over a ranked list of
    detections, each compared with all objects of its image."""
    ranked = sorted(
        ((row[1], image.im_id, row[2:]) for image in detections for row in image.rows if row[0] == label),
        key=lambda entry: -entry[0],
    )
    wanted = sum(
        1
        for objects in truth.values()
        for kind, difficult in zip(objects.classes, objects.difficult)
        if kind == label and not difficult
    )
    if wanted == 0:
        return None
    taken, curve, right, wrong = set(), [], 0, 0
    for _, im_id, box in ranked:
        best, which = -1.0, None
        objects = truth[im_id]
        for number, (other, kind) in enumerate(zip(objects.boxes, objects.classes)):
            if kind != label:
                continue
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width <= 0 or height <= 0:
                continue
            both = (box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
            if width * height / (both - width * height) > best:
                best, which = width * height / (both - width * height), number
        if best >= 0.5 and objects.difficult[which]:
            continue
        if best >= 0.5 and (im_id, which) not in taken:
            taken.add((im_id, which))
            right += 1
        else:
            wrong += 1
        curve.append((right / wanted, right / (right + wrong)))
    if eleven_points:
        return sum(max([p for r, p in curve if r >= i / 10], default=0.0) for i in range(11)) / 11
    total, before = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        total += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return total


def random_set(seed):
    """Objects, some of them difficult, and random detections near them and elsewhere; class 2 has no objects."""
    rng = np.random.default_rng(seed)
    truth, detections = {}, []
    for im_id in range(6):
        count = int(rng.integers(0, 5))
        corner = rng.uniform(0, 80, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 40, (count, 2))], axis=1)
        truth[im_id] = Objects(boxes, rng.integers(0, 2, count), rng.random(count) < 0.3)
        rows = [[2, rng.random(), 0, 0, 9, 9]]
        for box, label in zip(boxes, truth[im_id].classes):
            rows += [[label, rng.random(), *(box + rng.normal(0, 3, 4))] for _ in range(rng.integers(0, 4))]
        rows += [[rng.integers(0, 2), rng.random(), *np.sort(rng.uniform(0, 99, 4))[[0, 1, 2, 3]]] for _ in range(2)]
        detections.append(ImageDetections(im_id, np.array(rows)))
    return truth, detections


@pytest.mark.parametrize("map_type", ["11point", "area"])
@pytest.mark.parametrize("seed", range(12))
def test_random_datasets_are_evaluated_as_by_a_second_implementation(seed, map_type):
    truth, detections = random_set(seed)
    scores = evaluate_voc(truth, detections, ["a", "b", "c"], map_type)
    expected = [devkit_ap(truth, detections, label, map_type == "11point") for label in range(3)]
    assert expected[2] is None  # class c has no object, in some sets another has none either
    assert [ours.ap for ours in scores.classes] == pytest.approx(expected, abs=1e-12)
    assert scores.mean == pytest.approx(np.mean([ap for ap in expected if ap is not None]))


@pytest.mark.parametrize("map_type", ["11point", "area"])
def test_real_detections_are_evaluated_as_by_a_second_implementation(map_type):
    with np.load(FIXTURES / "bccd_detections.npz") as arrays:
        recorded = {name: arrays[name] for name in arrays.files}
    truth, detections = {}, []
    for im_id in range(int(recorded["images"])):
        mine = recorded["object_image"] == im_id
        labels = recorded["object_class"][mine].astype(int)
        truth[im_id] = Objects(recorded["object_box"][mine].astype(float), labels, np.zeros(len(labels), bool))
        detections.append(ImageDetections(im_id, recorded["rows"][recorded["row_image"] == im_id].astype(float)))
    scores = evaluate_voc(truth, detections, ["Platelets", "RBC", "WBC"], map_type)
    for label, ours in enumerate(scores.classes):
        assert ours.ap == pytest.approx(devkit_ap(truth, detections, label, map_type == "11point"), abs=1e-12)
    assert [ours.ap for ours in scores.classes] == pytest.approx(recorded[f"ap_{map_type}"].tolist(), abs=1e-6)


def found(im_id, *rows):
    return ImageDetections(im_id, np.array(rows, np.float32).reshape(-1, 6))


@pytest.fixture
def devkit(tmp_path):
    """Writes a VOC devkit of the given {image id: xml}; returns its dataset."""
    return partial(write_devkit, tmp_path)


def test_files_for_the_server(devkit, tmp_path):
    """There is a file per class, even without detections; images have their names, and coordinates are unchanged."""
    source = devkit({"2008_000001": xml([CAT]), "2008_000004": xml([CAT])}, labels=["cat", "dog"])
    run = RunSettings(metric="VOC", output_eval=str(tmp_path / "results"), save_prediction_only=True)
    detections = [found(0, [0, 0.25, 1, 2, 30.5, 40], [0, 0.125, 5, 6, 7, 8]), found(1, [0, 0.5, 9, 9, 99, 59])]
    assert evaluate_detections(detections, source, run) == {}
    folder = tmp_path / "results"
    assert (folder / "comp4_det_train_cat.txt").read_text() == (
        "2008_000001 0.250000 1.00 2.00 30.50 40.00\n"
        "2008_000001 0.125000 5.00 6.00 7.00 8.00\n"
        "2008_000004 0.500000 9.00 9.00 99.00 59.00\n"
    )
    assert (folder / "comp4_det_train_dog.txt").read_text() == ""
    rows = json.loads((folder / "bbox.json").read_text())
    assert [set(row) for row in rows] == [{"image_id", "category_id", "bbox", "score"}] * 3


def test_a_test_set_needs_no_xml(devkit, tmp_path):
    devkit({"a": xml([CAT]), "b": xml([CAT])})
    for file in (tmp_path / "Annotations").iterdir():
        file.unlink()
    source = VOCDataSet(str(tmp_path), None, "train.txt", ["image"])
    assert len(source) == 2 and len(source.class_names) == 20
    assert source.record(1)["im_id"].tolist() == [1] and source.record(0)["w"] == 100
    with pytest.raises(UserError, match="a.xml"):
        VOCDataSet(str(tmp_path), None, "train.txt", ["image", "gt_bbox"]).load()


class TestUnion:
    def make(self, devkit, tmp_path, **options):
        """Two datasets: images a and b, of which b has two objects; and image a again."""
        first = devkit({"a": xml([CAT]), "b": xml([CAT, ("dog", 1, 2, 30, 40, "<difficult>1</difficult>")])})
        (tmp_path / "one.txt").write_text("a\n")
        second = VOCDataSet(str(tmp_path), None, "one.txt", FIELDS, **options)
        return UnionDataSet([first, second], data_fields=["image", "gt_bbox", "gt_class", "difficult"])

    def test_images_follow_each_other(self, devkit, tmp_path):
        union = self.make(devkit, tmp_path, label_list="label_list.txt")
        assert len(union) == 3 and union.class_names == ["cat", "dog"]
        assert [union.record(i)["im_file"][-5:] for i in range(3)] == ["a.jpg", "b.jpg", "a.jpg"]
        assert [int(union.record(i)["im_id"][0]) for i in range(3)] == [0, 1, 2]  # the sets' own are 0, 1 and 0
        assert union.record(1)["difficult"].tolist() == [[0], [1]] and len(union.record(2)["gt_bbox"]) == 1
        assert "gt_score" not in union.record(0)
        assert union.summary == "together 3 images, 4 boxes"

    def test_the_classes_must_be_the_same(self, devkit, tmp_path):
        with pytest.raises(UserError, match="one.txt has the classes .*'aeroplane'.* give all the same label list"):
            self.make(devkit, tmp_path).load()

    def test_without_fields_of_its_own_it_has_the_first_sets(self, devkit):
        assert UnionDataSet([devkit({"a": xml([CAT])}, data_fields=["image", "gt_bbox"])]).data_fields[1] == "gt_bbox"

    def test_at_least_one(self):
        with pytest.raises(UserError, match="datasets is empty"):
            UnionDataSet([])
