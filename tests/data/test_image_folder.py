"""Image folders and class names."""

from __future__ import annotations

import json

import pytest

from ppdet_repro.data.source.categories import COCO, VOC, read_categories
from ppdet_repro.data.source.image_folder import ImageFolder
from ppdet_repro.utils.errors import UserError


def test_image_folder_lists_what_is_below_in_natural_order(tmp_path):
    for name in ("a10.jpg", "a2.jpg", "b/1.PNG", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    source = ImageFolder(str(tmp_path), "")
    names = [source.record(i)["im_file"][len(str(tmp_path)) :].lstrip("/") for i in range(len(source))]
    assert names == ["a2.jpg", "a10.jpg", "b/1.PNG"]
    assert set(source.record(2)) == {"im_file", "im_id"} and source.record(2)["im_id"].tolist() == [2]
    source.set_images([str(tmp_path / "a10.jpg"), str(tmp_path / "b")])
    assert len(source) == 2
    assert len(ImageFolder(str(tmp_path), ["a2.jpg", "b"], sample_num=1)) == 1


def test_image_folder_mistakes(tmp_path):
    (tmp_path / "notes.txt").touch()
    mistakes = ("x", "x does not exist"), ("notes.txt", "is not an image"), ("", "no image to run on")
    for image_dir, message in mistakes:
        with pytest.raises(UserError, match=message):
            ImageFolder(str(tmp_path), image_dir).load()


def test_image_folder_class_names(tmp_path):
    (tmp_path / "label_list.txt").write_text("background\ncat\ndog\n")
    categories = [{"id": 9, "name": "x"}, {"id": 4, "name": "y"}]
    (tmp_path / "a.json").write_text(json.dumps({"images": [], "categories": categories}))
    assert ImageFolder(str(tmp_path), anno_path="label_list.txt").class_names == ["cat", "dog"]
    from_json = ImageFolder(str(tmp_path), anno_path="a.json")
    assert (from_json.class_names, from_json.category_ids) == (["y", "x"], [4, 9])


def test_image_folder_class_names_relative_to_the_working_directory(tmp_path, monkeypatch):
    """The dataset's folder comes from a base for COCO, the label list from the user."""
    monkeypatch.chdir(tmp_path)
    for folder, name in (("cells", "cell"), ("coco/cells", "person")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "label_list.txt").write_text(f"{name}\n")
    assert ImageFolder("dataset", anno_path="cells/label_list.txt").class_names == ["cell"]
    assert ImageFolder("coco", anno_path="cells/label_list.txt").class_names == ["person"]


def test_image_folder_class_names_without_a_file():
    assert ImageFolder(anno_path="nowhere.json").category_ids[-1] == 90
    assert ImageFolder(num_classes=20).class_names[14] == "person"
    assert ImageFolder(num_classes=2).class_names == ["class 0", "class 1"]


def test_category_tables():
    assert (len(COCO.names), COCO.names[0], COCO.names[-1]) == (80, "person", "toothbrush")
    assert dict(zip(COCO.names, COCO.ids))["stop sign"] == 13 and len(COCO.ids) == 80
    assert VOC.names == sorted(VOC.names) and len(VOC.names) == 20


def test_label_lists_are_checked(tmp_path):
    for text, message in (("\n", "names no class"), ("a\nb\na\n", "the lines 1, 3 name the same class 'a'")):
        (tmp_path / "l.txt").write_text(text)
        with pytest.raises(UserError, match=message):
            read_categories(str(tmp_path / "l.txt"))
