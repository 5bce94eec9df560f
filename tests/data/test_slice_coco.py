"""tools/slice_image.py: slices of a COCO dataset and their boxes, by hand."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest

from ppdet_repro.cli.main import run_script
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.slice_coco import slice_dataset
from ppdet_repro.utils.errors import UserError


@pytest.fixture
def large(tmp_path):
    """A dataset with one image of 50 x 100 pixels. Returns its JSON file."""
    image = np.random.default_rng(0).integers(0, 255, (50, 100, 3), np.uint8)
    (tmp_path / "images" / "sub").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images" / "sub" / "a.png"), image)
    boxes = [
        [10, 20, 20, 10],  # in the first slice only
        [35, 0, 10, 10],  # a half in the first and all of it in the second slice
        [2, 5, 42, 42],  # all but 4 columns in the first slice; the second has 14 of 42
        [58, 0, 30, 20],  # the second slice has 12 of 30 columns, the third all
        [36, 30, 40, 10],  # the first slice has 4 of 40 columns, just a tenth; the third has 16
        [37, 40, 40, 5],  # the first slice has 3 of 40 columns, too little
    ]
    annotations = [
        {"id": i, "image_id": 3, "category_id": 5, "bbox": box, "area": box[2] * box[3], "iscrowd": int(i == 0)}
        for i, box in enumerate(boxes)
    ]
    images = [{"id": 3, "file_name": "sub/a.png", "height": 50, "width": 100}]
    path = tmp_path / "train.json"
    document = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "thing"}]}
    path.write_text(json.dumps(document))
    return path


def test_boxes_of_slices_by_hand(large, tmp_path):
    # slices of 40 x 40 with an overlap of a quarter start at x = 0, 30, 60 and y = 0, 10
    line = slice_dataset(str(large), str(tmp_path / "images"), str(tmp_path / "out"), 40, 0.25)
    assert line.endswith(f"images in {tmp_path}/out/train_images_40_025") and "6 slices of 1 images" in line
    document = json.loads((tmp_path / "out" / "train_40_025.json").read_text())
    assert [image["file_name"] for image in document["images"]] == [
        f"sub_a_{x}_{y}_{x + 40}_{y + 40}.png" for y in (0, 10) for x in (0, 30, 60)
    ]
    assert document["categories"] == [{"id": 5, "name": "thing"}]
    boxes = {}
    for annotation in document["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
        assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3] and annotation["category_id"] == 5
    assert boxes[1] == [[10, 20, 20, 10], [35, 0, 5, 10], [2, 5, 38, 35], [36, 30, 4, 10]]
    # the part of the third box in the second slice is 14 x 35 of 42 x 42 pixels, 0.28
    assert boxes[2] == [[5, 0, 10, 10], [0, 5, 14, 35], [28, 0, 12, 20], [6, 30, 34, 10]]
    assert boxes[3] == [[0, 0, 28, 20], [0, 30, 16, 10]]
    # the slices of the second row start at y = 10
    assert boxes[4] == [[10, 10, 20, 10], [2, 0, 38, 37], [36, 20, 4, 10]]
    assert [a["iscrowd"] for a in document["annotations"]][:2] == [1, 0]
    assert [a["id"] for a in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))


def test_slices_are_a_dataset_with_the_pixels_of_the_image(large, tmp_path):
    slice_dataset(str(large), str(tmp_path / "images"), str(tmp_path / "out"), 40, 0.25)
    fields = ["image", "gt_bbox", "gt_class"]
    dataset = COCODataSet(str(tmp_path / "out"), "train_images_40_025", "train_40_025.json", fields, allow_empty=True)
    assert len(dataset) == 6
    whole = cv2.imread(str(tmp_path / "images" / "sub" / "a.png"))
    part = cv2.imread(dataset.record(1)["im_file"])
    assert (part == whole[:40, 30:70]).all()


def test_images_that_are_smaller_than_a_slice_are_kept_whole(large, tmp_path):
    slice_dataset(str(large), str(tmp_path / "images"), str(tmp_path / "out"), 200, 0.5)
    document = json.loads((tmp_path / "out" / "train_200_05.json").read_text())
    assert document["images"] == [{"id": 1, "file_name": "sub_a_0_0_100_50.png", "height": 50, "width": 100}]
    assert len(document["annotations"]) == 6


def test_damaged_images_and_wrong_flags_are_one_line(large, tmp_path, monkeypatch, capsys):
    (tmp_path / "images" / "sub" / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="a.png .*repair or remove it"):
        slice_dataset(str(large), str(tmp_path / "images"), str(tmp_path / "out"), 40, 0.25)
    for flags in (["--slice_size", "0"], ["--overlap_ratio", "1"]):
        files = ["--image_dir", "a", "--json_path", "b", "--output_dir", "c"]
        monkeypatch.setattr(sys, "argv", ["slice_image.py", *files, *flags])
        with pytest.raises(SystemExit) as done:
            run_script("slice_image")
        assert done.value.code == 2 and flags[0] in capsys.readouterr().err


def test_the_script_has_paddledetections_flags(large, tmp_path, monkeypatch, capsys):
    flags = ["--image_dir", tmp_path / "images", "--json_path", large, "--output_dir", tmp_path / "out"]
    for command in (["slice_image"], ["data", "slice"]):
        monkeypatch.setattr(sys, "argv", ["script", *command[1:], *map(str, flags), "--slice_size", "64"])
        with pytest.raises(SystemExit) as done:
            run_script(command[0])
        assert not done.value.code
        assert "train_64_025.json: 2 slices of 1 images" in capsys.readouterr().out
