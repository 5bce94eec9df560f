"""YOLO's text files and labelme's JSON files: what their lines and shapes mean, and which are refused."""

from __future__ import annotations

import pytest
from dataset_formats import labelme, rectangle, write

from ppdet_repro.data.source.findings import LEFT_OUT, Findings
from ppdet_repro.data.source.labelme_files import read_labelme
from ppdet_repro.data.source.paired import PairedDataSet, usable
from ppdet_repro.data.source.voc_files import Object
from ppdet_repro.data.source.yolo_files import read_class_names, read_data_yaml, read_objects
from ppdet_repro.utils.errors import UserError


def yolo(tmp_path, text, names=("cat", "dog"), width=200, height=100):
    write(tmp_path / "a.txt", text)
    return read_objects(str(tmp_path / "a.txt"), width, height, list(names), "classes.txt", Findings())


def test_a_line_is_a_class_and_fractions_of_the_size(tmp_path):
    # center (0.5 * 200, 0.5 * 100) = (100, 50), sides (0.25 * 200, 0.1 * 100) = (50, 10)
    assert yolo(tmp_path, "1 0.5 0.5 0.25 0.1\n") == [Object("dog", (75.0, 45.0, 125.0, 55.0), False, False)]
    assert yolo(tmp_path, "\n  0.0\t.5 5e-1 1 1.\n\n")[0].box == (0, 0, 200, 100)
    assert yolo(tmp_path, "") == []


def test_a_polygon_becomes_its_box(tmp_path):
    # x: 0.1, 0.4, 0.2 of 200; y: 0.2, 0.3, 0.9 of 100
    assert yolo(tmp_path, "0 0.1 0.2 0.4 0.3 0.2 0.9")[0].box == (20, 20, 80, 90)


@pytest.mark.parametrize(
    "line, message",
    [
        ("2 0.5 0.5 0.1 0.1", r"a.txt:2: class 2, but classes.txt has the 2 classes 0 to 1: add its name"),
        ("0 0.5 0.5 0.1", r"a.txt:2: '0 0.5 0.5 0.1': write 'class cx cy width height'"),
        ("0 0.5 0.5 0.1 0.1 0.97", r"a.txt:2: 6 numbers, perhaps with a score: write"),
        ("0 0.5 0.5 wide 0.1", r"a.txt:2: '0 0.5 0.5 wide 0.1': write"),
        ("0 100 50 50 10", r"a.txt:2: 100, which is no fraction of the picture's size: divide x by the width"),
        ("0.5 0.5 0.5 0.1 0.1", r"a.txt:2: class 0.5, but"),
    ],
)
def test_lines_that_are_refused(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        yolo(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")


def test_class_names_of_data_yaml(tmp_path):
    path = tmp_path / "data.yaml"
    write(path, "path: sub\ntrain: images/train\nvalid: [a, b]\nnames: {1: dog, 0: cat}\n")
    found = read_data_yaml(str(path))
    assert found == (["cat", "dog"], str(tmp_path / "sub"), {"train": ["images/train"], "val": ["a", "b"]})
    write(path, "nc: 2\nnames: [猫, 2]\n")
    assert read_class_names(str(path)) == ["猫", "2"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("nc: 3\nnames: [a, b]", "nc is 3, but 'names' has 2"),
        ("train: x\nnames: {0: a, 2: b}", "must be the class numbers 0, 1, 2"),
        ("train: x\nnames: [a, a]", "'names' has 'a' twice"),
        ("train: x\nnames: []", "'names' must list the class names"),
        ("version: 1", "has no class names"),
        ("x: &x [1]\nnames: [*x]\ntrain: x", "has no class names"),
    ],
)
def test_data_yaml_that_cannot_be_used(tmp_path, text, message):
    write(tmp_path / "data.yaml", text)
    with pytest.raises(UserError, match=message):
        read_class_names(str(tmp_path / "data.yaml"))


def test_shapes_of_labelme_become_boxes(tmp_path):
    shapes = [
        rectangle("cat", 30, 40, 10, 20, difficult=True),  # corners in any order
        {"label": " dog ", "points": [[1, 2], [9, 4], [5, 30]], "shape_type": "polygon"},
        {"label": "dog", "points": [[50, 20], [53, 24]], "shape_type": "circle"},  # radius sqrt(9 + 16) = 5
        {"label": "dog", "points": [[50, 20]], "shape_type": "point"},
        {"label": "dog", "points": [[0, 0], [9, 9]], "shape_type": "line"},
    ]
    write(tmp_path / "a.json", labelme("a.jpg", *shapes))
    findings = Findings()
    width, height, objects = read_labelme(str(tmp_path / "a.json"), findings)
    assert (width, height) == (100, 50)
    assert [(o.name, o.box, o.difficult) for o in objects] == [
        ("cat", (10, 20, 30, 40), True),
        ("dog", (1, 2, 9, 30), False),
        ("dog", (45, 15, 55, 25), False),
    ]
    assert findings.of(LEFT_OUT) == {"shape without area": 2}


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"points": [[0, 0], [1, 1]], "shape_type": "rectangle"}, "a.json: shape 0 has no 'label': write"),
        (rectangle("cat", 0, 0, "x", 1), r"a.json: shape 0 \(cat\): the points of this rectangle cannot be used: draw"),
        ({"label": "cat", "points": [[0, 0], [1, 1]]}, "the points of this polygon cannot be used"),
        (7, "shape 0 has no 'label'"),
    ],
)
def test_shapes_that_are_refused(tmp_path, shape, message):
    write(tmp_path / "a.json", labelme("a.jpg", shape))
    with pytest.raises(UserError, match=message):
        read_labelme(str(tmp_path / "a.json"), Findings())


def test_a_file_that_is_not_of_labelme(tmp_path):
    write(tmp_path / "a.json", {"shapes": 3})
    with pytest.raises(UserError, match="is not a labelme file: it needs 'shapes' and 'imagePath'"):
        read_labelme(str(tmp_path / "a.json"), Findings())


def test_which_boxes_of_label_files_are_used():
    boxes = [(0, 0, 10, 10), (5, 5, 5, 9), (9, 9, 5, 5), (100, 0, 120, 9), (-9, -9, 0, 0), (90, 40, 120, 60)]
    findings = Findings(collect=True)
    kept = usable([Object("cat", box, False, False) for box in boxes], 100, 50, "a.txt", findings)
    assert [item.box for item in kept] == [boxes[0], boxes[5]]
    assert [finding.kind for finding in findings.found] == [
        "box without area or inverted",
        "box without area or inverted",
        "box outside its image",
        "box outside its image",
        "box that reaches outside its image",
    ]


def test_a_class_that_the_list_of_names_lacks_is_refused(tmp_path):
    write(tmp_path / "a.json", labelme("a.jpg", rectangle("lion", 0, 0, 9, 9)))
    write(tmp_path / "names.txt", "cat\n")
    pairs = [(str(tmp_path / "a.jpg"), str(tmp_path / "a.json"))]
    source = PairedDataSet("labelme", pairs, "here", str(tmp_path), str(tmp_path / "names.txt"), None)
    with pytest.raises(UserError, match="class 'lion' is not in .*names.txt: add it there or rename it"):
        source.read_labelled(Findings())
