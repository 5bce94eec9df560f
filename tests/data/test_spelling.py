"""File names that are spelled in a dataset otherwise than on the disk."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from transform_samples import encoded, noise_image
from voc_devkit import CAT, write_devkit, xml

from ppdet_repro.data.source.check import check
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.convert import convert
from ppdet_repro.data.source.dataset_files import find_dataset
from ppdet_repro.data.source.findings import ODD
from ppdet_repro.data.source.show import show
from ppdet_repro.data.source.spelling import find_spelling, readable
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.runtime.results import video_writer
from ppdet_repro.runtime.sources import open_video
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import require_utf8

KIND = "or other letters"
GBK = os.fsdecode("圆盘.jpg".encode("gbk"))
SPELLINGS = [
    ("IMG_1.JPG", "img_1.jpg"),
    ("Sub/a.Jpg", "sub/A.jpg"),
    (unicodedata.normalize("NFD", "é.jpg"), unicodedata.normalize("NFC", "é.jpg")),
    (GBK, "圆盘.jpg"),
    (f"{GBK[:-4]}/{GBK}", "圆盘/圆盘.jpg"),
]


def write(path: Path) -> bool:
    """Write an image. False if the file system does not take the name, as that of macOS with names in GBK."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(".jpg", noise_image(60, 100)))
    except OSError:
        return False
    return True


def coco_file(folder: Path, *names: str) -> str:
    images = [{"id": i, "file_name": name, "width": 100, "height": 60} for i, name in enumerate(names, 1)]
    box = {"bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0, "category_id": 1}
    boxes = [{"id": image["id"], "image_id": image["id"], **box} for image in images]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    (folder / "a.json").write_text(json.dumps(document))
    return str(folder / "a.json")


@pytest.mark.parametrize("on_disk, given", SPELLINGS)
def test_a_coco_file_finds_them(on_disk, given, tmp_path):
    if not write(tmp_path / on_disk):
        pytest.skip("the file system does not take the name")
    path = coco_file(tmp_path, given)
    source = COCODataSet(dataset_dir=str(tmp_path), anno_path="a.json", data_fields=["image", "gt_bbox", "gt_class"])
    assert [os.path.relpath(file, tmp_path) for file in source.table.files] == [on_disk]
    assert f"{KIND} (1)" in source.summary
    report = check(find_dataset(path), decode=True)
    assert not report.problems and [note.effect for note in report.notes] == [ODD]


def test_two_files_that_may_be_meant_are_none(tmp_path):
    write(tmp_path / "A.jpg")
    write(tmp_path / "a.JPG")
    assert find_spelling(str(tmp_path), "A.jpg") == str(tmp_path / "A.jpg")
    assert find_spelling(str(tmp_path), "a.jpg") is None
    path = coco_file(tmp_path, "a.jpg")
    with pytest.raises(UserError, match="a.jpg does not exist"):
        COCODataSet(dataset_dir=str(tmp_path), anno_path=path, data_fields=["image", "gt_bbox"]).load()


def test_a_file_that_comes_later_is_found(tmp_path):
    assert find_spelling(str(tmp_path), "a.jpg") is None
    write(tmp_path / "A.jpg")
    os.utime(tmp_path, ns=(1, 1))  # on a file system that keeps whole seconds, the time would not differ
    assert find_spelling(str(tmp_path), "a.jpg") == str(tmp_path / "A.jpg")
    assert find_spelling(str(tmp_path), "none/a.jpg") is None


@pytest.mark.parametrize(
    "line", ["IMG", "img", "img.jpg", "JPEGImages\\IMG.JPG", "JPEGImages/img.JPG Annotations/IMG.xml"]
)
def test_a_voc_set_finds_them(line, tmp_path):
    source = write_devkit(tmp_path, {"img": xml([CAT])}, labels=["cat"])
    os.rename(tmp_path / "JPEGImages/img.jpg", tmp_path / "JPEGImages/Img.Jpg")
    os.rename(tmp_path / "Annotations", tmp_path / "annotations")
    set_file = tmp_path / "ImageSets/Main/train.txt"
    set_file.write_text(line + "\n")
    assert [os.path.normpath(file) for file in source.table.files] == [str(tmp_path / "JPEGImages/Img.Jpg")]
    assert source.table.starts[-1] == 1 and f"{KIND} (1)" in source.summary
    report = check(find_dataset(str(set_file)))
    assert not report.problems and len(report.notes) == 1


def test_convert_writes_names_as_text(tmp_path):
    if not write(tmp_path / GBK):
        pytest.skip("the file system does not take the name")
    there, back = tmp_path / "voc", tmp_path / "back.json"
    convert(find_dataset(coco_file(tmp_path, "圆盘.jpg")), str(there))
    assert (there / "ImageSets/Main/a.txt").read_text(encoding="utf-8") == "圆盘\n"
    os.rename(there / "JPEGImages/圆盘.jpg", there / "JPEGImages" / GBK)
    convert(find_dataset(str(there / "ImageSets/Main/a.txt")), str(back))
    assert json.loads(back.read_text(encoding="utf-8"))["images"][0]["file_name"] == "圆盘.jpg"


def test_pictures_are_written_below_folders_whose_names_are_not_utf8(tmp_path):
    """cv2.imwrite ends the process with such a name."""
    if not write(tmp_path / GBK):
        pytest.skip("the file system does not take the name")
    folder = tmp_path / GBK[:-4]
    generate(folder, train=1, val=1, size=(64, 64))
    source = COCODataSet(
        dataset_dir=str(folder),
        image_dir="train",
        anno_path="annotations/instances_train.json",
        data_fields=["image", "gt_bbox", "gt_class"],
    )
    sheet = show(source, str(folder / "shown"))
    assert sheet.parent.parent == folder and sheet.stat().st_size > 0


def test_videos_with_such_names_are_refused(tmp_path):
    """OpenCV ends the process with such a name."""
    path = str(tmp_path / GBK)
    with pytest.raises(UserError, match="whose name is not UTF-8; rename"):
        require_utf8(path)
    require_utf8("圆盘.mp4")
    with pytest.raises(UserError, match="whose name is not UTF-8"), video_writer(Path(path), 5.0) as add:
        add(np.zeros((8, 8, 3), np.uint8))
    if write(Path(path)):
        with pytest.raises(UserError, match="whose name is not UTF-8"), open_video(path, 0):
            pass


def test_readable():
    assert readable("é.jpg") == "é.jpg" and readable("\ud800") == "\ud800"
    assert readable(GBK) == "圆盘.jpg"
    assert readable(os.fsdecode(b"a\xff.jpg")) == "a\\xff.jpg"
