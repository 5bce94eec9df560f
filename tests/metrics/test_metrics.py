"""COCO and VOC average precision, against hand-computed numbers and against pycocotools."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import ImageDetections, Objects, coco_rows, merge_ranks, split_batch
from ppdet_repro.metrics.voc import evaluate_voc
from ppdet_repro.utils.errors import UserError


def coco_truth(boxes, category=7):
    """One image (id 5) with xywh boxes, categories 7 and 9: the ids have a gap and do not start at 1."""
    annotations = [
        {"id": i, "image_id": 5, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, box in enumerate(boxes, 1)
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    return {"images": [{"id": 5}], "categories": categories, "annotations": annotations}


def test_a_batch_is_split_into_images_and_padding_rows_are_dropped():
    bbox = np.array([[0, 0.9, 1, 2, 3, 4], [-1, 1, 0, 0, 0, 0], [2, 0.5, 5, 6, 7, 8]], np.float32)
    images = split_batch(np.array([[11], [12], [13]]), bbox, np.array([2, 0, 1]))
    assert [image.im_id for image in images] == [11, 12, 13]
    assert [len(image.rows) for image in images] == [1, 0, 1]
    assert images[2].rows[0, 0] == 2


@pytest.mark.parametrize("bias, size", [(0, [20.0, 30.0]), (1, [21.0, 31.0])])
def test_result_rows_have_the_category_id_and_width_and_height(bias, size):
    image = ImageDetections(5, np.array([[1, 0.5, 10, 20, 30, 50]], np.float32))
    (row,) = coco_rows([image], category_ids=[7, 9], bias=bias)
    assert row == {"image_id": 5, "category_id": 9, "bbox": [10.0, 20.0, *size], "score": 0.5}


def test_coco_ap_of_right_wrong_right():
    # Two objects; detections by score: right, wrong, right, each right box exact. Precision is 1 up to recall
    # 0.5 and 2/3 after it; of the 101 recall thresholds 51 lie at or below 0.5: (51 + 50 * 2/3) / 101 = 0.83498.
    truth = coco_truth([[0, 0, 20, 20], [50, 50, 20, 20]])
    rows = np.array([[0, 0.9, 0, 0, 20, 20], [0, 0.8, 100, 0, 120, 20], [0, 0.7, 50, 50, 70, 70]])
    scores = evaluate_coco(truth, coco_rows([ImageDetections(5, rows)], [7, 9]))
    expected = (51 + 50 * 2 / 3) / 101
    assert scores.summary["bbox_mAP"] == pytest.approx(expected)
    assert scores.summary["bbox_mAP_50"] == pytest.approx(expected)
    assert scores.summary["bbox_mAP_s"] == pytest.approx(expected)  # 400 square pixels: small
    assert scores.summary["bbox_mAP_l"] == -1  # how pycocotools says that there are no such objects
    assert scores.summary["bbox_AR_1"] == 0.5
    assert scores.values()["bbox_AP/cat"] == pytest.approx(expected)
    assert "bbox_AP/dog" not in scores.values()  # no objects, no AP, the mean is not lowered
    assert [(c.name, c.objects) for c in scores.classes] == [("cat", 2), ("dog", 0)]
    assert "cat" in scores.class_table() and "0.835" in scores.table()


def test_without_detections_the_ap_is_zero():
    scores = evaluate_coco(coco_truth([[0, 0, 20, 20]]), [])
    assert scores.summary["bbox_mAP"] == 0 and scores.summary["bbox_AR_100"] == 0
    assert evaluate_coco(coco_truth([[0, 0, 20, 20]]), [], reference=True).summary == scores.summary


def test_without_objects_the_ap_is_undefined():
    image = ImageDetections(5, np.array([[0, 0.9, 0, 0, 9, 9]]))
    scores = evaluate_coco(coco_truth([]), coco_rows([image], [7, 9]))
    assert scores.summary["bbox_mAP"] == -1
    assert [c.ap for c in scores.classes] == [None, None]


def random_dataset(seed=0, images=12, categories=(2, 3, 8)):
    """Objects of all sizes with crowds and empty images, and detections near them and elsewhere."""
    rng = np.random.default_rng(seed)
    truth = {
        "images": [{"id": 100 - 3 * i} for i in range(images)],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": [],
    }
    detections = []
    for image in truth["images"]:
        rows = []
        for _ in range(rng.integers(0, 6)):
            category = int(rng.integers(len(categories)))
            x, y = rng.uniform(0, 300, 2)
            w, h = rng.uniform(5, 200, 2)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": categories[category],
                    "bbox": [x, y, w, h],
                    "area": w * h * 0.8,
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
            for _ in range(rng.integers(0, 4)):
                shift = rng.normal(0, 0.08, 4) * [w, h, w, h]
                score = round(float(rng.random()), 1)  # many ties
                rows.append([category, score, *([x, y, x + w, y + h] + shift)])
        for _ in range(3):
            rows.append([rng.integers(len(categories)), rng.random(), 0, 0, *rng.uniform(9, 99, 2)])
        detections.append(ImageDetections(image["id"], np.array(rows, np.float32)))
    return truth, detections


@pytest.mark.parametrize("seed", range(4))
def test_the_fast_evaluation_gives_pycocotools_twelve_numbers(seed):
    pytest.importorskip("faster_coco_eval")
    truth, detections = random_dataset(seed)
    rows = coco_rows(detections, [2, 3, 8])
    fast, reference = (evaluate_coco(truth, rows, reference=r) for r in (False, True))
    assert list(fast.summary.values()) == pytest.approx(list(reference.summary.values()), abs=1e-12)
    assert len(fast.summary) == 12 and 0 < fast.summary["bbox_mAP"] < 1
    for a, b in zip(fast.classes, reference.classes):
        assert (a.name, a.objects) == (b.name, b.objects)
        assert (a.ap, a.ap50) == pytest.approx((b.ap, b.ap50), abs=1e-12)


def test_detections_of_several_processes_give_one_process_ap_exactly():
    truth, detections = random_dataset()
    one = evaluate_coco(truth, coco_rows(detections, [2, 3, 8]))
    # Two processes take turns; the second also repeats the first image to fill its last batch.
    ranks = [detections[0::2], detections[1::2] + detections[:1]]
    merged = merge_ranks(ranks, [image.im_id for image in detections])
    assert [image.im_id for image in merged] == [image.im_id for image in detections]
    assert evaluate_coco(truth, coco_rows(merged, [2, 3, 8])) == one


def test_only_the_images_that_were_run_count():
    truth, detections = random_dataset()
    some = detections[:6]
    ids = [image.im_id for image in some]
    limited = {**truth, "annotations": [a for a in truth["annotations"] if a["image_id"] in ids]}
    rows = coco_rows(some, [2, 3, 8])
    assert evaluate_coco(truth, rows, image_ids=ids) == evaluate_coco(limited, rows)


def test_coco_file_without_area_and_iscrowd_is_read(tmp_path):
    truth = coco_truth([[0, 0, 20, 30]])
    truth["images"][0]["file_name"] = "5.jpg"
    for annotation in truth["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    (tmp_path / "a.json").write_text(json.dumps(truth))
    (annotation,) = load_coco_json(tmp_path / "a.json")["annotations"]
    assert annotation["area"] == 600 and annotation["iscrowd"] == 0


def test_a_file_that_is_not_coco_is_one_clear_line(tmp_path):
    (tmp_path / "a.json").write_text('{"images": []}')
    with pytest.raises(UserError, match="a.json is not a COCO JSON file"):
        load_coco_json(tmp_path / "a.json")


def test_results_of_other_images_are_an_error():
    with pytest.raises(UserError, match="image ids that the annotation file does not have, such as 6"):
        evaluate_coco(coco_truth([]), [{"image_id": 6, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 1.0}])


# VOC: two images and three classes. Class "a": objects A1, A2 (difficult) on image 1, A3 on image 2.
# Class "b": one object that no detection finds. Class "c": no object, one detection.
VOC_TRUTH = {
    1: Objects(
        np.array([[0, 0, 9, 9], [20, 20, 29, 29], [50, 50, 59, 59]]), np.array([0, 0, 1]), np.array([0, 1, 0], bool)
    ),
    2: Objects(np.array([[0, 0, 9, 9]]), np.array([0]), np.array([0], bool)),
}
VOC_DETECTIONS = [
    ImageDetections(
        1,
        np.array(
            [
                [0, 0.9, 0, 0, 9, 9],  # finds A1
                [0, 0.8, 0, 0, 9, 9],  # finds A1 again: wrong
                [0, 0.7, 20, 20, 29, 29],  # finds the difficult A2: does not count
                [2, 0.6, 0, 0, 9, 9],  # class c, which has no object: its AP is not defined
            ]
        ),
    ),
    ImageDetections(2, np.array([[0, 0.5, 0, 0, 9, 8]])),  # IoU 90 / 100 with A3
]


@pytest.mark.parametrize(
    "map_type, ap",
    [
        # Class a by score: right, wrong, (no count), right; of 2 objects.
        # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
        ("11point", (6 * 1 + 5 * 2 / 3) / 11),  # recall 0 to .5: best precision 1; .6 to 1: 2/3
        ("integral", 0.5 * 1 + 0.5 * 2 / 3),
        ("area", 0.5 * 1 + 0.5 * 2 / 3),
    ],
)
def test_voc_ap_by_hand(map_type, ap):
    scores = evaluate_voc(VOC_TRUTH, VOC_DETECTIONS, ["a", "b", "c"], map_type)
    a, b, c = scores.classes
    assert a.ap == pytest.approx(ap) and (a.objects, a.detections) == (2, 4)
    assert b.ap == 0 and b.objects == 1  # never found
    assert c.ap is None  # no object: left out of the mean
    assert scores.mean == pytest.approx(ap / 2)
    assert scores.values() == {"bbox_mAP": scores.mean, "bbox_AP/a": a.ap, "bbox_AP/b": 0.0}
    assert "a" in scores.class_table() and f"{scores.mean:.3f}" in scores.table()


def test_voc_integral_draws_no_envelope_as_in_paddledetection():
    # One object's detection comes after a wrong one: precision 0, 1/2 at recall 0, 1/2, then 2/3 at recall 1.
    # Sum of precision times gained recall: 1/2 * 1/2 + 2/3 * 1/2 = 7/12. VOC 2010's envelope would give 2/3.
    truth = {1: Objects(np.array([[0, 0, 9, 9], [20, 0, 29, 9]]), np.array([0, 0]), np.zeros(2, bool))}
    rows = np.array([[0, 0.9, 50, 50, 59, 59], [0, 0.8, 0, 0, 9, 9], [0, 0.7, 20, 0, 29, 9]])
    found = [ImageDetections(1, rows)]
    assert evaluate_voc(truth, found, ["a"], "integral").mean == pytest.approx(7 / 12)
    assert evaluate_voc(truth, found, ["a"], "area").mean == pytest.approx(2 / 3)


def test_voc_difficult_objects_can_be_asked_for():
    # Now A2 counts: right, wrong, right, right of 3 objects: 1/3 * (1 + 2/3 + 3/4).
    scores = evaluate_voc(VOC_TRUTH, VOC_DETECTIONS, ["a", "b", "c"], "integral", evaluate_difficult=True)
    assert scores.classes[0].ap == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_voc_counts_pixels_and_wants_more_than_the_threshold():
    # Boxes 10 x 10 and 10 x 5 pixels: IoU is 50 / 100, not over 0.5; with 6 rows it is 60 / 100.
    truth = {1: Objects(np.array([[0, 0, 9, 9]]), np.array([0]), np.zeros(1, bool))}
    for bottom, ap in [(4, 0.0), (5, 1.0)]:
        detections = [ImageDetections(1, np.array([[0, 0.9, 0, 0, 9, bottom]]))]
        assert evaluate_voc(truth, detections, ["a"], "integral").mean == ap


def test_voc_without_detections_and_with_an_unknown_type():
    nothing = [ImageDetections(1, np.zeros((0, 6))), ImageDetections(2, np.zeros((0, 6)))]
    assert evaluate_voc(VOC_TRUTH, nothing, ["a", "b", "c"]).mean == 0
    with pytest.raises(UserError, match="map_type 'voc12' is not one of 11point, integral, area"):
        evaluate_voc(VOC_TRUTH, nothing, ["a", "b", "c"], "voc12")
