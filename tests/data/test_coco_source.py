"""COCO datasets: what is read and left out, and the messages about mistakes."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
from voc_devkit import FIELDS, write_image

from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.utils.errors import UserError


def annotation(image_id, bbox, category_id=3, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "area": bbox[2] * bbox[3],
            "iscrowd": 0, **more}  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    """Writes images/<id>.jpg of 100 x 60 and all.json; returns the dataset made of them."""

    def make(annotations, images=(1, 2), categories=((7, "cat"), (3, "bird")), change=None, **options):
        entries = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 60} for i in images]
        for entry in entries:
            write_image(tmp_path / "images" / entry["file_name"])
        document = {
            "images": entries,
            "annotations": [{"id": i, **a} for i, a in enumerate(annotations)],
            "categories": [{"id": i, "name": name} for i, name in categories],
        }
        if change:
            change(document)
        (tmp_path / "all.json").write_text(json.dumps(document))
        return COCODataSet(str(tmp_path), "images", "all.json", **{"data_fields": FIELDS, **options})

    return make


def test_coco_record(coco, tmp_path):
    two = [annotation(2, [10, 20, 30, 15]), annotation(2, [1.23456, 0, 5, 5], 7)]
    source = coco([*two, annotation(1, [0, 0, 9, 9])])
    record = source.record(1)
    assert record["im_file"] == str(tmp_path / "images" / "2.jpg")
    assert record["im_id"].dtype == np.int64 and record["im_id"].tolist() == [2]
    assert (record["h"], record["w"]) == (60, 100)
    # xyxy; 1.23456 is rounded to 3 decimals
    expected = np.array([[10, 20, 40, 35], [1.235, 0, 6.235, 5]], np.float32)
    np.testing.assert_array_equal(record["gt_bbox"], expected)
    assert record["gt_class"].tolist() == [[0], [1]] and record["gt_class"].dtype == np.int32
    assert record["is_crowd"].tolist() == [[0], [0]] and record["is_crowd"].dtype == np.int32


def test_coco_class_ids_number_the_sorted_category_ids(coco):
    """PaddleDetection numbers them in the file's order; both agree for sorted files such as COCO's."""
    source = coco([annotation(1, [0, 0, 9, 9])], categories=((7, "cat"), (3, "bird"), (90, "ant")))
    assert source.class_names == ["bird", "cat", "ant"]
    assert source.category_ids == [3, 7, 90]


def test_coco_records_are_fresh_copies(coco):
    source = coco([annotation(1, [0, 0, 9, 9])])
    source.record(0)["gt_bbox"][:] = -1
    source.record(0)["im_id"][:] = -1
    assert source.record(0)["gt_bbox"].tolist() == [[0, 0, 9, 9]]
    assert source.record(0)["im_id"].tolist() == [1]


def test_coco_only_the_fields_asked_for(coco):
    boxes = [annotation(1, [0, 0, 9, 9], segmentation=[[0, 0, 9, 0, 9, 9]])]
    assert set(coco(boxes, data_fields=["image"]).record(0)) == {"im_file", "im_id", "h", "w"}
    assert coco(boxes, data_fields=["gt_poly"]).record(0)["gt_poly"] == [[[0, 0, 9, 0, 9, 9]]]


def test_coco_crowd_regions_are_left_out_unless_asked_for(coco):
    boxes = [annotation(1, [0, 0, 9, 9]), annotation(1, [1, 1, 50, 50], iscrowd=1)]
    assert coco(boxes).record(0)["is_crowd"].tolist() == [[0]]
    assert "crowd region (1)" in coco(boxes).summary
    assert coco(boxes, load_crowd=True).record(0)["is_crowd"].tolist() == [[0], [1]]


def test_coco_boxes_are_not_clipped_but_must_touch_the_image(coco):
    """As in PaddleDetection, Resize clips boxes later. Unlike there, boxes outside their image are left out."""
    outside = [annotation(1, [100, 0, 9, 9]), annotation(1, [0, -9, 9, 9])]
    source = coco([annotation(1, [-5, 50, 200, 30]), *outside])
    assert source.record(0)["gt_bbox"].tolist() == [[-5, 50, 195, 80]]
    assert "box outside its image (2)" in source.summary
    assert "doubtful: box that reaches outside its image (1)" in source.summary


@pytest.mark.parametrize(
    "bad",
    [
        annotation(1, [5, 5, 0, 9]),
        annotation(1, [5, 5, -3, 9]),
        annotation(1, [5, 5, float("nan"), 9]),
        annotation(1, [0, 0, 0, 0]),
    ],
)
def test_coco_boxes_without_area_are_left_out_and_counted(coco, bad):
    source = coco([annotation(1, [0, 0, 9, 9]), {**bad}])
    assert len(source.record(0)["gt_bbox"]) == 1
    assert "box without area or inverted (1)" in source.summary
    assert "\n" not in source.summary


@pytest.mark.parametrize("area", [0, -5, float("nan"), "unknown", []])
def test_coco_an_area_that_is_not_positive_is_width_times_height(coco, area):
    """PaddleDetection leaves such boxes out, so that nothing is left of files in which a tool wrote 0 everywhere."""
    source = coco([annotation(1, [5, 5, 9, 10], area=area)])
    assert source.record(0)["gt_bbox"].tolist() == [[5, 5, 14, 15]]
    assert "doubtful: area that is not positive (1)" in source.summary


def test_coco_area_and_crowd_may_be_absent(coco):
    bare = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9]}
    assert len(coco([bare]).record(0)["gt_bbox"]) == 1


def test_coco_empty_images(coco):
    boxes = [annotation(2, [0, 0, 9, 9])]
    assert [int(coco(boxes).record(i)["im_id"][0]) for i in range(1)] == [2]
    assert "image without boxes (2)" in coco(boxes, images=(1, 2, 3)).summary
    everything = coco(boxes, images=(1, 2, 3), allow_empty=True)
    assert [int(everything.record(i)["im_id"][0]) for i in range(3)] == [2, 1, 3]
    empty = everything.record(1)
    assert empty["gt_bbox"].shape == (0, 4) and empty["gt_class"].shape == (0, 1)
    # 1 image has boxes, and half of all images may have none: int(1 * 0.5 / 0.5) = 1
    assert len(coco(boxes, images=(1, 2, 3), allow_empty=True, empty_ratio=0.5)) == 2


def test_coco_sample_num_and_repeat(coco):
    boxes = [annotation(i, [0, 0, i, 9]) for i in (1, 2, 3)]
    source = coco(boxes, images=(1, 2, 3), sample_num=2, repeat=3)
    assert len(source) == 6
    assert [int(source.record(i)["im_id"][0]) for i in range(6)] == [1, 2, 1, 2, 1, 2]


def test_coco_source_travels_to_worker_processes(coco):
    source = coco([annotation(1, [0, 0, 9, 9])])
    source.load()
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_equal(copy.record(0), source.record(0))


def test_coco_image_list_without_annotations(coco):
    source = coco([], change=lambda d: d.pop("annotations"), data_fields=["image"])
    assert len(source) == 2
    with pytest.raises(UserError, match="all.json: there are no 'annotations'"):
        coco([], change=lambda d: d.pop("annotations")).load()


def test_coco_fields_that_nobody_names_are_those_of_the_annotations(coco):
    named = coco([annotation(1, [0, 0, 9, 9])], data_fields=None)
    assert set(named.record(0)) == {"im_file", "im_id", "h", "w", "gt_bbox", "gt_class", "is_crowd"}
    named.require_boxes("TrainDataset", "training")
    images = coco([], change=lambda d: d.pop("annotations"), data_fields=None)
    assert set(images.record(0)) == {"im_file", "im_id", "h", "w"}
    with pytest.raises(UserError, match="TrainDataset: .*all.json: there are no 'annotations'; training needs boxes"):
        images.require_boxes("TrainDataset", "training")


def set_file_name(name):
    return lambda document: document["images"][0].update(file_name=name)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.pop("images"), "not a COCO JSON file: it has no 'images'"),
        (lambda d: d.update(categories=[]), "has no category"),
        (lambda d: d.update(images={}), "'images' must be a list"),
        (lambda d: d["images"][0].pop("id"), r"image number 0 \(1.jpg\) needs an integer 'id'"),
        (lambda d: d["images"][0].pop("file_name"), r"image id 1 \(None\) needs a 'file_name'"),
        (lambda d: d["images"][1].update(id=1), "image id 1 occurs twice"),
        (lambda d: d["categories"][1].update(id=7), "category id 7 occurs twice"),
        (
            lambda d: d["annotations"][0].update(image_id=99),
            "annotation id 0 of image id 99 has the unknown image id 99",
        ),
        (lambda d: d["annotations"][0].update(category_id=4), "has the unknown category id 4"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2]), r"annotation id 0 of image id 1 \(1.jpg\) has the bbox"),
        (lambda d: d["annotations"][0].update(bbox=["1", 2, 3, 4]), "has the bbox"),
        (lambda d: d["annotations"].clear(), "no image is left .* allow_empty"),
        (set_file_name("gone.jpg"), r"image id 1 \(gone.jpg\): .*gone.jpg does not exist"),
        (set_file_name("../images2/a.jpg"), "image id 1: .* leads out of the image folder"),
        (set_file_name("a/../../b.jpg"), "leads out of the image folder"),
        (set_file_name("/etc/hostname"), "leads out of the image folder"),
    ],
)
def test_coco_mistakes_get_one_line(coco, change, message):
    with pytest.raises(UserError, match=message) as error:
        coco([annotation(1, [0, 0, 9, 9])], change=change).load()
    assert "\n" not in str(error.value)
    assert "all.json" in str(error.value)


def test_coco_several_missing_images_are_one_error(coco, tmp_path):
    source = coco([annotation(1, [0, 0, 9, 9])], images=(1, 2, 3))
    (tmp_path / "images" / "2.jpg").unlink()
    (tmp_path / "images" / "3.jpg").unlink()
    with pytest.raises(UserError, match=r"image id 2 \(2.jpg\): .*2.jpg does not exist \(and 1 more like it, "):
        source.load()


def test_coco_file_names_may_lie_below_the_image_folder(coco, tmp_path):
    write_image(tmp_path / "images" / "deep" / "a.jpg")
    for name in ("deep/a.jpg", "deep/../1.jpg", "with..dots.jpg", str(tmp_path / "images" / "1.jpg")):
        shutil.copy(tmp_path / "images" / "deep" / "a.jpg", tmp_path / "images" / "with..dots.jpg")
        coco([annotation(1, [0, 0, 9, 9])], change=set_file_name(name)).load()


NOT_COCO = [('{"images": [', "not valid JSON"), ("[]", "JSON list"), ("3", "not a COCO")]


@pytest.mark.parametrize("text, message", NOT_COCO)
def test_coco_files_that_are_not_coco(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=f"a.json .*{message}"):
        COCODataSet(str(tmp_path), "images", "a.json").load()


def test_coco_missing_file_and_folder(coco, tmp_path):
    with pytest.raises(UserError, match="no.json does not exist: .*anno_path"):
        COCODataSet(str(tmp_path), "images", "no.json").load()
    with pytest.raises(UserError, match="needs an anno_path"):
        COCODataSet(str(tmp_path), "images").load()
    coco([annotation(1, [0, 0, 9, 9])])
    with pytest.raises(UserError, match="nowhere does not exist: .*image_dir"):
        COCODataSet(str(tmp_path), "nowhere", "all.json").load()
