"""tools/x2coco.py: COCO files of annotations in other formats, by hand."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest

from ppdet_repro.cli.main import run_script
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.x2coco import convert_shapes, convert_voc, convert_widerface
from ppdet_repro.utils.errors import UserError


def picture(path, height=40, width=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 99, np.uint8))


def xml(name, *objects, size="<size><width>60</width><height>40</height></size>"):
    items = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for label, (x1, y1, x2, y2) in objects
    )
    return f"<annotation><filename>{name}</filename>{size}{items}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """Writes VOC files of two pictures; returns the arguments of `convert_voc`."""

    def make(second=None):
        folder = tmp_path / "Annotations"
        folder.mkdir()
        (folder / "a.xml").write_text(xml("a.png", ("dog", (5, 6, 25, 16)), ("cat", (0, 0, 10.5, 4))))
        (folder / "b.xml").write_text(second or xml("b.png"))
        (tmp_path / "train.txt").write_text("images/a.png a\nb.xml\n")
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
        return [str(path) for path in (folder, tmp_path / "train.txt", tmp_path / "labels.txt", tmp_path / "voc.json")]

    return make


def test_voc_files_by_hand(voc, tmp_path):
    arguments = voc()
    assert convert_voc(*arguments).endswith("voc.json: 2 images, 2 boxes, 2 classes")
    document = json.loads((tmp_path / "voc.json").read_text())
    assert document["images"] == [
        {"id": 0, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 1, "file_name": "b.png", "height": 40, "width": 60},
    ]
    assert [(c["id"], c["name"]) for c in document["categories"]] == [(1, "cat"), (2, "dog")]
    first, second = document["annotations"]
    assert first["bbox"] == [5, 6, 20, 10] and first["area"] == 200 and first["category_id"] == 2 and first["id"] == 1
    assert second["bbox"] == [0, 0, 10.5, 4] and second["image_id"] == 0 and second["iscrowd"] == 0


@pytest.mark.parametrize(
    "content, message",
    [
        (xml("b.png", ("bird", (1, 1, 5, 5))), "class 'bird' is not in .*labels.txt"),
        (xml("b.png", ("cat", (5, 1, 5, 5))), "has no area"),
        (xml("b.png", size=""), "train.txt:2. has no size"),
        ("<annotation>", "b.xml"),
    ],
)
def test_wrong_voc_files(content, message, voc):
    with pytest.raises(UserError, match=message):
        convert_voc(*voc(content))


def test_wider_face_by_hand(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / f"WIDER_{split}" / "images" / "0--Parade" / "a.jpg")
        text = "0--Parade/a.jpg\n2\n1 2 10 20 0 1 0 0 2 0 \n5 6 7 8 1 0 1 0 0 1 \n0--Parade/none.jpg\n0\n" + "0 " * 10
        path = tmp_path / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n")
    lines = convert_widerface(str(tmp_path)).splitlines()
    assert len(lines) == 2 and lines[1].endswith("1 image, 2 boxes, 1 class; left out: 1 missing picture")
    document = json.loads((tmp_path / "widerface_train.json").read_text())
    assert document["images"] == [
        {"id": 0, "file_name": "WIDER_train/images/0--Parade/a.jpg", "height": 40, "width": 60}
    ]
    assert document["categories"][0]["id"] == 0
    box = document["annotations"][0]
    assert box["bbox"] == [1, 2, 10, 20] and box["area"] == 200 and box["expression"] == 1 and box["occlusion"] == 2
    picture(
        tmp_path / "WIDER_val" / "images" / "0--Parade" / "none.jpg"
    )  # a picture without faces has one line of zeros
    assert convert_widerface(str(tmp_path)).endswith("2 images, 2 boxes, 1 class")
    path.write_text("0--Parade/a.jpg\nmany\n")
    with pytest.raises(UserError, match="gt.txt:1: after 0--Parade/a.jpg"):
        convert_widerface(str(tmp_path))


def labelme(*shapes, name="a.jpg"):
    keys = ("label", "shape_type", "points")
    return {
        "imagePath": f"..\\images\\{name}",
        "imageHeight": 40,
        "imageWidth": 60,
        "shapes": [dict(zip(keys, shape)) for shape in shapes],
    }


@pytest.fixture
def folders(tmp_path):
    """Five pictures with labelme's files; returns the folders of the files, of the pictures, and an empty one."""
    for i in range(1, 6):
        picture(tmp_path / "images" / f"{i}.jpg")
        shapes = [(f"class{i}", "polygon", [[1, 2], [11, 2], [6, 12.5]])]
        if i == 1:
            shapes += [("box", "rectangle", [[20, 30], [10, 5]]), ("dot", "point", [[3, 3]])]
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{i}.json").write_text(json.dumps(labelme(*shapes)))
    return [str(tmp_path / name) for name in ("labels", "images", "out")]


