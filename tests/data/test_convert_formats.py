"""Conversions between COCO, VOC, YOLO and labelme keep every box; `data check` reads all of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from dataset_formats import boxes_of, coco, labelme, rectangle, write, write_in_all_formats, write_picture

from ppdet_repro.cli.main import run_script
from ppdet_repro.data.source.convert import convert_splits
from ppdet_repro.data.source.layouts import find_datasets
from ppdet_repro.utils.errors import UserError


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs `data` with the given words. Returns its exit code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["dataset.py", *map(str, words)])
        with pytest.raises(SystemExit) as done:
            run_script("data")
        return (done.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def folders(tmp_path, monkeypatch):
    return write_in_all_formats(tmp_path, monkeypatch)


@pytest.mark.parametrize("form", ["coco", "voc", "yolo", "labelme"])
@pytest.mark.parametrize("to", ["coco", "voc", "yolo", "labelme"])
def test_every_box_survives_every_conversion(folders, form, to):
    convert_splits(find_datasets(str(folders[form])), "there", to=to)
    if to != "coco":
        convert_splits(find_datasets("there"), "back", to="coco")
    back = "there" if to == "coco" else "back"
    given = {split: boxes_of(f"made/annotations/instances_{split}.json") for split in ("train", "val")}
    assert sum(len(boxes) for boxes, _ in given.values()) > 30
    for split, expected in given.items():
        assert boxes_of(f"{back}/{split}.json") == expected


def test_what_yolo_files_look_like(tmp_path, tool):
    write_picture(tmp_path / "a b.jpg", 100, 50)
    document = coco([("a b.jpg", 100, 50)], [(1, 2, 10, 20, 30, 10), (1, 1, 0, 0, 100, 50)], ["犬", "cat"])
    document["annotations"].append({**document["annotations"][0], "id": 9, "iscrowd": 1})
    write(tmp_path / "instances_train2017.json", document)
    code, out, _ = tool("convert", tmp_path / "instances_train2017.json", tmp_path / "yolo", "--to", "yolo")
    assert code == 0 and "data.yaml, train: 1 image, 3 boxes, 2 classes" in out
    # centers (25, 25) and (50, 25); the crowd region has no line
    assert (tmp_path / "yolo/labels/train/a b.txt").read_text() == "1 0.25 0.5 0.3 0.2\n0 0.5 0.5 1 1\n"
    assert (tmp_path / "yolo/images/train/a b.jpg").read_bytes() == (tmp_path / "a b.jpg").read_bytes()
    text = (tmp_path / "yolo/data.yaml").read_text(encoding="utf-8")
    assert text == 'train: images/train\nnc: 2\nnames: ["犬", "cat"]\n'
    code, _, error = tool("convert", tmp_path / "instances_train2017.json", tmp_path / "yolo", "--to", "yolo")
    assert code == 2 and "exists (and 2 more): choose another path, or overwrite it with --force" in error


def test_what_labelme_files_look_like(tmp_path, tool):
    write_picture(tmp_path / "sub" / "a b.png", 100, 50)
    annotations = [(1, 2, 10, 20, 30.25, 10), (1, 1, 0, 0, 100, 50), (1, 1, 0, 0, 100, 50)]
    document = coco([("sub/a b.png", 100, 50)], annotations, ["犬", " cat"])
    document["annotations"][1]["iscrowd"] = 1
    document["annotations"][2]["difficult"] = 1
    write(tmp_path / "instances_val.json", document)
    command = "convert", tmp_path / "instances_val.json", tmp_path / "there", "--to", "labelme"
    code, out, _ = tool(*command)
    assert code == 0 and "there/val: 1 image, 3 boxes, 2 classes" in out
    assert (tmp_path / "there/val/sub/a b.png").read_bytes() == (tmp_path / "sub/a b.png").read_bytes()
    found = json.loads((tmp_path / "there/val/sub/a b.json").read_text(encoding="utf-8"))
    assert {key: found[key] for key in ("imagePath", "imageData", "imageHeight", "imageWidth")} == {
        "imagePath": "a b.png", "imageData": None, "imageHeight": 50, "imageWidth": 100,
    }  # fmt: skip
    cat, dog = found["shapes"]  # the crowd region has no shape
    assert (cat["label"], cat["points"], cat["shape_type"]) == ("cat", [[10, 20], [40.25, 30]], "rectangle")
    assert (dog["label"], dog["points"], dog["difficult"]) == ("犬", [[0, 0], [100, 50]], True)
    assert "difficult" not in cat and "exists (and 1 more)" in tool(*command)[2]


def test_several_splits_are_files_in_a_folder(folders, tool):
    assert tool("convert", "yolo", "all.json")[0] == 2
    code, _, error = tool("convert", "yolo", "all.json")
    assert "all.json: the dataset has the splits train, val: give a folder, and --to coco" in error
    code, _, error = tool("convert", "labelme", "there")
    assert code == 2 and "or say what to write into a folder: --to coco, voc, yolo or labelme" in error
    code, out, _ = tool("convert", "labelme", "there", "--to", "coco")
    assert code == 0 and out.count("images, ") == 2 and "there/val.json: 4 images" in out


def test_splits_of_labelme_get_the_same_classes(tmp_path):
    for split, name in (("train", "cat"), ("val", "dog")):
        write_picture(tmp_path / f"in/{split}/{name}.jpg")
        write(tmp_path / f"in/{split}/{name}.json", labelme(f"{name}.jpg", rectangle(name, 1, 2, 30, 40)))
    convert_splits(find_datasets(str(tmp_path / "in")), str(tmp_path / "out"), to="coco")
    for split in ("train", "val"):
        document = json.loads((tmp_path / f"out/{split}.json").read_text())
        assert [entry["name"] for entry in document["categories"]] == ["cat", "dog"]


def test_coco_files_with_other_classes_are_refused(tmp_path):
    for split, names in (("train", ["cat", "dog"]), ("val", ["cat", "cow"])):
        write_picture(tmp_path / f"{split}/{split}.jpg")
        write(tmp_path / f"instances_{split}.json", coco([(f"{split}.jpg", 100, 50)], [(1, 1, 0, 0, 9, 9)], names))
    with pytest.raises(UserError, match="instances_train.json and .*val.json have other classes: only one of them has"):
        convert_splits(find_datasets(str(tmp_path)), str(tmp_path / "out"), to="coco")


def test_check_reads_folders_of_all_formats(folders, tool):
    for form, folder in folders.items():
        code, out, _ = tool("check", folder, "--json", f"{form}.json")
        reports = json.loads(Path(f"{form}.json").read_text())
        assert code == 0 and [report["images"] for report in reports] == [8, 4], out
    numbers = [[r["classes"] for r in json.loads(Path(f"{form}.json").read_text())] for form in folders]
    assert numbers[0] == numbers[1] == numbers[2] == numbers[3]
    assert "yolo, train: 8 images" in tool("check", "yolo", "--fast")[1]


def test_check_lists_what_is_wrong_in_yolo_files(tmp_path, tool):
    for name in "ab":
        write_picture(tmp_path / f"{name}.jpg")
    write(tmp_path / "classes.txt", "cat\n")
    write(tmp_path / "a.txt", "0 0.5 0.5 0.1 0.1\n3 0.5 0.5 0.1 0.1\n4 0.5 0.5 0.1 0.1\n")
    write(tmp_path / "b.txt", "0 0.5 0.5 0 0.1\n")
    code, out, _ = tool("check", tmp_path)
    assert code == 1
    assert "annotation of an unknown category (2, refused)" in out and "a.txt:3: class 4, but " in out
    assert "fix: add its name there or correct the label" in out
    assert "box without area or inverted (1, left out)" in out
    assert tool("show", tmp_path, "--out", tmp_path / "drawn")[0] == 2  # show stops at the first mistake, as training


def test_show_draws_a_folder_of_yolo_files(folders, tool):
    assert tool("show", "yolo", "--out", "drawn", "-n", 2)[0] == 0


def test_check_finds_damaged_pictures_unless_it_is_fast(tmp_path, tool):
    write_picture(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) // 2])
    write(tmp_path / "a.json", coco([("a.jpg", 100, 50)], [(1, 1, 0, 0, 9, 9)], ["cat"]))
    assert "file that is no readable image (1, refused)" in tool("check", tmp_path / "a.json")[1]
    assert tool("check", tmp_path / "a.json", "--decode")[0] == 1
    assert tool("check", tmp_path / "a.json", "--fast")[0] == 0
    assert "--fast and --decode contradict" in tool("check", tmp_path / "a.json", "--fast", "--decode")[2]


def test_text_of_yolo_given_as_a_list_of_voc(tmp_path, tool):
    write(tmp_path / "a.txt", "0 0.5 0.5 0.4 0.6\n")
    code, _, error = tool("check", tmp_path / "a.txt")
    assert code == 2 and error.count("\n") == 1
    assert "a.txt contains boxes in YOLO's format, and lists no images: give data.yaml, or the folder" in error


def test_a_list_of_pictures_of_yolo_given_as_one_of_voc(folders, tool):
    write("yolo/some.txt", "images/train/000000.jpg\n")
    code, _, error = tool("check", "yolo/some.txt")
    assert code == 2 and "yolo/some.txt lists pictures without XML files, as YOLO does: give data.yaml or" in error
    write("voc/JPEGImages/some.txt", "000000.jpg\n")  # a list of VOC with suffixes stays one
    assert tool("check", "voc/JPEGImages/some.txt", "--image_dir", "voc")[0] == 0


def test_a_labelme_file_given_as_coco(tmp_path, tool):
    write(tmp_path / "a.json", labelme("a.jpg"))
    code, _, error = tool("check", tmp_path / "a.json")
    assert code == 2 and "a.json is a labelme file, not COCO annotations: give the folder of all such files" in error


def test_missing_pictures_are_looked_for(tmp_path, tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("1.jpg", "2.jpg"):
        write_picture(tmp_path / "data/pictures" / name)
    write(tmp_path / "data/labels/a.json", coco([("1.jpg", 100, 50), ("2.jpg", 100, 50)], [], ["cat"]))
    code, out, _ = tool("check", "data/labels/a.json")
    advice = "2 of them are in data/pictures: give --image_dir data/pictures, or set dataset_dir and image_dir"
    assert code == 1 and advice in out
    assert advice in tool("convert", "data/labels/a.json", "out")[2]
    write(tmp_path / "data/labels/train.txt", "1.jpg 1.xml\n2.jpg 2.xml\n")
    code, out, _ = tool("check", "data/labels/train.txt")
    assert advice in out and "or remove the line" in out
    (tmp_path / "data/pictures").rename(tmp_path / "elsewhere")
    assert "fix: set dataset_dir and image_dir, or remove the entry" in tool("check", "data/labels/a.json")[1]
