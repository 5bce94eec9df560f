"""Small datasets in the formats and layouts of labelling tools."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from ppdet_repro.data.source.convert import convert_splits
from ppdet_repro.data.source.layouts import find_datasets
from ppdet_repro.data.source.synthetic import generate


def write_picture(path, width=100, height=50):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(sum(path.name.encode())).integers(0, 255, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), noise)


def write(path, content=""):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def rectangle(label, x1, y1, x2, y2, **more):
    return {"label": label, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", **more}


def labelme(image, *shapes, width=100, height=50):
    return {"shapes": list(shapes), "imagePath": image, "imageWidth": width, "imageHeight": height, "imageData": None}


def coco(images, annotations, names, **more):
    """A document of images (name, width, height), annotations (image, class, x, y, w, h), all counted from 1."""
    return {
        "images": [{"id": i, "file_name": n, "width": w, "height": h} for i, (n, w, h) in enumerate(images, 1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": label, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            for i, (image, label, x, y, w, h) in enumerate(annotations, 1)
        ],
        "categories": [{"id": i, "name": name, **more} for i, name in enumerate(names, 1)],
    }


def write_in_all_formats(folder, monkeypatch, train=8, val=4):
    """Write a VOC devkit as BCCD is one, and what `convert_splits` makes of it. Returns the folders by format.

    Folder `made` has the same boxes, written independently: boxes_of("made/annotations/instances_train.json").
    """
    monkeypatch.chdir(folder)
    made = generate("made", train=train, val=val, size=(64, 96), classes=3, seed=3)
    for path in (made / "val").iterdir():  # no picture of train and val has the same name
        path.rename(path.with_name(f"v{path.name}"))
    file = made / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"file_name": "', '"file_name": "v'))
    convert_splits(find_datasets("made"), "voc", to="voc")
    sets = Path("voc/ImageSets/Main")
    (sets / "trainval.txt").write_text((sets / "train.txt").read_text() + (sets / "val.txt").read_text())
    Path("voc/label_list.txt").unlink()
    for form in ("coco", "yolo", "labelme"):
        convert_splits(find_datasets("voc"), form, to=form)
    shutil.copytree("voc/JPEGImages", "coco/images")  # a COCO file names pictures, which stay where they are
    return {form: Path(form) for form in ("coco", "voc", "yolo", "labelme")}


def boxes_of(path):
    """What a COCO file contains: (name of the picture, class, box), sorted; and the names of pictures."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    names = {image["id"]: os.path.basename(image["file_name"]) for image in document["images"]}
    classes = {entry["id"]: entry["name"] for entry in document["categories"]}
    found = [(names[a["image_id"]], classes[a["category_id"]], tuple(a["bbox"])) for a in document["annotations"]]
    return sorted(found), sorted(names.values())
