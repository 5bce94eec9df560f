"""tools/dataset.py: the statistics it prints, the mistakes it finds, what it draws and converts."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest

from ppdet_repro.cli.main import run_script
from ppdet_repro.data.source.check import check
from ppdet_repro.data.source.coco import COCODataSet
from ppdet_repro.data.source.convert import convert
from ppdet_repro.data.source.dataset_files import find_dataset
from ppdet_repro.data.source.show import before_normalization
from ppdet_repro.data.source.synthetic import generate
from ppdet_repro.data.source.voc import VOCDataSet
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.visualize import class_color, contact_sheet, draw_boxes, enlarged

FIELDS = ["gt_bbox", "gt_class", "difficult", "is_crowd"]


@pytest.fixture
def tool(monkeypatch):
    """Runs tools/dataset.py with the given arguments; returns its exit code."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["dataset.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            run_script("data")
        return done.value.code

    return run


@pytest.fixture
def synthetic(tmp_path):
    return generate(tmp_path / "set", train=4, val=2, size=(64, 96), seed=1)


def write_image(path, height=60, width=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def annotation(key, image_id, bbox, category_id=1, **more):
    return {"id": key, "image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


@pytest.fixture
def coco(tmp_path):
    """Writes a COCO set with images 1.jpg and 2.jpg of 100 x 60; returns its files."""

    def make(annotations=(), images=(), categories=((1, "cat"), (5, "dog"))):
        for name in ("1.jpg", "2.jpg"):
            write_image(tmp_path / "coco" / name)
        known = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 60} for i in (1, 2)]
        document = {
            "images": [*known, *images],
            "annotations": list(annotations),
            "categories": [{"id": i, "name": name} for i, name in categories],
        }
        (tmp_path / "coco" / "all.json").write_text(json.dumps(document))
        return find_dataset(str(tmp_path / "coco" / "all.json"))

    return make


