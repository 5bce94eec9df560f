"""What lies in a folder: formats, splits, pictures and class names, in the layouts of labelling tools."""

from __future__ import annotations

import os

import pytest
from dataset_formats import coco, labelme, rectangle, write, write_picture
from voc_devkit import xml

from ppdet_repro.data.source.dataset_files import read_labelled
from ppdet_repro.data.source.findings import Findings
from ppdet_repro.data.source.layouts import find_datasets, find_layout
from ppdet_repro.utils.errors import UserError

BOX = "0 0.5 0.5 0.5 0.4\n"  # of a picture of 100 x 50: x 25 to 75, y 15 to 35
CORNERS = (25, 15, 75, 35)
XML = xml([("cat", *CORNERS, "")], 100, 50)
JSON_BOX = (1, 1, 25, 15, 50, 20)


def contents(folder, **options):
    """Split -> [(picture, classes and boxes)] of the dataset in a folder, and the class names."""
    found, names = {}, []
    for split, files in find_layout(str(folder), **options).splits.items():
        for one in files:
            dataset = read_labelled(one, Findings())
            names = dataset.names
            for picture in dataset.pictures:
                objects = [(item.name, item.box) for item in picture.objects]
                found.setdefault(split, []).append((os.path.relpath(picture.file, folder), objects))
    return found, names


def pictures(folder, *names):
    for name in names:
        write_picture(folder / name)


CAT = [("cat", CORNERS)]


