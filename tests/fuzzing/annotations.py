"""Data sets with the oddities of other tools and with damage: check, training and evaluation must agree about each.

A case is a small COCO or VOC set, or a result file. `read` reads it as check, as training and as evaluation, and raises
AssertionError if one refuses, leaves out or counts what another does not.
"""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import cv2
import numpy as np

from ppdet_repro.data.source.base import Source
from ppdet_repro.data.source.check import FIELDS, check
from ppdet_repro.data.source.dataset_files import find_dataset, open_dataset
from ppdet_repro.data.source.findings import LEFT_OUT, Findings
from ppdet_repro.metrics.coco import evaluate_coco, load_coco_json
from ppdet_repro.metrics.detections import read_rows
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.printable import printable
from tests.fuzzing.lists import VALUES
from tests.fuzzing.mutations import damaged
from tests.voc_devkit import xml

Files = Dict[str, bytes]
SET = "ImageSets/Main/set.txt"
IDS = [0, 1, 1.0, "1", "2", " 2 ", 2.5, -3, 1 << 62, 1 << 64, 1e18, True, None, [1], {"a": 1}, "one", float("nan")]
FLAGS = [0, 1, True, False, None, "", "0", "1", "no", "true", 1.0, 0.0, 2, -1, float("nan"), [0], {}, "maybe"]
NUMBERS = [0, -1, -5.5, 3, 1e-6, 5e-324, 1e9, 1e300, 10**400, float("nan"), float("inf"), None, "12", "wide", [], True]
NAMES = ["cat", "dog", "background", "犬", "圆盘", " cat ", "cat/dog", "CON", "a" * 300, "", "\0", 7, None, "\x1b[2J"]
FILE_NAMES = [
    "a.jpg", "./a.jpg", ".\\a.jpg", "sub\\c.jpg", "sub/c.jpg", "._a.jpg", "__MACOSX/a.jpg", "Thumbs.db", "a.JPG",
    '"a.jpg"', "../a.jpg", "/etc/hostname", "C:\\a.jpg", "gone.jpg", "", None, 5, "x" * 5000,
]  # fmt: skip
BOXES = [
    [0, 0, 0, 0], [], None, [1, 2, 3], [1, 2, 3, 4, 5], ["1", "2", "3", "4"], [5, 5, -2, 3], [99, 59, 50, 50],
    [-50, 5, 51, 9], [200, 5, 9, 9], [-0.3, -0.3, 100.5, 60.4], [1e308] * 4, [float("nan")] * 4, [1, 2, 10**400, 4],
    [True] * 4, {"x": 1}, "1,2,3,4", [[1, 2, 3, 4]],
]  # fmt: skip
LINES = [
    "{0}", "{0}.jpg", "{0}.xml", '"{0}"', "'{0}'", "{0}  1", "{0} -1", "{0} 0", "{0} 2", "JPEGImages/{0}.jpg",
    "JPEGImages\\{0}.jpg Annotations\\{0}.xml", "JPEGImages/{0}.jpg Annotations/{0}.xml", "./{0}",
    "JPEGImages/{0}.jpg,Annotations/{0}.xml", '"JPEGImages/{0}.jpg" "Annotations/{0}.xml"', "._{0}", ".DS_Store",
    "data\\VOC\\JPEGImages\\{0}.jpg", "../{0}", "/tmp/{0}", "{0}\0", "{0} {0}", "gone",
]  # fmt: skip
TAGS = [("bndbox", "BndBox"), ("object", "Object"), ("xmin", "Xmin"), ("name", "Name"), ("bndbox", "polygon")]
ENCODINGS = ["utf-8", "utf-8", "utf-8-sig", "utf-16", "gbk", "shift_jis", "latin-1", "utf-16-le"]
DECLARED = ["GB2312", "gbk", "Shift_JIS", "Big5", "utf-8", "UTF8", "unknown", "punycode", "latin1", "utf-16"]


@cache
def picture() -> bytes:
    return cv2.imencode(".jpg", np.full((60, 100, 3), 90, np.uint8))[1].tobytes()


def generate(rng: random.Random) -> Files:
    """The files of a case."""
    files = rng.choice([coco, coco, voc, voc, results])(rng)
    if rng.random() < 0.1:
        name = rng.choice([name for name in files if not name.endswith(".jpg")])
        files[name] = damaged(rng, files[name], list(files.values()))
    return files


def encoded(rng: random.Random, text: str) -> bytes:
    return text.encode(rng.choice(ENCODINGS) if rng.random() < 0.2 else "utf-8", "replace")


