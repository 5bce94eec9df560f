"""Data sets as other tools write them: what is read as it is meant, and what check, training and convert say alike."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from voc_devkit import CAT, write_devkit, write_image, xml

from ppdet_repro.data.source.categories import read_categories
from ppdet_repro.data.source.check import check
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.convert import convert
from ppdet_repro.data.source.dataset_files import find_dataset
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, ODD, REFUSED
from ppdet_repro.data.source.image_folder import ImageFolder, find_images
from ppdet_repro.data.source.text import read_label_list, text_of, xml_text
from ppdet_repro.data.source.voc_files import read_xml
from ppdet_repro.utils.errors import UserError
from tests.fuzzing import annotations

FIELDS = ["image", "gt_bbox", "gt_class", "is_crowd", "difficult"]


@pytest.fixture
def coco(tmp_path):
    """Writes a.json, of one image (100 x 60) with two boxes; returns its path."""
    write_image(tmp_path / "a.jpg")

    def make(image=None, first=None, categories=((1, "cat"), (2, "dog")), name="a.json", **more):
        boxes = [
            {"id": i, "image_id": 1, "category_id": i, "bbox": [10 * i, 20, 30, 15], "area": 450, "iscrowd": 0}
            for i in (1, 2)
        ]
        boxes[0].update(first or {})
        document = {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 60, **(image or {})}],
            "annotations": boxes,
            "categories": [{"id": i, "name": text} for i, text in categories],
            **more,
        }
        (tmp_path / name).write_text(json.dumps(document))
        return str(tmp_path / name)

    return make


def found(path):
    """The kinds of what check finds, with their effects."""
    report = check(find_dataset(str(path)))
    return {(item.effect, item.kind) for item in [*report.problems, *report.notes]}


def table_of(path):
    folder, name = path.rsplit("/", 1)
    return COCODataSet(folder, None, name, FIELDS).table


# --- values of COCO files


@pytest.mark.parametrize(
    "change",
    [
        {"first": {"image_id": 1.0}},
        {"first": {"image_id": "1"}},
        {"first": {"category_id": 1.0}},
        {"image": {"id": 1.0}},
        {"image": {"id": "001"}},
        {"categories": ((1.0, "cat"), ("2", "dog"))},
    ],
    ids=str,
)
def test_ids_written_as_floats_and_texts(coco, change):
    path = coco(**change)
    assert {effect for effect, _ in found(path)} == {ODD}
    assert table_of(path).columns["gt_class"].tolist() == [[0], [1]]


@pytest.mark.parametrize("value", [True, 1.5, None, [1], {"a": 1}, "one", 1 << 64, 1e300], ids=str)
def test_what_is_no_id_is_refused_by_all_in_the_same_words(coco, value, tmp_path):
    path = coco(first={"image_id": value})
    [problem] = check(find_dataset(path)).problems
    assert (problem.effect, problem.kind) == (REFUSED, "annotation of an unknown image")
    for use in (lambda: table_of(path), lambda: convert(find_dataset(path), str(tmp_path / "voc"))):
        with pytest.raises(UserError) as error:
            use()
        assert problem.where in str(error.value)


@pytest.mark.parametrize(
    "value, crowd, reported",
    [
        (0, False, False), (1, True, False), (True, True, False), (1.0, True, False), (None, False, False),
        ("", False, False), ("0", False, False), ("false", False, False), ("1", True, False),
        (2, False, True), (float("nan"), False, True), ("maybe", False, True), ([0], False, True),
    ],
    ids=str,
)  # fmt: skip
def test_flags(coco, value, crowd, reported):
    path = coco(first={"iscrowd": value})
    report = check(find_dataset(path))
    assert report.crowd == crowd and report.boxes == 2
    assert [p.kind for p in report.problems] == ["iscrowd that is neither 0 nor 1"] * reported
    assert len(table_of(path).columns["gt_bbox"]) == 2 - crowd


def test_annotations_marked_ignore_are_left_out_and_reported(coco):
    path = coco(first={"ignore": "1"})
    assert found(path) == {(LEFT_OUT, "annotation marked ignore")}
    assert len(table_of(path).columns["gt_bbox"]) == 1


@pytest.mark.parametrize(
    "area, used", [(0, 450), (-7, 450), (float("nan"), 450), ("450", 450), ("200", 200), ([], 450)]
)
def test_areas(coco, area, used):
    path = coco(first={"area": area, "bbox": [10, 20, 30, 15]})
    report = check(find_dataset(path))
    side = int(np.sqrt(used)) // 16 * 16  # bins of 16 pixels: 450 and 200 lie in 16-32 and 8-16
    assert report.boxes == 2 and report.histogram[16 if side == 16 else 8] >= 1
    assert [p.kind for p in report.problems] == ["area that is not positive"] * (area not in ("450", "200"))


@pytest.mark.parametrize("width", [-1, 0, None, "wide", float("inf"), float("nan"), 10**400, [100]], ids=str)
def test_a_size_that_is_none_is_read_from_the_picture(coco, width):
    """VIA writes -1."""
    path = coco(image={"width": width})
    assert table_of(path).sizes.tolist() == [[60, 100]]
    assert found(path) == {(ODD, "image without a size, which its file has")}


@pytest.mark.parametrize("name", [".\\a.jpg", "sub\\..\\a.jpg", "./a.jpg", '"a.jpg"', " a.jpg", "%61.jpg"])
def test_file_names_of_other_tools(coco, name, tmp_path):
    (tmp_path / "sub").mkdir()
    assert table_of(coco(image={"file_name": name})).files[0].endswith("a.jpg")


def test_back_slashes_do_not_lead_out_of_the_folder(coco, tmp_path):
    path = coco(image={"file_name": "..\\" + tmp_path.name + "\\..\\..\\etc\\hostname"})
    with pytest.raises(UserError, match="leads out of the image folder"):
        table_of(path)
    assert (REFUSED, "file outside the image folder") in found(path)


def test_files_of_the_system_are_passed_over_with_their_annotations(coco):
    path = coco()
    document = json.loads(Path(path).read_text())
    document["images"] += [{"id": 2, "file_name": "._a.jpg"}, {"id": 3, "file_name": "__MACOSX/a.jpg"}]
    document["annotations"].append({"id": 3, "image_id": 2, "category_id": 1, "bbox": [1, 1, 5, 5]})
    Path(path).write_text(json.dumps(document))
    assert len(table_of(path).files) == 1
    kinds = {(ODD, "file of the system, passed over"), (LEFT_OUT, "annotation of a file that is passed over")}
    assert found(path) == kinds


def test_a_set_that_training_empties_is_a_problem(coco):
    path = coco(annotations=[])
    assert (REFUSED, "no box") in found(path)
    with pytest.raises(UserError, match="no image is left"):
        table_of(path)


def test_capital_letters_in_json(coco, tmp_path):
    path = coco(name="A.JSON")
    assert check(find_dataset(path)).boxes == 2
    assert read_categories(path).names == ["cat", "dog"]
    convert(find_dataset(path), str(tmp_path / "voc"))
    convert(find_dataset(str(tmp_path / "voc" / "ImageSets" / "Main" / "A.txt")), str(tmp_path / "B.Json"))
    assert check(find_dataset(str(tmp_path / "B.Json"), str(tmp_path / "voc" / "JPEGImages"))).boxes == 2


@pytest.mark.parametrize("encoding", ["gbk", "utf-16", "utf-8-sig", "utf-16-le"])
def test_coco_files_in_other_encodings(coco, encoding):
    path = coco(categories=((1, "圆盘"), (2, "三角形")))
    document = json.loads(Path(path).read_text())
    Path(path).write_bytes(json.dumps(document, ensure_ascii=False).encode(encoding))
    assert read_categories(path).names == ["圆盘", "三角形"]


def test_deep_nesting(tmp_path):
    (tmp_path / "a.json").write_text('{"images": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(UserError, match="nested too deeply"):
        check(find_dataset(str(tmp_path / "a.json")))


# --- VOC sets and lists


@pytest.mark.parametrize(
    "line",
    [
        "my b 1", '"my b"', "'my b'", "my b  -1", '"my b" 0', "my b.jpg", "my b.xml", "JPEGImages/my b.jpg",
        "JPEGImages\\my b.jpg Annotations\\my b.xml", '"JPEGImages/my b.jpg" "Annotations/my b.xml"',
        "JPEGImages/my b.jpg,Annotations/my b.xml", ".\\my b", "C:\\VOC\\JPEGImages\\my b.jpg",
    ],
)  # fmt: skip
def test_lines_of_other_tools(tmp_path, line):
    source = write_devkit(tmp_path, {"my b": xml([CAT])}, labels=["cat"])
    set_file = tmp_path / "ImageSets" / "Main" / "train.txt"
    set_file.write_text(line + "\n")
    assert [os.path.normpath(file) for file in source.table.files] == [str(tmp_path / "JPEGImages" / "my b.jpg")]
    assert "line with quotes, back slashes, a flag, a suffix, a folder or other letters (1)" in source.summary
    assert {effect for effect, _ in found(set_file)} == {ODD}


def test_the_usual_meaning_of_a_line_comes_first(tmp_path):
    source = write_devkit(tmp_path, {"a": xml([CAT]), "a 1": xml([CAT])}, labels=["cat"])
    assert [file[-7:-4] for file in source.table.files] == ["s/a", "a 1"]
    assert "odd" not in source.summary


def test_lists_pass_over_files_of_the_system(tmp_path):
    source = write_devkit(tmp_path, {"a": xml([CAT])}, labels=["cat"])
    set_file = tmp_path / "ImageSets" / "Main" / "train.txt"
    set_file.write_text("._a\na\n.DS_Store\nThumbs.db\n__MACOSX/a\n")
    assert len(source) == 1 and "file of the system, passed over (4)" in source.summary


def test_files_that_no_list_names(tmp_path):
    """Without a label list, the classes are those of all XML files of the folder."""
    source = write_devkit(tmp_path, {"a": xml([("Zebra", 1, 1, 9, 9, "")])}, label_list="none.txt")
    folder = tmp_path / "Annotations"
    (folder / "._a.xml").write_bytes(b"\0\5\x16\7")
    (folder / "broken.xml").write_text("<annotation>")
    (folder / "other.XML").write_text(xml([("Ape", 1, 1, 9, 9, "")]))
    (folder / "link.xml").symlink_to("nowhere.xml")
    assert source.class_names == ["Ape", "Zebra"]
    assert found(tmp_path / "ImageSets/Main/train.txt") == {
        (DOUBTFUL, "XML file that no list names and that cannot be used")
    }
    assert "that cannot be used (2)" in source.summary


@pytest.mark.parametrize(
    "declared, encoding, name",
    [
        ("GB2312", "gb2312", "圆盘"), ("gbk", "gbk", "圓盤"), ("Shift_JIS", "shift_jis", "犬と猫"),
        ("Big5", "big5", "圓盤"), ("euc-kr", "euc_kr", "고양이"), ("GB2312", "utf-8", "圆盘"),
        ("unknown", "utf-8", "圆盘"), ("utf-8", "gbk", "圆盘"), ("utf-8", "utf-16", "圆盘"), (None, "gbk", "圆盘"),
        ("ISO-8859-1", "latin-1", "Löwe"),
    ],
)  # fmt: skip
def test_xml_in_other_encodings(tmp_path, declared, encoding, name):
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    (tmp_path / "a.xml").write_bytes((head + xml([(name, 1, 1, 9, 9, "")])).encode(encoding))
    assert [item.name for item in read_xml(str(tmp_path / "a.xml")).objects] == [name]


def test_no_codec_is_called_that_is_no_encoding_of_texts():
    """Decoding punycode takes time that grows with the square of the length."""
    assert xml_text(b'<?xml version="1.0" encoding="punycode"?>' + b"a" * 10**6)[-3:] == "aaa"


@pytest.mark.parametrize("text", ["Löwe\nHund", "Größe, Maß", "Café Élysée", "ñandú", "ÄÖÜ"])
def test_latin_letters_are_not_taken_for_chinese(text):
    with pytest.raises(UnicodeDecodeError):
        text_of(text.encode("latin-1"))


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-16", "utf-16-be", "utf-16-le", "utf-8-sig"])
def test_label_lists_in_other_encodings(tmp_path, encoding):
    (tmp_path / "l.txt").write_bytes("cat\r\n圆盘\r\n三角形\r\n".encode(encoding))
    assert read_label_list(str(tmp_path / "l.txt")) == ["cat", "圆盘", "三角形"]


@pytest.mark.parametrize("one, other", [("bndbox", "BndBox"), ("object", "Object"), ("xmin", "Xmin"), ("name", "NAME")])
def test_tags_in_capital_letters(tmp_path, one, other):
    text = xml([CAT]).replace(f"<{one}>", f"<{other}>").replace(f"</{one}>", f"</{other}>")
    if one in ("xmin", "name"):
        text = text.replace("bndbox", "BndBox")
    source = write_devkit(tmp_path, {"a": text}, labels=["cat"])
    assert source.record(0)["gt_bbox"].tolist() == [[10, 20, 40, 35]]


def test_objects_without_a_box_are_left_out_and_reported(tmp_path):
    polygon = "<object><name>cat</name><polygon><x1>1</x1></polygon></object></annotation>"
    text = xml([CAT]).replace("</annotation>", polygon)
    source = write_devkit(tmp_path, {"a": text}, labels=["cat"])
    assert "left out: object without <bndbox> (1)" in source.summary
    [problem] = check(find_dataset(str(tmp_path / "ImageSets" / "Main" / "train.txt"))).problems
    assert problem.where.endswith("a.xml: object 'cat' has <name>, <polygon>")


def test_flags_of_voc(tmp_path):
    objects = [("cat", 1, 1, 9, 9, f"<difficult>{text}</difficult>") for text in ("1", "true", "0", "", "Unspecified")]
    source = write_devkit(tmp_path, {"a": xml(objects)}, labels=["cat"])
    assert source.record(0)["difficult"].ravel().tolist() == [1, 1, 0, 0, 0]
    assert "difficult that is neither 0 nor 1 (1)" in source.summary


# --- classes


def test_a_class_called_background_goes_to_voc_and_back(coco, tmp_path):
    path = coco(categories=((1, "background"), (2, "dog")))
    convert(find_dataset(path), str(tmp_path / "voc"))
    set_file = str(tmp_path / "voc" / "ImageSets" / "Main" / "a.txt")
    convert(find_dataset(set_file), str(tmp_path / "back.json"))
    assert read_categories(str(tmp_path / "back.json")).names == ["background", "dog"]
    assert check(find_dataset(set_file)).classes == {"background": (1, 1), "dog": (1, 1)}


def test_background_in_the_labels_of_a_model_is_a_class_if_they_are_as_many_as_the_models(tmp_path):
    (tmp_path / "l.txt").write_text("background\ncat\n")
    names = {n: ImageFolder(str(tmp_path), ".", "l.txt", num_classes=n).class_names for n in (1, 2)}
    assert names == {1: ["cat"], 2: ["background", "cat"]}


@pytest.mark.parametrize(
    "names, message",
    [
        (("cell", "cell"), "2 categories are called 'cell'"),
        (("cell ", "cell"), "2 categories are called 'cell'"),
        (("a\nb", "c"), "cannot be the name of a VOC class"),
        (("a\x01", "c"), "cannot be the name of a VOC class"),
        (("  ", "c"), "cannot be the name of a VOC class"),
    ],
)
def test_what_cannot_be_read_back_is_not_converted(coco, tmp_path, names, message):
    path = coco(categories=tuple(enumerate(names, 1)))
    with pytest.raises(UserError, match=message):
        convert(find_dataset(path), str(tmp_path / "voc"))
    assert not (tmp_path / "voc").exists()


def test_convert_leaves_out_what_training_leaves_out(coco, tmp_path):
    line = convert(find_dataset(coco(first={"bbox": [500, 20, 5, 5]})), str(tmp_path / "voc"))
    assert "1 image, 1 box, 2 classes" in line and line.endswith("left out: box outside its image (1)")


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_what_is_converted_is_read_back(tmp_path, kind):
    """Datasets with random oddities: convert refuses them, or check finds as many boxes afterwards."""
    converted = 0
    for seed in range(30):
        folder = tmp_path / str(seed)
        for name, content in getattr(annotations, kind)(random.Random(seed)).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        files = find_dataset(str(folder / ("a.json" if kind == "coco" else annotations.SET)), str(folder))
        try:
            convert(files, str(folder / ("out" if kind == "coco" else "out.json")))
        except UserError:
            continue
        written = ("out/ImageSets/Main/a.txt", None) if kind == "coco" else ("out.json", str(folder / "JPEGImages"))
        report = check(find_dataset(str(folder / written[0]), written[1]))
        assert report.boxes == check(files).boxes and (not report.refused or not report.boxes)
        converted += report.boxes > 0
    assert converted >= 3


# --- folders


def test_folders_are_searched_once_and_files_of_the_system_are_passed_over(tmp_path):
    for name in ("a.jpg", "._a.jpg", "sub/b.jfif", "__MACOSX/c.jpg", ".ipynb_checkpoints/a.jpg", "@eaDir/d.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(cv2.imencode(".jpg", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    (tmp_path / "in" / "sub" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "sub" / "self").symlink_to(tmp_path / "in" / "sub")
    assert [path[len(str(tmp_path)) :] for path in find_images(str(tmp_path / "in"))] == ["/in/a.jpg", "/in/sub/b.jfif"]
