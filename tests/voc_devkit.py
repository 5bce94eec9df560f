"""Small datasets in the layout of the VOC devkit, for the tests of data sources and of VOC evaluation."""

from __future__ import annotations

import cv2
import numpy as np

from ppdet_repro.data.source.voc import VOCDataSet

FIELDS = ["image", "gt_bbox", "gt_class", "is_crowd", "difficult", "gt_score"]
CAT = ("cat", 10, 20, 40, 35, "")


def write_image(path, height=60, width=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))


def xml(objects, width=100, height=60, more=""):
    items = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, extra in objects
    )
    size = f"<size><width>{width}</width><height>{height}</height></size>" if width else ""
    return f"<annotation>{more}{size}{items}</annotation>"


def write_devkit(folder, files, suffix=".jpg", labels=None, **options):
    """Write a VOC devkit of the given {image id: xml} into `folder`; returns its dataset."""
    for name, text in files.items():
        write_image(folder / "JPEGImages" / f"{name}{suffix}")
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True, exist_ok=True)
    (sets / "train.txt").write_text("\n".join(files) + "\n")
    if labels:
        (folder / "label_list.txt").write_text("\n".join(labels) + "\n")
    options = {"label_list": "label_list.txt", "data_fields": FIELDS, **options}
    return VOCDataSet(str(folder), None, "ImageSets/Main/train.txt", **options)