def some(rng: random.Random, odd: List[Any], usual: Any, share: float = 0.15) -> Any:
    return copy.deepcopy(rng.choice(odd)) if rng.random() < share else usual


def coco(rng: random.Random) -> Files:
    """A COCO set with up to four images; in most, one kind of entry is odd."""
    share = dict.fromkeys(("image", "name", "size", "category", "id", "box", "flag", "area"), 0.0)
    for _ in range(rng.choice([0, 1, 1, 2])):
        share[rng.choice(list(share))] = rng.choice([0.1, 0.5, 1.0])

    def odd(kind: str, values: List[Any], usual: Any) -> Any:
        return some(rng, values, usual, share[kind])

    images = [
        {
            "id": odd("image", IDS, i),
            "file_name": odd("name", FILE_NAMES, name),
            "width": odd("size", NUMBERS, 100),
            "height": odd("size", NUMBERS, 60),
        }
        for i, name in enumerate(["a.jpg", "b.jpg", "sub/c.jpg"][: rng.choice([1, 2, 3])], rng.choice([0, 1]))
    ]
    classes = rng.choice([1, 2, 3])
    categories = [{"id": odd("category", IDS, i), "name": odd("name", NAMES, f"c{i}")} for i in range(1, classes + 1)]
    annotations = []
    for number in range(rng.choice([0, 1, 3, 6])):
        box = odd("box", BOXES, [rng.randrange(40), rng.randrange(30), rng.randrange(1, 60), rng.randrange(1, 30)])
        image = rng.choice(images)
        entry = {
            "id": odd("id", [*IDS, 1, 1], number),
            "image_id": odd("image", [*IDS, str(image["id"])], image["id"]),
            "category_id": odd("category", IDS, rng.choice(categories)["id"]),
            "bbox": box,
            "area": odd("area", NUMBERS, 200),
            "iscrowd": odd("flag", FLAGS, 0),
            "ignore": odd("flag", FLAGS, 0),
            "segmentation": [],
        }
        for key in list(entry):
            if rng.random() < 0.03:
                del entry[key]
        annotations.append(entry)
    document: Any = {"images": images, "annotations": annotations, "categories": categories}
    for _ in range(rng.choice([0, 0, 0, 1])):
        document[rng.choice(list(document))] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
    pictures = {name: picture() for name in ("a.jpg", "b.jpg", "sub/c.jpg")}
    return {"a.json": text.encode("utf-8", "surrogatepass"), **pictures}


def voc(rng: random.Random) -> Files:
    """A devkit with up to three images; in most, one kind of file is odd."""
    kinds = rng.sample(["line", "name", "number", "flag", "tag", "size", "encoding", "none"], rng.choice([1, 1, 2]))

    def odd(kind: str, values: List[Any], usual: Any) -> Any:
        return some(rng, values, usual, 0.5 if kind in kinds else 0.0)

    stems = ["a", "b c", "1"][: rng.choice([1, 2, 3])]
    names = ["cat", "犬", rng.choice(["dog", "background", "圆盘"])]
    files: Files = {}
    for stem in stems:
        files[f"JPEGImages/{stem}.jpg"] = picture()
        objects = []
        for _ in range(rng.choice([0, 1, 3])):
            x, y = rng.randrange(60), rng.randrange(40)
            sides = [odd("number", [*NUMBERS[:-4], "x", "", "12,5", 1000], side) for side in (x, y, x + 20, y + 15)]
            flag = odd("flag", FLAGS, 0)
            extra = "" if flag is None else f"<difficult>{flag}</difficult>"
            objects.append((odd("name", NAMES, rng.choice(names)), *sides, extra))
        text = xml(objects, odd("size", NUMBERS, 100), odd("size", NUMBERS, 60))
        for one, other in TAGS:
            if "tag" in kinds and rng.random() < 0.3:
                text = text.replace(f"<{one}>", f"<{other}>").replace(f"</{one}>", f"</{other}>")
        declared = odd("encoding", DECLARED, None)
        head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
        content = (head + text).encode(odd("encoding", ENCODINGS, "utf-8"), "replace")
        files[f"Annotations/{stem}.xml"] = content
    if "none" in kinds:
        files[f"Annotations/{rng.choice(['._a', 'z', 'A B'])}.xml"] = rng.choice([b"", b"\0\5\x16\7", b"<a"])
    lines = [odd("line", LINES, "{0}").format(stem) for stem in stems]
    files[SET] = encoded(rng, rng.choice(["\n", "\r\n"]).join(lines) + "\n")
    if rng.random() < 0.8:
        labels = [*names, *([odd("name", ["background", "cat", "x" * 5000], "more")] if rng.random() < 0.3 else [])]
        rng.shuffle(labels)
        files["label_list.txt"] = encoded(rng, "\n".join(labels))
    return files


