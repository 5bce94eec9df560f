"""PASCAL VOC's average precision.

G objects and M detections of an image, K classes, D detections of a class over all images.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from ppdet_repro.metrics.detections import ImageDetections
from ppdet_repro.utils.boxes import overlaps
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table


class Objects(NamedTuple):
    """An image's ground truth: `boxes` [G, 4] xyxy in pixels, `classes` [G], `difficult` [G] bool."""

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray


class ClassScore(NamedTuple):
    """One class: objects that count, detections, average precision; None for a class without objects."""

    name: str
    objects: int
    detections: int
    ap: Optional[float]


class VOCScores(NamedTuple):
    """`mean`: mean AP over the classes that have objects, 0 if none has."""

    mean: float
    classes: List[ClassScore]

    def values(self) -> Dict[str, float]:
        """`bbox_mAP`, then `bbox_AP/<class>` of each class that has objects."""
        per_class = {f"bbox_AP/{c.name}": c.ap for c in self.classes if c.ap is not None}
        return {"bbox_mAP": self.mean, **per_class}

    def table(self) -> str:
        """The mean for a reader."""
        objects, detections = (sum(getattr(c, key) for c in self.classes) for key in ("objects", "detections"))
        return text_table(["VOC", "mAP", "objects", "detections"], [["", self.mean, objects, detections]])

    def class_table(self) -> str:
        """Objects, detections and AP of each class."""
        return text_table(["class", "objects", "detections", "AP"], self.classes)


def evaluate_voc(
    truth: Dict[int, Objects],
    detections: Sequence[ImageDetections],
    class_names: Sequence[str],
    map_type: str = "11point",
    iou_threshold: float = 0.5,
    evaluate_difficult: bool = False,
) -> VOCScores:
    """AP of each class and its mean.

    Detections go by falling score; one is right if the object of its class with the largest IoU (sides
    counted in whole pixels, +1) lies over `iou_threshold` and no better detection has found it. A difficult
    object is neither asked for nor held against the detection that finds it, unless `evaluate_difficult`.
    Only images in `detections` count. `map_type`: 11point (VOC 2007), area (VOC 2010 and later) or integral
    (PaddleDetection's), see below; UserError if it is none of them.
    """
    if map_type not in AVERAGES:
        raise UserError(f"map_type {map_type!r} is not one of {', '.join(AVERAGES)}")
    average = AVERAGES[map_type]
    classes = []
    for k, name in enumerate(class_names):
        asked, scores, hits = 0, [np.zeros(0)], [np.zeros(0)]
        for image in detections:
            rows, objects = _of_class(image, truth[image.im_id], k, evaluate_difficult)
            asked += int((~objects.difficult).sum())
            scores.append(rows[:, 1])
            hits.append(_hits(rows, objects, iou_threshold))
        scores, hits = np.concatenate(scores), np.concatenate(hits)
        classes.append(ClassScore(name, asked, len(scores), average(scores, hits, asked) if asked else None))
    defined = [c.ap for c in classes if c.ap is not None]
    return VOCScores(float(np.mean(defined)) if defined else 0.0, classes)


def eleven_point(scores: np.ndarray, hits: np.ndarray, asked: int) -> float:
    """The mean over recall 0, .1, ..., 1 of the best precision at that recall or beyond (VOC 2007)."""
    precision, recall = precision_recall(scores, hits, asked)
    return float(np.mean([precision[recall >= r / 10].max(initial=0.0) for r in range(11)]))


def integral(scores: np.ndarray, hits: np.ndarray, asked: int) -> float:
    """The sum over right detections of precision times the recall gained; no upper envelope is drawn over the
    curve, which is PaddleDetection's meaning of the word and not VOC 2010's."""
    precision, recall = precision_recall(scores, hits, asked)
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def area(scores: np.ndarray, hits: np.ndarray, asked: int) -> float:
    """The area under the curve of the best precision at each recall or beyond (VOC 2010 and later)."""
    precision, recall = precision_recall(scores, hits, asked)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * np.diff(recall, prepend=0.0)).sum())


AVERAGES = {"11point": eleven_point, "integral": integral, "area": area}


def precision_recall(scores: np.ndarray, hits: np.ndarray, asked: int):
    """Precision and recall [D] after each detection by falling score. `hits` [D]: 1 right, 0 wrong, -1 does
    not count; `asked`: objects to be found."""
    order = np.argsort(-scores, kind="stable")
    hits = hits[order][hits[order] >= 0]
    right = np.cumsum(hits)
    return right / np.arange(1, len(hits) + 1), right / asked


def _of_class(image: ImageDetections, objects: Objects, k: int, evaluate_difficult: bool):
    """The rows of class k by falling score, and the objects of that class."""
    rows = image.rows[image.rows[:, 0] == k]
    mine = objects.classes.reshape(-1) == k
    difficult = objects.difficult.reshape(-1)[mine].astype(bool) & (not evaluate_difficult)
    by_score = rows[np.argsort(-rows[:, 1], kind="stable")]
    return by_score, Objects(objects.boxes[mine], objects.classes[mine], difficult)


def _hits(rows: np.ndarray, objects: Objects, iou_threshold: float) -> np.ndarray:
    """1 right, 0 wrong, -1 does not count, for each row of one class on one image."""
    hits = np.zeros(len(rows))
    if not len(objects.boxes):
        return hits
    found = np.zeros(len(objects.boxes), bool)
    boxes, truth = rows[:, None, 2:].astype(np.float64), objects.boxes.astype(np.float64)
    for i, iou in enumerate(overlaps(boxes, truth, extra=1.0, touching=False)):  # [G]
        best = int(iou.argmax())
        if iou[best] <= iou_threshold:
            continue
        if objects.difficult[best]:
            hits[i] = -1
        elif not found[best]:
            hits[i], found[best] = 1, True
    return hits
