"""Damaged and hostile lists and annotations: one error of one line that names the file, and the line if it has any."""

from __future__ import annotations

import json

import pytest
from voc_devkit import CAT, xml

from ppdet_repro.data.source.base import natural_key
from ppdet_repro.data.source.categories import read_categories
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.text import read_label_list, read_lines
from ppdet_repro.data.source.voc_files import read_set, read_xml
from ppdet_repro.utils.errors import UserError


@pytest.mark.parametrize("read", [read_label_list, lambda path: read_set(path, ".")])
@pytest.mark.parametrize(
    "content, message",
    [
        (b"cat\ndog\xff\n", "a.txt:2: not text in UTF-8"),
        ("Löwe\nHund".encode("latin1"), "a.txt:1: not text in UTF-8"),
        ("犬と猫\n".encode("shift_jis"), "a.txt:1: not text in UTF-8"),
        (b"cat\na\0b\n", "a.txt:2: 'a.x00b' is not a name"),
        (b"cat\n" + b"x" * 5000, "a.txt:2: 'xxx"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_lists_that_are_not_text(tmp_path, read, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read(str(tmp_path / "a.txt"))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_lines_keep_their_numbers_with_any_line_ends_and_a_mark_of_their_order(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf one \r\n\r\ntwo\rthree\n")
    assert read_lines(str(tmp_path / "a.txt")) == [(1, "one"), (3, "two"), (4, "three")]


def test_a_long_list_is_not_compared_pair_by_pair(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(map(str, range(100_000))))
    assert len(read_label_list(str(tmp_path / "a.txt"))) == 100_000


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[" * 100_000, "is not valid JSON"),
        (b'{"images": \xff', "not text in UTF-8"),
        (b'{"a": ' + b"9" * 10_000, "is not valid JSON"),
        (b'{"images": [], "categories": [{"id": 1, "name": "\\ud800"}]}', "category number 0 needs"),
        (b'{"images": [], "categories": [{"id": 1, "name": "a\\u0000"}]}', "category number 0 needs"),
        (b'{"images": [], "categories": [{"id": 1e999, "name": "a"}]}', "category number 0 needs"),
        (b'{"images": [], "categories": [{"id": ' + b"9" * 30 + b', "name": "a"}]}', "category number 0 needs"),
        (b'{"' + b"x" * 100_000 + b'": 1}', "not a COCO JSON file"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_coco_classes(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=f"a.json.* {message}") as raised:
        read_categories(str(tmp_path / "a.json"))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": {"id": 1 << 70}}, "needs an integer 'id'"),
        ({"image": {"id": [1]}}, "needs an integer 'id'"),
        ({"image": {"width": 10**400}}, "a.jpg cannot be read as an image"),  # from which the size would be taken
        ({"image": {"file_name": "\0"}}, "needs a 'file_name'"),
        ({"image": {"file_name": "\ud800"}}, "needs a 'file_name'"),
        ({"image": {"file_name": "x" * 5000}}, "needs a 'file_name'"),
        ({"annotation": {"bbox": [0, 0, 10**400, 1]}}, "has the bbox"),
        ({"annotation": {"bbox": ["x" * 10_000] * 4}}, "has the bbox"),
        ({"annotation": {"image_id": "x" * 10_000}}, "unknown image id"),
        ({"annotation": {"id": "x" * 10_000, "category_id": []}}, r"unknown category id \[\]"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_coco_numbers(tmp_path, change, message):
    (tmp_path / "a.jpg").touch()
    image = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9, **change.get("image", {})}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], **change.get("annotation", {})}
    document = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=message) as raised:
        COCODataSet(str(tmp_path), "", "a.json").load()
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "text, message",
    [
        ('<?xml version="1.0" encoding="nonsense"?><a>', "is not valid XML"),
        ('<?xml version="1.0" encoding="big5"?><a>', "is not valid XML"),
        ('<?xml version="1.0" encoding="punycode"?><a>', "is not valid XML"),
        (xml([("cat", "1e999", 1, 9, 9, "")]), "<xmin> is '1e999': write a number"),
        (xml([("cat", "nan", 1, 9, 9, "")]), "<xmin> is 'nan': write a number"),
        (xml([("cat", "x" * 10_000, 1, 9, 9, "")]), "<xmin> is 'xxx"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_xml(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=f"a.xml.*{message}") as raised:
        read_xml(str(tmp_path / "a.xml"))
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("number", ["²", "9" * 30, "-1"])
def test_an_id_that_is_not_a_number_is_none(tmp_path, number):
    (tmp_path / "a.xml").write_text(xml([CAT], more=f"<id>{number}</id>"), encoding="utf-8")
    assert read_xml(str(tmp_path / "a.xml")).id is None


def test_digits_that_are_no_numbers_are_sorted_as_text():
    assert sorted(["a2", "a10", "a1²3"], key=natural_key) == ["a1²3", "a2", "a10"]