def results(rng: random.Random) -> Files:
    """The rows of a result file, in which one kind of entry may be odd."""
    kind = rng.choice(["none", "image", "category", "box", "score", "row"])

    def odd(name: str, values: List[Any], usual: Any) -> Any:
        return some(rng, values, usual, 0.3 if kind == name else 0.0)

    rows: List[Any] = []
    for _ in range(rng.choice([0, 1, 5])):
        row = {
            "image_id": odd("image", IDS, rng.choice([1, 2])),
            "category_id": odd("category", IDS, rng.choice([1, 2])),
            "bbox": odd("box", BOXES, [1, 2, 30, 20]),
            "score": odd("score", NUMBERS, round(rng.random(), 2)),
        }
        if kind == "row" and rng.random() < 0.3:
            del row[rng.choice(list(row))]
        rows.append(odd("row", [None, 3, "row", [], [1, 2]], row))
    image = {"file_name": "a.jpg", "width": 100, "height": 60}
    box = {"category_id": 1, "bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0}
    truth = {
        "images": [{"id": 1, **image}, {"id": 2, **image}],
        "annotations": [{"id": 1, "image_id": 1, **box}],
        "categories": [{"id": i, "name": f"c{i}"} for i in (1, 2)],
    }
    content = some(rng, [{"rows": rows}, None, 5, "rows"], rows, 0.05)
    return {"truth.json": json.dumps(truth).encode(), "bbox.json": json.dumps(content).encode()}


def read(folder: Path) -> None:
    if (folder / "bbox.json").exists():
        evaluate_coco(load_coco_json(folder / "truth.json"), read_rows(folder / "bbox.json"))
    elif (folder / "a.json").exists():
        agree(folder / "a.json", folder)
    else:
        agree(folder / SET, folder)


def agree(path: Path, folder: Path) -> None:
    """Read a data set as check and as training do, and compare. UserError if both refuse it."""
    files = find_dataset(str(path), str(folder))
    report, refusal = attempt(lambda: check(files))
    training = open_dataset(files, FIELDS)
    training.allow_empty = False
    table, also = attempt(training.load)
    if report is not None:
        printable(report.text()).encode("utf-8")
        json.dumps(report.as_dict())
        pictures = [problem for problem in report.problems if "no readable image" in problem.kind]
        assert report.refused == (also is not None) or pictures, f"check: {report.problems}, training: {also}"
    else:
        assert also is not None, f"check refuses ({refusal}), training does not"
    if files.is_coco:
        evaluate(path, table, also)
    if report is None or table is None:
        raise also or refusal or UserError("a picture")
    assert (report.boxes, report.images - report.empty_images) == (table.starts[-1], len(table.files))
    found = {kind: n for (effect, kind), n in findings_of(training).items() if effect == LEFT_OUT}
    assert found == Counter(problem.kind for problem in report.problems if problem.effect == LEFT_OUT)


def attempt(reading: Callable[[], Any]) -> tuple[Any, Optional[UserError]]:
    try:
        return reading(), None
    except UserError as error:
        return None, error


def findings_of(source: Source) -> Dict[tuple[str, str], int]:
    findings = Findings()
    source.scan(findings)
    return findings.counts


def evaluate(path: Path, table: Any, refusal: Optional[UserError]) -> None:
    """Evaluate the objects as detections: each is found, with whatever ids the annotations have."""
    truth, also = attempt(lambda: load_coco_json(path))
    if truth is None:
        assert refusal is not None, f"evaluation refuses ({also}), training does not"
        return
    keys = ("image_id", "category_id", "bbox")
    rows = [{**{key: a[key] for key in keys}, "score": 0.5} for a in truth["annotations"] if min(a["bbox"][2:]) > 1e-3]
    scores = evaluate_coco(truth, rows).summary
    impossible = any(not a["iscrowd"] and min(a["bbox"][2:]) <= 1e-3 for a in truth["annotations"])
    assert impossible or scores["bbox_mAP"] in (-1, 1) or abs(scores["bbox_mAP"] - 1) < 1e-9, scores
    if table is not None:
        crowd = int(table.columns["is_crowd"].sum())
        assert crowd <= sum(a["iscrowd"] for a in truth["annotations"])
        assert len(truth["annotations"]) >= table.starts[-1]
