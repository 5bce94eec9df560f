"""VOC datasets: what is read and left out, and the messages about mistakes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from voc_devkit import CAT, FIELDS, xml

from ppdet_repro.data.source.categories import VOC
from ppdet_repro.data.source.voc import VOCDataSet
from ppdet_repro.data.transform.decode import image_size
from ppdet_repro.utils.errors import UserError


def test_voc_record(devkit, tmp_path):
    files = {"a": xml([CAT, ("dog", 1, 2, 3, 4, "<difficult>1</difficult>")])}
    source = devkit(files, labels=["dog", "cat"])
    record = source.record(0)
    assert record["im_file"] == str(tmp_path / "JPEGImages" / "a.jpg")
    assert record["im_id"].tolist() == [0] and (record["h"], record["w"]) == (60, 100)
    assert record["gt_bbox"].tolist() == [[10, 20, 40, 35], [1, 2, 3, 4]]  # no shift by one
    assert record["gt_bbox"].dtype == np.float32
    assert record["gt_class"].tolist() == [[1], [0]]
    assert record["difficult"].tolist() == [[0], [1]] and record["difficult"].dtype == np.int32
    assert record["gt_score"].tolist() == [[1], [1]]
    assert source.class_names == ["dog", "cat"] and source.category_ids == [0, 1]


def test_voc_boxes_are_clipped_to_the_last_pixel(devkit):
    """PaddleDetection's limits are w - 1 and h - 1."""
    flat, outside = ("cat", 7, 7, 7, 9, ""), ("cat", 150, 0, 160, 9, "")
    source = devkit({"a": xml([("cat", -3, 5, 100, 70, ""), flat, outside])})
    assert source.record(0)["gt_bbox"].tolist() == [[0, 5, 99, 59]]
    assert "left out: box without area or inverted (1), box outside its image (1)" in source.summary
    assert "doubtful: box that reaches outside its image (1)" in source.summary


def test_voc_spaces_in_names_and_other_suffixes(devkit):
    source = devkit({"my photo 1": xml([CAT]), "b c": xml([CAT])}, suffix=".PNG")
    assert [source.record(i)["im_file"].split("/")[-1] for i in (0, 1)] == ["my photo 1.PNG", "b c.PNG"]


def test_voc_lists_of_pairs(devkit, tmp_path):
    devkit({"my photo 1": xml([CAT]), "b": xml([CAT])})
    (tmp_path / "pairs.txt").write_text(
        "./JPEGImages/my photo 1.jpg ./Annotations/my photo 1.xml\nJPEGImages/b.jpg\tAnnotations/b.xml\n\n"
    )
    source = VOCDataSet(str(tmp_path), None, "pairs.txt", FIELDS, label_list="label_list.txt")
    assert len(source) == 2 and source.record(0)["im_file"].endswith("my photo 1.jpg")


def test_voc_set_files_are_found_in_image_sets(devkit, tmp_path):
    devkit({"a": xml([CAT])})
    assert len(VOCDataSet(str(tmp_path), None, "train.txt", label_list="none.txt")) == 1


def test_voc_fields_that_nobody_names_are_those_of_the_annotations(devkit, tmp_path):
    named = devkit({"a": xml([CAT])}, data_fields=None)
    assert {"gt_bbox", "gt_class", "difficult", "is_crowd"} <= set(named.record(0))
    named.require_boxes("EvalDataset", "metric VOC")
    (tmp_path / "Annotations" / "a.xml").unlink()  # as in VOC 2012's test set
    images = VOCDataSet(str(tmp_path), None, "train.txt", label_list="label_list.txt")
    assert set(images.record(0)) == {"im_file", "im_id", "h", "w"}
    with pytest.raises(UserError, match=r"EvalDataset: .*a.xml and the other XML files do not exist; metric VOC needs"):
        images.require_boxes("EvalDataset", "metric VOC")


