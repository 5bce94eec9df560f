"""The files that the page offers for download, written by its JavaScript in Node and read by this package."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from ppdet_repro.data.source.coco_file import read_coco
from ppdet_repro.data.source.findings import Findings
from ppdet_repro.data.source.voc import VOCDataSet

FOLDER = Path(__file__).parents[2] / "ppdet_repro" / "serve"
CLASSES = ["cat", "<b> & dog"]
CAT = {"class_id": 0, "name": "cat", "score": 0.75, "box": [10, 20, 110, 60]}
DOG = {"class_id": 1, "name": "<b> & dog", "score": 0.5, "box": [-2, 0, 40, 101.5]}
SMALL_DOG = {"class_id": 1, "name": "<b> & dog", "score": 1, "box": [0, 0, 30, 10]}
PICTURES = [
    {"name": "a.jpg", "width": 200, "height": 100, "boxes": [CAT, DOG]},
    {"name": "A.png", "width": 60, "height": 40, "boxes": []},
    {"name": "猫.v2.png", "width": 60, "height": 40, "boxes": [SMALL_DOG]},
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What each function of formats.js gives for PICTURES, by its name."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    folder = tmp_path_factory.mktemp("formats")
    shutil.copy(FOLDER / "formats.js", folder / "formats.mjs")
    (folder / "run.mjs").write_text(
        f"""import * as formats from "./formats.mjs";
        const pictures = {json.dumps(PICTURES)}, classes = {json.dumps(CLASSES)};
        for (const name of ["asJson", "asCoco", "asVoc", "asYolo"]) {{
          console.log(Buffer.from(formats[name](pictures, classes)).toString("base64"));
        }}"""
    )
    done = subprocess.run([node, folder / "run.mjs"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(("json", "coco", "voc", "yolo"), map(base64.b64decode, done.stdout.split())))


def unzipped(data, folder):
    """Unpack a zip file, and put the pictures into a folder beside it."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None  # the checksums
        file.extractall(folder)
    (folder / "images").mkdir()
    for picture in PICTURES:
        (folder / "images" / picture["name"]).write_bytes(
            cv2.imencode(".png", np.zeros((picture["height"], picture["width"], 3), np.uint8))[1].tobytes()
        )
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".txt", ".xml"))


def test_json_has_the_boxes_of_each_file(written):
    found = json.loads(written["json"])
    assert [picture.pop("file") for picture in found] == ["a.jpg", "A.png", "猫.v2.png"]
    assert found == [{key: picture[key] for key in ("width", "height", "boxes")} for picture in PICTURES]


def test_coco_is_read_as_a_dataset(written, tmp_path):
    path = tmp_path / "coco.json"
    path.write_bytes(written["coco"])
    file = read_coco(str(path), Findings(""))
    assert file.names == CLASSES and file.category_ids == [1, 2] and list(file.images.names)[2] == "猫.v2.png"
    a = file.annotations
    assert a.image_of.tolist() == [0, 0, 2] and a.class_of.tolist() == [0, 1, 1]
    assert a.xywh.tolist() == [[10, 20, 100, 40], [-2, 0, 42, 101.5], [0, 0, 30, 10]]
    assert a.areas.tolist() == [4000, 4263, 300]
    assert [row["score"] for row in json.loads(written["coco"])["annotations"]] == [0.75, 0.5, 1]


def test_voc_is_read_as_a_dataset(written, tmp_path):
    assert unzipped(written["voc"], tmp_path) == [
        "Annotations/A_2.xml", "Annotations/a.xml", "Annotations/猫.v2.xml", "label_list.txt",
    ]  # fmt: skip
    lines = [f"images/{p['name']} Annotations/{stem}.xml\n" for p, stem in zip(PICTURES, ("a", "A_2", "猫.v2"))]
    (tmp_path / "train.txt").write_text("".join(lines), encoding="utf-8")
    source = VOCDataSet(str(tmp_path), "", "train.txt", label_list="label_list.txt", allow_empty=True)
    assert list(source.class_names) == CLASSES and len(source) == 3
    records = {Path(file).name: source.record(i) for i, file in enumerate(source.table.files)}
    assert records["a.jpg"]["gt_class"].ravel().tolist() == [0, 1]
    assert records["a.jpg"]["gt_bbox"][0].tolist() == [10, 20, 110, 60]
    assert records["猫.v2.png"]["gt_bbox"].tolist() == [[0, 0, 30, 10]] and len(records["A.png"]["gt_bbox"]) == 0


def test_yolo_lines_by_hand(written, tmp_path):
    names = unzipped(written["yolo"], tmp_path)
    assert names == ["classes.txt", "labels/A_2.txt", "labels/a.txt", "labels/猫.v2.txt"]
    assert (tmp_path / "classes.txt").read_text().splitlines() == CLASSES
    # (10 + 110) / 2 / 200, (20 + 60) / 2 / 100, 100 / 200, 40 / 100; the other box is clipped to 0, 0, 40, 100
    assert (tmp_path / "labels/a.txt").read_text().splitlines() == [
        "0 0.300000 0.400000 0.500000 0.400000",
        "1 0.100000 0.500000 0.200000 1.000000",
    ]
    assert (tmp_path / "labels/A_2.txt").read_text() == ""