@pytest.fixture
def voc(tmp_path):
    """Writes a VOC devkit of {image id: [(name, x1, y1, x2, y2)]}; returns its set file."""

    def make(files, label_list=()):
        root = tmp_path / "voc"
        for folder in ("Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name, objects in files.items():
            write_image(root / "JPEGImages" / f"{name}.jpg")
            items = "".join(
                f"<object><name>{n}</name><difficult>{i % 2}</difficult><bndbox><xmin>{x1}</xmin>"
                f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for i, (n, x1, y1, x2, y2) in enumerate(objects)
            )
            size = "<size><width>100</width><height>60</height></size>"
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{items}</annotation>")
        if label_list:
            (root / "label_list.txt").write_text("\n".join(label_list))
        set_file = root / "ImageSets" / "Main" / "train.txt"
        set_file.write_text("\n".join(files))
        return str(set_file)

    return make


# --- check


def kinds(report):
    return {problem.kind for problem in report.problems}


def test_check_counts(coco):
    boxes = [
        annotation(1, 1, [0, 0, 10, 10]),  # side 10, small
        annotation(2, 1, [0, 0, 50, 32], area=1024),  # side 32 by COCO's area: medium
        annotation(3, 1, [0, 0, 100, 60], category_id=5),  # side sqrt(6000) = 77, medium
        annotation(4, 1, [0, 0, 90, 50], iscrowd=1),  # crowd: in no histogram
    ]
    report = check(coco(boxes))
    assert (report.images, report.empty_images, report.boxes, report.crowd) == (2, 1, 4, 1)
    assert report.classes == {"cat": (3, 1), "dog": (1, 1)}
    assert report.scales == {"small": 1, "medium": 2, "large": 0}
    assert {side: n for side, n in report.histogram.items() if n} == {8: 1, 32: 1, 64: 1}
    assert report.problems == []
    assert "2 images (1 without boxes), 4 boxes (1 crowd) of 2 classes" in report.text()


def test_check_of_a_clean_set_ends_with_0(tool, synthetic, tmp_path, capsys):
    report = tmp_path / "new" / "report.json"
    assert tool("check", synthetic / "annotations" / "instances_train.json", "--json", report) == 0
    assert "no problems" in capsys.readouterr().out
    numbers = json.loads(report.read_text())
    assert numbers["images"] == 4 and numbers["problems"] == []
    assert numbers["boxes"] == sum(entry["boxes"] for entry in numbers["classes"].values()) > 0
    assert numbers["boxes"] == sum(entry["boxes"] for entry in numbers["histogram"])


DIRT = {
    "box without area or inverted": {"annotations": [annotation(1, 1, [5, 5, -3, 9])]},
    "box outside its image": {"annotations": [annotation(1, 1, [100, 5, 9, 9])]},
    "box that reaches outside its image": {"annotations": [annotation(1, 1, [95, 5, 9, 9])]},
    "annotation without a box": {"annotations": [annotation(1, 1, None)]},
    "annotation marked ignore": {"annotations": [annotation(1, 1, [0, 0, 9, 9], ignore=1)]},
    "bbox that is not four numbers": {"annotations": [annotation(1, 1, [0, 0, 10**400, 9])]},
    "area that is not positive": {"annotations": [annotation(1, 1, [0, 0, 9, 9], area=0)]},
    "iscrowd that is neither 0 nor 1": {"annotations": [annotation(1, 1, [0, 0, 9, 9], iscrowd="some")]},
    "no box": {},
    "annotation of an unknown image": {"annotations": [annotation(1, 77, [0, 0, 9, 9])]},
    "annotation of an unknown category": {"annotations": [annotation(1, 1, [0, 0, 9, 9], category_id=2)]},
    "annotation id used twice": {"annotations": [annotation(1, i, [0, 0, 9, 9]) for i in (1, 2)]},
    "annotation repeated": {"annotations": [annotation(i, 1, [0, 0, 9, 9]) for i in (1, 2)]},
    "image id used twice": {"images": [{"id": 1, "file_name": "3.jpg", "width": 1, "height": 1}]},
    "file listed twice": {"images": [{"id": 3, "file_name": "./2.jpg", "width": 100, "height": 60}]},
    "file missing": {"images": [{"id": 5, "file_name": "3.jpg", "width": 100, "height": 60}]},
    "file outside the image folder": {"images": [{"id": 6, "file_name": "../x", "width": 1, "height": 1}]},
    "file that is no readable image": {"images": [{"id": 4, "file_name": "all.json"}]},
    "image without id or file name": {"images": [{"file_name": "1.jpg"}]},
    "category id used twice": {"categories": ((1, "cat"), (1, "dog"))},
    "category name used twice": {"categories": ((1, "cat"), (2, "cat"))},
    "category without id or name": {"categories": ((1, "cat"), (2, None))},
}


@pytest.mark.parametrize("kind", DIRT)
def test_check_finds(coco, kind):
    assert kind in kinds(check(coco(**DIRT[kind])))


def test_check_finds_all_at_once(tool, coco, tmp_path, capsys):
    together = {key: [] for key in ("annotations", "images")}
    for dirt in DIRT.values():
        for key in together:
            together[key] += dirt.get(key, [])
    files = coco(**together)
    assert tool("check", files.anno_file, "--json", tmp_path / "report.json") == 1
    found = json.loads((tmp_path / "report.json").read_text())["problem_counts"]
    assert set(found) == {kind for kind in DIRT if not kind.startswith(("category", "no box"))}
    out = capsys.readouterr().out
    assert "annotation id 1 of image id 1 (1.jpg): x, y, w, h [100, 5, 9, 9], image 100 x 60" in out


def test_check_compares_sizes_with_the_files(coco, tmp_path):
    files = coco([annotation(1, 1, [0, 0, 9, 9])])
    write_image(tmp_path / "coco" / "2.jpg", 60, 90)
    [problem] = check(files).problems
    assert problem.where == "image id 2 (2.jpg): 100 x 60, the file has 90 x 60"


def test_check_finds_cut_off_images_by_decoding(coco, tmp_path):
    files = coco([annotation(1, 1, [0, 0, 9, 9])])
    path = tmp_path / "coco" / "2.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert check(files).problems == []
    assert kinds(check(files, decode=True)) == {"file that is no readable image"}


@pytest.mark.parametrize("box", [[-9, 5, 9, 9], [5, -9, 9, 9], [100, 5, 9, 9], [5, 60, 9, 9]])
def test_check_finds_boxes_outside_on_every_side(coco, box):
    assert kinds(check(coco([annotation(1, 1, box), annotation(2, 2, [0, 0, 9, 9])]))) == {"box outside its image"}


@pytest.mark.parametrize("box", [[-2, 5, 9, 9], [5, -2, 9, 9], [95, 5, 9, 9], [5, 55, 9, 9]])
def test_check_finds_boxes_that_reach_outside_on_every_side(coco, box):
    report = check(coco([annotation(1, 1, box)]))
    assert kinds(report) == {"box that reaches outside its image"} and report.boxes == 1


def test_check_of_rounding_is_no_problem(coco):
    assert check(coco([annotation(1, 1, [-0.4, 0, 100.8, 60.4])])).problems == []


def test_check_voc(voc, tmp_path):
    cat, lion, flat = ("cat", 1, 1, 9, 9), ("lion", 1, 1, 9, 9), ("cat", 5, 5, 5, 5)
    set_file = voc({"a b": [cat, lion], "c": [flat], "d": []}, ["cat"])
    with open(set_file, "a") as file:
        file.write("\nc\ngone\n")
    (tmp_path / "voc" / "Annotations" / "d.xml").write_text("<annotation>")
    report = check(find_dataset(set_file))
    where = {problem.kind: problem.where for problem in report.problems}
    assert "a b.xml: class 'lion' is not in " in where["annotation of an unknown category"]
    assert "c.xml: cat, x1, y1, x2, y2 [5.0, 5.0, 5.0, 5.0], image 100 x 60" in where["box without area or inverted"]
    assert where["file listed twice"].endswith("train.txt:4: also in line 2")
    broken = [p.where for p in report.problems if p.kind == "annotation file that cannot be used"]
    assert "d.xml is not valid XML" in broken[0] and "gone.xml does not exist" in broken[1]
    assert report.classes == {"cat": (1, 1)}


def test_check_of_a_configs_data_set(tool, synthetic, tmp_path, capsys):
    assert tool("check", "-c", write_config(tmp_path, synthetic), "--split", "eval") == 0
    assert "instances_val.json: 2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["check"], "no dataset given: give its COCO JSON file"),
        (["check", "nowhere.json"], "nowhere.json does not exist"),
        (["check", "nowhere.txt", "-c", "some.yml"], "give only one"),
        (["show", "nowhere.txt", "--transforms"], "give the config with -c"),
        (["synth", "there", "--size", "big"], "size 'big': write a number"),
        (["synth", "there", "--scales", "1,x,2"], "write three shares"),
        (["convert", "nowhere.txt", "x.json"], "nowhere.txt does not exist"),
    ],
)
def test_mistakes_get_one_line_and_code_2(tool, capsys, arguments, message):
    assert tool(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# --- synth and show


def test_synth(tool, tmp_path):
    root = tmp_path / "set"
    options = ["--train", 2, "--val", 1, "--size", "64x96-128", "--classes", "ring,disk", "--objects", "2"]
    assert tool("synth", root, *options) == 0
    source = COCODataSet(str(root), "train", "annotations/instances_train.json")
    assert source.class_names == ["ring", "disk"]
    assert source.record(0)["h"] == 64 and 96 <= source.record(0)["w"] <= 128
    assert tool("synth", root, *options) == 0
    assert tool("synth", root, *options, "--seed", 1) == 2


def write_config(tmp_path, root):
    """A config with data sets and a training reader, and nothing else."""
    path = tmp_path / "data.yml"
    path.write_text(
        f"""
epoch: 1
TrainDataset: !COCODataSet {{dataset_dir: {root}, image_dir: train,
  anno_path: annotations/instances_train.json, data_fields: [image, gt_bbox, gt_class]}}
EvalDataset: !COCODataSet {{dataset_dir: {root}, image_dir: val, anno_path: annotations/instances_val.json}}
TrainReader:
  sample_transforms:
    - Decode: {{}}
    - Resize: {{target_size: [160, 240], keep_ratio: false, interp: 1}}
    - NormalizeImage: {{mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2], is_scale: true}}
    - Permute: {{}}
  batch_size: 2
"""
    )
    return path


def test_show(tool, synthetic, tmp_path, capsys):
    anno_file = synthetic / "annotations" / "instances_train.json"
    assert tool("show", anno_file, "--out", tmp_path / "seen", "-n", 3) == 0
    pictures = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert len(pictures) == 4 and pictures[-1] == "sheet.jpg"
    assert capsys.readouterr().out.strip() == str(tmp_path / "seen" / "sheet.jpg")
    first = cv2.imread(str(tmp_path / "seen" / pictures[0]))
    assert first.shape == (64 * 5, 96 * 5, 3)  # enlarged to at least 480 px
    before = [path.read_bytes() for path in sorted((tmp_path / "seen").iterdir())]
    tool("show", anno_file, "--out", tmp_path / "seen", "-n", 3)
    assert [path.read_bytes() for path in sorted((tmp_path / "seen").iterdir())] == before


def test_show_of_what_training_sees(tool, synthetic, tmp_path):
    out = tmp_path / "seen"
    assert tool("show", "-c", write_config(tmp_path, synthetic), "--transforms", "--out", out, "-n", 2) == 0
    picture = cv2.imread(str(next(out.glob("000_*.jpg"))))
    assert picture.shape == (160 * 2, 240 * 2, 3)  # Resize's, then enlarged; NormalizeImage left out
    assert picture.std() > 10


def test_pictures_end_where_numbers_begin():
    class Flip:
        pass

    class NormalizeImage:
        pass

    flip = Flip()
    assert before_normalization([flip, NormalizeImage(), Flip()]) == [flip]


# --- convert


def test_voc_to_coco_keeps_boxes_classes_and_flags(voc, tmp_path):
    set_file = voc({"a b": [("dog", 1, 2, 30, 40), ("cat", 5.5, 6, 99, 59)], "c": [("dog", 0, 0, 9, 9)]})
    line = convert(find_dataset(set_file), str(tmp_path / "out" / "train.json"))
    assert "2 images, 3 boxes, 2 classes; its image_dir is " in line
    document = json.loads((tmp_path / "out" / "train.json").read_text())
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert document["images"][0] == {"id": 1, "file_name": "a b.jpg", "width": 100, "height": 60}
    assert document["annotations"][1]["bbox"] == [5.5, 6, 93.5, 53]
    assert document["annotations"][1]["area"] == 93.5 * 53
    assert [a["difficult"] for a in document["annotations"]] == [0, 1, 0]
    # both sources read the same
    images = str(tmp_path / "voc" / "JPEGImages")
    read = COCODataSet(None, images, str(tmp_path / "out" / "train.json"), FIELDS)
    original = VOCDataSet(str(tmp_path / "voc"), None, "train.txt", FIELDS, label_list="label_list.txt")
    for i in (0, 1):
        np.testing.assert_array_equal(read.record(i)["gt_bbox"], original.record(i)["gt_bbox"])
        np.testing.assert_array_equal(read.record(i)["gt_class"], original.record(i)["gt_class"])


def test_every_split_gets_the_same_categories(voc, tmp_path):
    voc({"a": [("dog", 1, 2, 30, 40)], "b": [("cat", 1, 2, 30, 40)]})
    (tmp_path / "voc" / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    convert(find_dataset(str(tmp_path / "voc" / "ImageSets" / "Main" / "val.txt")), str(tmp_path / "val.json"))
    assert json.loads((tmp_path / "val.json").read_text())["annotations"][0]["category_id"] == 2


def test_voc_to_coco_and_back(voc, tmp_path):
    set_file = voc({"a b": [("dog", 1, 2, 30, 40), ("cat", 5.25, 6, 100, 60)], "c": []})
    convert(find_dataset(set_file), str(tmp_path / "train.json"))
    files = find_dataset(str(tmp_path / "train.json"), str(tmp_path / "voc" / "JPEGImages"))
    convert(files, str(tmp_path / "back"))
    again = tmp_path / "again.json"
    convert(find_dataset(str(tmp_path / "back" / "ImageSets" / "Main" / "train.txt")), str(again))
    assert again.read_text() == (tmp_path / "train.json").read_text()
    for name in ("a b", "c"):
        original = (tmp_path / "voc" / "JPEGImages" / f"{name}.jpg").read_bytes()
        assert (tmp_path / "back" / "JPEGImages" / f"{name}.jpg").read_bytes() == original


def test_coco_to_voc_and_back(coco, tmp_path):
    crowd = annotation(2, 1, [0, 0, 100, 60], category_id=5, iscrowd=1)
    boxes = [annotation(1, 2, [1.25, 2, 30.5, 7]), crowd]
    files = coco(boxes, categories=((5, "dog"), (1, "cat"), (9, "no box")))
    assert "2 images, 2 boxes, 3 classes" in convert(files, str(tmp_path / "voc"))
    assert (tmp_path / "voc" / "label_list.txt").read_text() == "cat\ndog\nno box\n"
    back = tmp_path / "back.json"
    convert(find_dataset(str(tmp_path / "voc" / "ImageSets" / "Main" / "all.txt")), str(back))
    document = json.loads(back.read_text())
    keys = "image_id", "category_id", "bbox", "iscrowd"
    found = sorted([a[key] for key in keys] for a in document["annotations"])
    # category ids are numbered anew: 1, 5, 9 become 1, 2, 3
    assert found == [[1, 2, [0, 0, 100, 60], 1], [2, 1, [1.25, 2, 30.5, 7], 0]]
    assert [image["id"] for image in document["images"]] == [1, 2]


def test_convert_overwrites_only_when_told(tool, voc, coco, tmp_path, capsys):
    set_file, target = voc({"a": [("dog", 1, 2, 30, 40)]}), tmp_path / "train.json"
    target.write_text("precious")
    assert tool("convert", set_file, target) == 2
    assert "train.json exists: choose another path, or overwrite it with --force" in capsys.readouterr().err
    assert target.read_text() == "precious"
    assert tool("convert", set_file, target, "--force") == 0
    assert json.loads(target.read_text())["images"]


def test_coco_to_voc_overwrites_only_when_told(coco, tmp_path):
    files = coco()
    kept = tmp_path / "voc" / "JPEGImages" / "2.jpg"
    kept.parent.mkdir(parents=True)
    kept.write_text("precious")
    with pytest.raises(UserError, match="2.jpg exists: .*--force"):
        convert(files, str(tmp_path / "voc"))
    assert kept.read_text() == "precious" and not (tmp_path / "voc" / "Annotations").exists()
    convert(files, str(tmp_path / "voc"), force=True)
    with pytest.raises(UserError, match=r"all.txt exists \(and 4 more\)"):  # 2 xml, 2 images
        convert(files, str(tmp_path / "voc"))


def test_several_splits_fit_into_one_devkit(synthetic, tmp_path):
    (synthetic / "val").rename(synthetic / "other")
    for file in (synthetic / "other").iterdir():  # another name for every image
        file.rename(file.with_name("v" + file.name))
    path = synthetic / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"file_name": "', '"file_name": "v'))
    convert(find_dataset(str(path), str(synthetic / "other")), str(tmp_path / "voc"))
    convert(find_dataset(str(synthetic / "annotations" / "instances_train.json")), str(tmp_path / "voc"))
    assert len(list((tmp_path / "voc" / "JPEGImages").iterdir())) == 6


def test_convert_mistakes(voc, coco, tmp_path):
    set_file = voc({"a": [("lion", 1, 2, 30, 40)]}, ["cat"])
    with pytest.raises(UserError, match="a.xml: class 'lion' is not in .*label_list.txt"):
        convert(find_dataset(set_file), str(tmp_path / "x.json"))
    with pytest.raises(UserError, match="ends in .json"):
        convert(find_dataset(set_file), str(tmp_path / "x"))
    with pytest.raises(UserError, match="unknown category id 2"):
        convert(coco([annotation(1, 1, [0, 0, 9, 9], category_id=2)]), str(tmp_path / "x"))
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.json").exists()


# --- drawing


def test_class_colors_are_stable_and_apart():
    assert class_color(3) == class_color(3)
    colors = np.array([class_color(i) for i in range(20)], float)
    apart = np.linalg.norm(colors[:, None] - colors[None], axis=2) + 1000 * np.eye(20)
    assert apart.min() > 25


def test_draw_boxes_leaves_the_image_alone():
    image = np.zeros((50, 80, 3), np.uint8)
    drawn = draw_boxes(image, [[10, 20, 60, 45]], [2], [0.5], ["a", "b", "c"])
    assert not image.any() and drawn.shape == image.shape
    assert tuple(drawn[45, 60]) == class_color(2)
    assert not drawn[40, 30].any()  # inside


@pytest.mark.parametrize("size", [(20, 20), (64, 96), (700, 40), (3000, 4000)])
def test_labels_stay_inside_at_any_size(size):
    height, width = size
    corners = [[-5, -5, 9, 9], [width - 3, height - 3, width + 9, height + 9], [0, 0, width, height]]
    drawn = draw_boxes(np.zeros((height, width, 3), np.uint8), corners, [0, 1, 200], names=["zèbre", "犬"])
    assert drawn.shape == (height, width, 3) and drawn.any()


def test_labels_make_room_for_each_other():
    image = np.zeros((200, 200, 3), np.uint8)
    one = (draw_boxes(image, [[50, 90, 150, 190]], [0]) > 0).any(2).sum()
    two = (draw_boxes(image, [[50, 90, 150, 190]] * 2, [0, 0]) > 0).any(2).sum()
    assert two > one + 200  # a second plate beside the first


def test_draw_nothing():
    assert not draw_boxes(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 4)), []).any()


def test_enlarged_by_whole_factors():
    image, factor = enlarged(np.zeros((100, 161, 3), np.uint8), 480)
    assert factor == 3 and image.shape == (300, 483, 3)
    assert enlarged(image, 480)[1] == 1


def test_contact_sheet():
    images = [np.zeros((h, w, 3), np.uint8) for h, w in ((30, 60), (90, 10), (10, 10), (9, 9), (1, 1))]
    sheet = contact_sheet(images, cell=40)
    assert sheet.shape == (2 * 40, 3 * 40, 3)
    assert (sheet[60:, 80:] == 255).all()  # the sixth cell stays white


def test_paths_that_cannot_be_written(tool, synthetic, tmp_path, capsys):
    blocked, anno_file = tmp_path / "file" / "out", synthetic / "annotations" / "instances_val.json"
    (tmp_path / "file").touch()
    commands = ["check", anno_file, "--json", blocked], ["show", anno_file, "--out", blocked]
    for command in (*commands, ["convert", anno_file, blocked]):
        assert tool(*command) == 2
        assert "cannot be written" in capsys.readouterr().err