def test_voc_without_label_list_every_split_numbers_alike(devkit, tmp_path):
    devkit({"a": xml([CAT]), "b": xml([("Zebra", 1, 1, 9, 9, "")])})
    (tmp_path / "one.txt").write_text("b\n")
    source = VOCDataSet(str(tmp_path), None, "one.txt", FIELDS, label_list="label_list.txt")
    assert source.class_names == ["Zebra", "cat"]
    assert "label_list.txt: the names found, sorted" in source.summary
    assert VOCDataSet(str(tmp_path), None, "train.txt").class_names == ["Zebra", "cat"]


def test_voc_own_classes_are_the_default(devkit):
    source = devkit({"a": xml([CAT])}, label_list=None)
    assert source.class_names == VOC.names and source.record(0)["gt_class"].tolist() == [[7]]


def test_voc_image_ids_are_the_files_own_where_all_have_one(devkit):
    both = {"a": xml([CAT], more="<id>17</id>"), "b": xml([CAT], more="<id>4</id>")}
    assert [int(devkit(both).record(i)["im_id"][0]) for i in (0, 1)] == [17, 4]
    for other in ("", "<id>17</id>", "<id>x</id>"):
        some = {"a": xml([CAT], more="<id>17</id>"), "b": xml([CAT], more=other)}
        assert [int(devkit(some).record(i)["im_id"][0]) for i in (0, 1)] == [0, 1]


def test_voc_size_is_read_from_the_image_where_the_xml_has_none(devkit):
    for text in (xml([CAT], width=None), xml([CAT], width=0, height=0)):
        record = devkit({"a": text}).record(0)
        assert (record["h"], record["w"]) == (60, 100)


def test_voc_images_without_boxes(devkit):
    files = {"a": xml([]), "b": xml([CAT]), "c": xml([("cat", 5, 5, 5, 5, "")])}
    assert len(devkit(files)) == 1
    assert [len(devkit(files, allow_empty=True).record(i)["gt_bbox"]) for i in range(3)] == [1, 0, 0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("<annotation>", "a.xml is not valid XML"),
        (xml([("lion", 1, 1, 9, 9, "")]), "a.xml: class 'lion' is not in .*label_list.txt"),
        (xml([("cat", "x", 1, 9, 9, "")]), "a.xml: <xmin> is 'x': write a number"),
        (xml([("cat", "", 1, 9, 9, "")]), "a.xml: object 'cat' needs"),
        (xml([]), "no image is left in .*train.txt"),
    ],
)
def test_voc_mistakes_get_one_line(devkit, text, message):
    with pytest.raises(UserError, match=message) as error:
        devkit({"a": text}, labels=["cat"]).load()
    assert "\n" not in str(error.value)


def test_voc_missing_files(devkit, tmp_path):
    source = devkit({"a": xml([CAT])})
    (tmp_path / "Annotations" / "a.xml").rename(tmp_path / "a.xml")
    with pytest.raises(UserError, match="Annotations/a.xml does not exist"):
        source.load()
    (tmp_path / "a.xml").rename(tmp_path / "Annotations" / "a.xml")
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(UserError, match="train.txt: line 1: .*a.jpg does not exist"):
        source.load()
    with pytest.raises(UserError, match="val.txt does not exist"):
        VOCDataSet(str(tmp_path), None, "val.txt").load()
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="empty.txt lists no image"):
        VOCDataSet(str(tmp_path), None, "empty.txt").load()


@pytest.mark.parametrize("line", ["../../a", "/etc/a", "../x.jpg ../x.xml"])
def test_voc_paths_stay_in_the_dataset(devkit, tmp_path, line):
    devkit({"a": xml([CAT])})
    (tmp_path / "bad.txt").write_text(f"a\n{line}\n")
    with pytest.raises(UserError, match="bad.txt:2: .* leads out of the image folder"):
        VOCDataSet(str(tmp_path), None, "bad.txt").load()


def test_image_size_is_that_of_the_decoded_image(tmp_path):
    from PIL import Image

    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    Image.new("RGB", (100, 60)).save(tmp_path / "a.jpg", exif=turned)
    assert image_size(str(tmp_path / "a.jpg")) == cv2.imread(str(tmp_path / "a.jpg")).shape[:2] == (100, 60)
    (tmp_path / "b.jpg").write_text("no image")
    with pytest.raises(UserError, match="b.jpg cannot be read as an image"):
        image_size(str(tmp_path / "b.jpg"))