def test_labelme_files_by_hand(folders, tmp_path):
    text = convert_shapes("labelme", *folders, {"train": 0.6, "val": 0.2, "test": 0.2})
    assert text.splitlines()[0].endswith("instance_train.json: 3 images, 4 boxes, 6 classes")
    assert text.splitlines()[-1] == "left out: 1 shape without a polygon or rectangle"
    document = json.loads((tmp_path / "out" / "annotations" / "instance_train.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["1.jpg", "2.jpg", "3.jpg"]
    assert [image["id"] for image in document["images"]] == [1, 2, 3]
    polygon, rectangle = document["annotations"][:2]
    assert polygon["bbox"] == [1, 2, 10, 10.5] and polygon["segmentation"] == [[1, 2, 11, 2, 6, 12.5]]
    assert rectangle["bbox"] == [10, 5, 10, 25] and rectangle["area"] == 250
    assert rectangle["segmentation"] == [[10, 5, 10, 30, 20, 30, 20, 5]]
    assert [category["name"] for category in document["categories"]][:2] == ["class1", "box"]
    for split, names in (("train", "123"), ("val", "4"), ("test", "5")):
        assert sorted(path.stem for path in (tmp_path / "out" / split).iterdir()) == list(names)
        dataset = COCODataSet(str(tmp_path / "out"), split, f"annotations/instance_{split}.json", ["gt_bbox"])
        assert len(dataset) == len(names)


def test_no_picture_is_lost_by_rounding(folders, tmp_path):
    convert_shapes("labelme", *folders, {"train": 0.5, "val": 0.5, "test": 0.0})
    assert [len(list((tmp_path / "out" / split).iterdir())) for split in ("train", "val")] == [2, 3]
    assert not (tmp_path / "out" / "test").exists()


def test_cityscapes_files_by_hand(tmp_path):
    picture(tmp_path / "images" / "a.png")
    shapes = [{"label": "car", "polygon": [[0, 0], [4, 0], [4, 9]]}]
    (tmp_path / "a.json").write_text(json.dumps({"imgHeight": 40, "imgWidth": 60, "objects": shapes}))
    shares = {"train": 1.0, "val": 0.0, "test": 0.0}
    convert_shapes("cityscape", str(tmp_path), str(tmp_path / "images"), str(tmp_path / "out"), shares)
    document = json.loads((tmp_path / "out" / "annotations" / "instance_train.json").read_text())
    assert document["images"] == [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}]
    assert document["annotations"][0]["bbox"] == [0, 0, 4, 9]


@pytest.mark.parametrize(
    "content, message",
    [("{}", "has no list 'shapes'"), ('{"shapes": []}', "imageHeight"), ("[", "JSON"), (None, "does not exist")],
)
def test_wrong_labelme_files(content, message, folders, tmp_path):
    path = tmp_path / "labels" / "3.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        convert_shapes("labelme", *folders, {"train": 1.0, "val": 0.0, "test": 0.0})


def test_the_shares_add_up(folders):
    with pytest.raises(UserError, match="add up to 1"):
        convert_shapes("labelme", *folders, {"train": 0.5, "val": 0.0, "test": 0.0})


def test_the_script_has_paddledetections_flags(voc, tmp_path, monkeypatch, capsys):
    anno_dir, anno_list, labels, _ = voc()

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["x2coco.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            run_script("x2coco")
        return done.value.code

    flags = ["--voc_anno_dir", anno_dir, "--voc_anno_list", anno_list, "--voc_label_list", labels]
    assert not run("--dataset_type", "voc", *flags, "--output_dir", tmp_path / "out", "--voc_out_name", "t.json")
    assert (tmp_path / "out" / "t.json").exists() and "2 images" in capsys.readouterr().out
    assert run("--dataset_type", "labelme", "--json_input_dir", anno_dir) == 2
    assert "--dataset_type labelme needs --image_input_dir" in capsys.readouterr().err
