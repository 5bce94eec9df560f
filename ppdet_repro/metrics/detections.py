"""Ground truth and detections per image, as all metrics take them, and their conversion from and to COCO's formats.

B images, G objects and M detections of an image. A row of detections is class, score, x1, y1, x2, y2; all boxes are in
pixels of the original image. Classes are the model's class ids; COCO's files have category ids, `category_ids[class]`.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence

import numpy as np

from ppdet_repro.data.source.text import read_json
from ppdet_repro.data.source.values import box_column, id_column, number_column
from ppdet_repro.utils.errors import UserError

Document = Dict[str, Any]  # the content of a COCO annotation file
Rows = List[Dict[str, Any]]  # of a COCO result file: image_id, category_id, bbox [x, y, w, h], score
ROW = ("image_id", "category_id", "bbox", "score")


class Objects(NamedTuple):
    """The ground truth of an image."""

    boxes: np.ndarray  # [G, 4] xyxy
    classes: np.ndarray  # [G]
    difficult: np.ndarray  # [G] bool


class ImageDetections(NamedTuple):
    """The detections `rows` [M, 6] float32 of the image with the id `im_id`."""

    im_id: int
    rows: np.ndarray


def split_batch(im_id: np.ndarray, bbox: np.ndarray, bbox_num: np.ndarray) -> List[ImageDetections]:
    """Split the detections of a batch [sum of M, 6] by image: `im_id` [B] or [B, 1], rows per image `bbox_num` [B].
    Rows with a negative class are padding and are dropped."""
    ends = np.cumsum(bbox_num)
    images = np.split(np.asarray(bbox, np.float32).reshape(-1, 6)[: ends[-1]], ends[:-1])
    return [ImageDetections(int(i), rows[rows[:, 0] >= 0]) for i, rows in zip(np.ravel(im_id), images)]


def merge_ranks(parts: Iterable[Sequence[ImageDetections]], order: Sequence[int]) -> List[ImageDetections]:
    """Merge the detections of several processes into what one process would have found, in the order of image ids.

    An image that several processes have (a sampler repeats images to fill the last batch) is taken once. Images that
    no process has are left out.
    """
    by_id: Dict[int, ImageDetections] = {}
    for part in parts:
        for image in part:
            by_id.setdefault(image.im_id, image)
    return [by_id[im_id] for im_id in order if im_id in by_id]


def coco_rows(detections: Iterable[ImageDetections], category_ids: Sequence[int], bias: float = 0.0) -> Rows:
    """Convert detections to rows of a COCO result file.

    `bias` is added to widths and heights. It is 1 where corners are pixels that belong to the box, as some published
    weights need.
    """
    return [
        {
            "image_id": image.im_id,
            "category_id": category_ids[int(label)],
            "bbox": [x1, y1, x2 - x1 + bias, y2 - y1 + bias],
            "score": score,
        }
        for image in detections
        for label, score, x1, y1, x2, y2 in image.rows.tolist()
    ]


def read_rows(path: Path) -> Rows:
    """Read the rows of a COCO result file. UserError with the number of the first row that is none."""
    if not path.is_file():
        raise UserError(f"cannot read {path}: No such file or directory; --output_eval names its folder")
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UserError(f"{path} is not a COCO result file: it must be a list of objects, from row 0 on")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: row {number} is {reprlib.repr(entry)}: write an object")
        missing = [key for key in ROW if key not in entry]
        if missing:
            raise UserError(f"{path}: row {number} has no {missing[0]!r}: a row has {', '.join(ROW)}")
    image_ids, categories = id_column(entries, "image_id"), id_column(entries, "category_id")
    boxes, scores = box_column(entries, "bbox").values, number_column(entries, "score")
    scores[[isinstance(entry["score"], str) for entry in entries]] = np.nan
    valid = {
        "image_id": (image_ids.valid, "an integer"),
        "category_id": (categories.valid, "an integer"),
        "bbox": (np.isfinite(boxes).all(1), "[x, y, width, height] in pixels"),
        "score": (np.isfinite(scores), "a number"),
    }
    for key, (fits, wanted) in valid.items():
        if not fits.all():
            number = int(np.argmin(fits))
            raise UserError(f"{path}: row {number} has the {key} {reprlib.repr(entries[number][key])}: write {wanted}")
    columns = (image_ids.values.tolist(), categories.values.tolist(), boxes.tolist(), scores.tolist())
    return [dict(zip(ROW, row)) for row in zip(*columns)]


def from_coco_rows(
    rows: Rows, category_ids: Sequence[int], image_ids: Sequence[int], bias: float = 0.0
) -> List[ImageDetections]:
    """The inverse of `coco_rows` for these images. Rows of other categories are left out, as in COCO's evaluation."""
    labels = {category: i for i, category in enumerate(category_ids)}
    found: Dict[int, List[List[float]]] = {im_id: [] for im_id in image_ids}
    for row in (row for row in rows if row["category_id"] in labels):
        x, y, w, h = row["bbox"]
        found[row["image_id"]].append([labels[row["category_id"]], row["score"], x, y, x + w - bias, y + h - bias])
    return [ImageDetections(i, np.array(rows, np.float32).reshape(-1, 6)) for i, rows in found.items()]


def coco_document(truth: Mapping[int, Objects], category_ids: Sequence[int], class_names: Sequence[str]) -> Document:
    """Convert ground truth, by image id, to the content of a COCO annotation file. Difficult objects become crowds."""
    annotations: List[Dict[str, Any]] = []
    for im_id, objects in truth.items():
        for box, label, difficult in zip(objects.boxes.tolist(), objects.classes.ravel(), objects.difficult.ravel()):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": im_id,
                    "category_id": category_ids[int(label)],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(difficult),
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, class_names)]
    return {"images": [{"id": im_id} for im_id in truth], "annotations": annotations, "categories": categories}


def from_coco_document(document: Document, category_ids: Sequence[int], image_ids: Iterable[int]) -> Dict[int, Objects]:
    """The inverse of `coco_document` for the images with these ids: crowds become difficult objects."""
    labels = {category: i for i, category in enumerate(category_ids)}
    found: Dict[int, List[List[float]]] = {im_id: [] for im_id in image_ids}
    for a in document["annotations"]:
        if a["image_id"] in found:
            x, y, w, h = a["bbox"]
            found[a["image_id"]].append([x, y, x + w, y + h, labels[a["category_id"]], a["iscrowd"]])
    rows = {im_id: np.array(items, np.float64).reshape(-1, 6) for im_id, items in found.items()}
    return {i: Objects(r[:, :4], r[:, 4].astype(np.int64), r[:, 5].astype(bool)) for i, r in rows.items()}