def test_ultralytics(tmp_path):
    pictures(tmp_path, "images/train/a.jpg", "images/train/b.png", "images/val/a.jpg")
    write(tmp_path / "labels/train/a.txt", BOX)
    write(tmp_path / "labels/val/a.txt", BOX.replace("0 ", "1 ", 1))
    write(tmp_path / "data.yaml", "path: /elsewhere\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    found, names = contents(tmp_path)
    assert names == ["cat", "dog"]
    assert found == {
        "train": [("images/train/a.jpg", CAT), ("images/train/b.png", [])],  # no label file: no objects
        "val": [("images/val/a.jpg", [("dog", CORNERS)])],
    }


def test_folders_that_data_yaml_names(tmp_path):
    pictures(tmp_path, "images/one/a.jpg", "images/two/b.jpg", "images/two/c.jpg")
    for name in ("one/a", "two/b", "two/c"):
        write(tmp_path / f"labels/{name}.txt", BOX)
    write(tmp_path / "some.txt", "./images/two/b.jpg\n")
    write(tmp_path / "data.yaml", "train: images/one\nval: some.txt\ntest: [images/none]\nnames: [cat]\n")
    found, _ = contents(tmp_path)
    assert {split: [name for name, _ in many] for split, many in found.items()} == {
        "train": ["images/one/a.jpg"],
        "val": ["images/two/b.jpg"],
        "": ["images/two/c.jpg"],
    }


def test_lists_outside_the_folder_are_not_read(tmp_path):
    pictures(tmp_path / "set", "a.jpg")
    write(tmp_path / "set/a.txt", BOX)
    write(tmp_path / "secret.txt", "a.jpg\n")
    write(tmp_path / "set/data.yaml", f"train: {tmp_path}/secret.txt\nval: ../secret.txt\nnames: [cat]\n")
    assert list(find_layout(str(tmp_path / "set")).splits) == [""]


def test_roboflow_in_three_formats(tmp_path):
    for form in ("yolo", "voc", "coco"):
        for split in ("train", "valid"):
            folder = tmp_path / form / split
            if form == "yolo":
                pictures(folder, f"images/{split}.jpg")
                write(folder / f"labels/{split}.txt", BOX)
            else:
                pictures(folder, f"{split}.jpg")
                write(folder / f"{split}.xml", XML) if form == "voc" else None
            if form == "coco":
                document = coco([(f"{split}.jpg", 100, 50)], [JSON_BOX], ["cat"])
                write(folder / "_annotations.coco.json", document)
    write(tmp_path / "yolo/data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
    write(tmp_path / "yolo/README.roboflow.txt", "text\n")
    for form in ("yolo", "voc", "coco"):
        found, names = contents(tmp_path / form)
        assert names == ["cat"], form
        assert {split: many[0][1] for split, many in found.items()} == {"train": CAT, "val": CAT}, form


def test_roboflows_darknet(tmp_path):
    pictures(tmp_path, "train/a.jpg", "valid/b.jpg")
    for name in ("train/a", "valid/b"):
        write(tmp_path / f"{name}.txt", BOX)
        write(tmp_path / os.path.dirname(name) / "_darknet.labels", "cat\n")
    assert contents(tmp_path) == ({"train": [("train/a.jpg", CAT)], "val": [("valid/b.jpg", CAT)]}, ["cat"])


def test_cvats_yolo_lists_the_pictures_of_a_split(tmp_path):
    pictures(tmp_path, "obj_train_data/a.jpg", "obj_train_data/b.jpg")
    for name in "ab":
        write(tmp_path / f"obj_train_data/{name}.txt", BOX)
    write(tmp_path / "obj.names", "cat\n")
    write(tmp_path / "obj.data", "classes = 1\n")
    write(tmp_path / "train.txt", "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg\n")
    found, names = contents(tmp_path)
    assert names == ["cat"] and [name for name, _ in found["train"]] == ["obj_train_data/a.jpg", "obj_train_data/b.jpg"]


def test_darknets_lists_of_pictures(tmp_path):
    pictures(tmp_path, "obj/a.jpg", "obj/b.jpg")
    for name in "ab":
        write(tmp_path / f"obj/{name}.txt", BOX)
    write(tmp_path / "obj.names", "cat\n")
    write(tmp_path / "train.txt", "data/obj/a.jpg\n")
    write(tmp_path / "valid.txt", "data\\obj\\b.jpg\n")
    assert contents(tmp_path)[0] == {"train": [("obj/a.jpg", CAT)], "val": [("obj/b.jpg", CAT)]}


def test_cvats_voc_and_coco(tmp_path):
    pictures(tmp_path / "voc", "JPEGImages/a.jpg")
    write(tmp_path / "voc/Annotations/a.xml", XML)
    write(tmp_path / "voc/ImageSets/Main/default.txt", "a\n")
    write(tmp_path / "voc/ImageSets/Main/cat_train.txt", "a 1\n")  # of one class
    write(tmp_path / "voc/labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\n")
    assert contents(tmp_path / "voc") == ({"": [("JPEGImages/a.jpg", CAT)]}, ["cat"])
    pictures(tmp_path / "coco", "images/default/a.jpg")
    write(tmp_path / "coco/annotations/instances_default.json", coco([("a.jpg", 100, 50)], [JSON_BOX], ["cat"]))
    assert contents(tmp_path / "coco") == ({"": [("images/default/a.jpg", CAT)]}, ["cat"])


def test_label_studios_exports(tmp_path):
    pictures(tmp_path / "coco", "images/1f-a.jpg")
    write(tmp_path / "coco/result.json", coco([("images\\1f-a.jpg", 100, 50)], [JSON_BOX], ["cat"]))
    pictures(tmp_path / "yolo", "images/1f-a.jpg")
    write(tmp_path / "yolo/labels/1f-a.txt", BOX)
    write(tmp_path / "yolo/classes.txt", "cat\n")
    write(tmp_path / "yolo/notes.json", {"categories": [{"id": 0, "name": "cat"}], "info": {}})
    pictures(tmp_path / "voc", "images/1f-a.jpg")
    write(tmp_path / "voc/Annotations/1f-a.xml", XML)
    for form in ("coco", "yolo", "voc"):
        assert contents(tmp_path / form) == ({"": [("images/1f-a.jpg", CAT)]}, ["cat"]), form


def test_coco_and_the_names_of_its_files(tmp_path):
    pictures(tmp_path, "train2017/1.jpg", "val2017/1.jpg")
    for split in ("train2017", "val2017"):
        for kind in ("instances", "person_keypoints"):
            write(tmp_path / f"annotations/{kind}_{split}.json", coco([("1.jpg", 100, 50)], [JSON_BOX], ["cat"]))
        write(tmp_path / f"annotations/captions_{split}.json", {"images": [], "annotations": []})
    write(tmp_path / "annotations/results.json", [{"image_id": 1}])
    assert contents(tmp_path)[0] == {"train": [("train2017/1.jpg", CAT)], "val": [("val2017/1.jpg", CAT)]}


def test_voc_sets_of_a_devkit_and_lists_of_pairs(tmp_path):
    devkit = tmp_path / "devkit"
    pictures(devkit, *(f"JPEGImages/{name}.jpg" for name in "abc"))
    for name in "abc":
        write(devkit / f"Annotations/{name}.xml", XML)
    for split, lines in (("train", "a\n"), ("val", "b\n"), ("trainval", "a\nb\n"), ("test", "c\n")):
        write(devkit / f"ImageSets/Main/{split}.txt", lines)
    found, _ = contents(devkit)  # trainval is both, and no split
    assert {split: [name for name, _ in many] for split, many in found.items()} == {
        "train": ["JPEGImages/a.jpg"],
        "val": ["JPEGImages/b.jpg"],
        "test": ["JPEGImages/c.jpg"],
    }
    pairs = tmp_path / "pairs"
    pictures(pairs, "images/a.jpg", "images/b.jpg")
    for name in "ab":
        write(pairs / f"annotations/{name}.xml", XML)
    write(pairs / "train.txt", "./images/a.jpg ./annotations/a.xml\n")
    write(pairs / "valid.txt", "./images/b.jpg ./annotations/b.xml\n")
    write(pairs / "label_list.txt", "dog\ncat\n")
    found, names = contents(pairs)
    assert names == ["dog", "cat"] and {split: many[0][1] for split, many in found.items()} == {
        "train": CAT,
        "val": CAT,
    }


def test_labelme_names_its_picture(tmp_path):
    pictures(tmp_path, "images/a.jpg", "images/b.jpg")
    write(tmp_path / "labels/one.json", labelme("..\\images\\a.jpg", rectangle("cat", *CORNERS)))
    write(tmp_path / "labels/b.json", labelme("moved/b.jpg", rectangle("dog", *CORNERS)))
    found, names = contents(tmp_path)
    assert found == {"": [("images/a.jpg", CAT), ("images/b.jpg", [("dog", CORNERS)])]} and names == ["cat", "dog"]


def test_a_label_has_no_picture_of_another_split(tmp_path):
    pictures(tmp_path, "images/train/a.jpg", "images/val/b.jpg")
    write(tmp_path / "annotations/train/a.xml", XML)
    write(tmp_path / "annotations/train/b.xml", XML)
    layout = find_layout(str(tmp_path))
    assert list(layout.splits) == ["train"]
    assert (layout.images, layout.without_labels, layout.without_pictures) == (2, 1, 1)
    assert layout.example == str(tmp_path / "annotations/train/b.xml")


def test_what_systems_and_init_put_beside_the_files_is_passed_over(tmp_path):
    pictures(tmp_path, "a.jpg", "._a.jpg", ".hidden/b.jpg", "__MACOSX/a.jpg")
    for name in ("a.xml", "._a.xml", "ppdet_repro/b.xml", "output/c.xml"):
        write(tmp_path / name, XML)
    layout = find_layout(str(tmp_path))
    assert (layout.images, layout.without_pictures) == (1, 0)


def test_links_in_circles_end(tmp_path):
    pictures(tmp_path, "a.jpg")
    write(tmp_path / "a.xml", XML)
    (tmp_path / "again").symlink_to(tmp_path)
    assert find_layout(str(tmp_path)).images == 1


@pytest.mark.parametrize(
    "files, message",
    [
        ([], "has neither pictures nor labels: give the folder that contains both"),
        (["a.jpg"], "has 1 picture and no labels: label them with labelme, CVAT or label-studio"),
        (["a.jpg", "annotations.xml"], "no labels: .*annotations.xml is in CVAT's own format: export it as COCO"),
        (["a.xml"], r"has labels \(1 VOC XML file \(such as .*a.xml\)\) and no pictures: copy or link"),
        (["b.jpg", "a.xml"], "has 1 picture and 1 VOC XML file .* no label file has the name of a picture"),
        (["a.jpg", "a.txt"], "YOLO labels without class names .*write classes.txt into it"),
        (
            ["a.jpg", "a.xml", "a.txt"],
            "labels in 2 formats, 1 VOC XML file .*1 YOLO text file .*--format voc or --format",
        ),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, files, message):
    text = {"a.xml": XML, "annotations.xml": "<?xml version='1.0'?><annotations></annotations>", "a.txt": BOX}
    for name in files:
        pictures(tmp_path, name) if name.endswith("jpg") else write(tmp_path / name, text[name])
    with pytest.raises(UserError, match=message) as error:
        find_layout(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_format_can_be_chosen(tmp_path):
    pictures(tmp_path, "a.jpg")
    write(tmp_path / "a.xml", XML)
    write(tmp_path / "a.txt", BOX)
    assert contents(tmp_path, form="voc")[0] == {"": [("a.jpg", CAT)]}
    with pytest.raises(UserError, match="has no COCO JSON labels, but .*: give --format voc"):
        find_layout(str(tmp_path), form="coco")


def test_more_mistakes(tmp_path):
    with pytest.raises(UserError, match="a.zip is a file, not a folder: .*unpack archives first"):
        write(tmp_path / "a.zip", "PK")
        find_layout(str(tmp_path / "a.zip"))
    pictures(tmp_path, "a.jpg")
    write(tmp_path / "a.json", '{"shapes": [')
    with pytest.raises(UserError, match="a.json is not valid JSON"):
        find_layout(str(tmp_path))
    write(tmp_path / "a.json", labelme("a.jpg"))
    write(tmp_path / "broken.json", "{")  # nothing says that these are labels
    assert find_layout(str(tmp_path)).form == "labelme"


def test_files_and_data_yaml_are_datasets_too(tmp_path):
    pictures(tmp_path, "images/train/a.jpg", "images/val/b.jpg")
    for name in ("train/a", "val/b"):
        write(tmp_path / f"labels/{name}.txt", BOX)
    write(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n")
    assert list(find_datasets(str(tmp_path / "data.yaml"))) == ["train", "val"]
    write(tmp_path / "a.json", coco([("a.jpg", 100, 50)], [], ["cat"]))
    [(name, files)] = find_datasets(str(tmp_path / "a.json")).items()
    assert name == "a" and files.is_coco
    [(split, files)] = find_datasets(str(tmp_path / "labels/train"), str(tmp_path / "images/train"),
                                     str(tmp_path / "data.yaml")).items()  # fmt: skip
    assert split == "train" and files.pairs == (
        (str(tmp_path / "images/train/a.jpg"), str(tmp_path / "labels/train/a.txt")),
    )


def test_two_files_for_one_split_need_a_choice(tmp_path):
    pictures(tmp_path, "1.jpg")
    for name in ("train_a.json", "train_b.json"):
        write(tmp_path / name, coco([("1.jpg", 100, 50)], [JSON_BOX], ["cat"]))
    with pytest.raises(UserError, match="train_a.json and .*train_b.json are both for train: give one of them"):
        find_datasets(str(tmp_path))
