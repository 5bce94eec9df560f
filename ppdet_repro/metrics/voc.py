"""PASCAL VOC's average precision."""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ppdet_repro.metrics.detections import ImageDetections, Objects
from ppdet_repro.utils.boxes import overlaps
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.table import text_table

IOU_THRESHOLD = 0.5


class ClassScore(NamedTuple):
    """The score of one class."""

    name: str
    objects: int  # those that are not difficult
    detections: int
    ap: Optional[float]  # None if there are no such objects


class VOCScores(NamedTuple):
    """The result of an evaluation."""

    mean: Optional[float]  # the mean AP of the classes that have objects; None if there are none
    classes: List[ClassScore]

    def values(self) -> Dict[str, float]:
        """`bbox_mAP`, -1 if it is not defined, and the `bbox_AP/<class>` of each class that has objects."""
        per_class = {f"bbox_AP/{c.name}": c.ap for c in self.classes if c.ap is not None}
        return {"bbox_mAP": -1.0 if self.mean is None else self.mean, **per_class}

    def table(self) -> str:
        """The mean AP as text."""
        objects, detections = (sum(getattr(c, key) for c in self.classes) for key in ("objects", "detections"))
        return text_table(["VOC", "mAP", "objects", "detections"], [["", self.mean, objects, detections]])

    def class_table(self) -> str:
        """Objects, detections and AP per class as text."""
        return text_table(["class", "objects", "detections", "AP"], self.classes)


def evaluate_voc(
    truth: Mapping[int, Objects],
    detections: Sequence[ImageDetections],
    class_names: Sequence[str],
    map_type: str = "11point",
    evaluate_difficult: bool = False,
) -> VOCScores:
    """Evaluate detections.

    The detection with the highest score comes first. It is right if its IoU with the object of its class that overlaps
    it most is above `IOU_THRESHOLD` and no detection before it has found that object. Widths and heights are in whole
    pixels (x2 - x1 + 1). Difficult objects need not be found, and a detection that finds one does not count.

    Args:
        truth: The objects by image id.
        detections: The detections per image. Only these images are evaluated.
        map_type: How to average precision: 11point (VOC 2007), area (VOC 2010 and later) or integral
            (PaddleDetection's); see `eleven_point`, `area` and `integral`. Other values raise a UserError.
        evaluate_difficult: Treat difficult objects like any other.
    """
    if map_type not in AVERAGES:
        raise UserError(f"map_type {map_type!r} is not one of {', '.join(AVERAGES)}")
    average = AVERAGES[map_type]
    classes = []
    for k, name in enumerate(class_names):
        number = 0
        score_parts: List[np.ndarray] = [np.zeros(0)]
        hit_parts: List[np.ndarray] = [np.zeros(0)]
        for image in detections:
            rows, objects = _of_class(image, truth[image.im_id], k, evaluate_difficult)
            number += int((~objects.difficult).sum())
            score_parts.append(rows[:, 1])
            hit_parts.append(_hits(rows, objects))
        scores, hits = np.concatenate(score_parts), np.concatenate(hit_parts)
        ap = average(*precision_recall(scores, hits, number)) if number else None
        classes.append(ClassScore(name, number, len(scores), ap))
    defined = [c.ap for c in classes if c.ap is not None]
    return VOCScores(float(np.mean(defined)) if defined else None, classes)


def eleven_point(precision: np.ndarray, recall: np.ndarray) -> float:
    """The mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or a higher one (VOC 2007)."""
    return float(np.mean([precision[recall >= r / 10].max(initial=0.0) for r in range(11)]))


def integral(precision: np.ndarray, recall: np.ndarray) -> float:
    """The sum over right detections of the precision times the gain in recall (PaddleDetection's `integral`)."""
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def area(precision: np.ndarray, recall: np.ndarray) -> float:
    """The area under the curve of the best precision at each recall or a higher one (VOC 2010 and later)."""
    return integral(np.maximum.accumulate(precision[::-1])[::-1], recall)


AVERAGES = {"11point": eleven_point, "integral": integral, "area": area}


def precision_recall(scores: np.ndarray, hits: np.ndarray, number: int) -> Tuple[np.ndarray, np.ndarray]:
    """Precision and recall after each of D detections, the one with the highest score first.

    `hits` is 1 for a right detection, 0 for a wrong one, -1 for one that does not count; `number` of objects to find.
    """
    order = np.argsort(-scores, kind="stable")
    hits = hits[order][hits[order] >= 0]
    right = np.cumsum(hits)
    return right / np.arange(1, len(hits) + 1), right / number


def _of_class(image: ImageDetections, objects: Objects, k: int, evaluate_difficult: bool) -> Tuple[np.ndarray, Objects]:
    """The detections of class k, the one with the highest score first, and the objects of that class."""
    rows = image.rows[image.rows[:, 0] == k]
    mine = objects.classes.reshape(-1) == k
    difficult = objects.difficult.reshape(-1)[mine].astype(bool) & (not evaluate_difficult)
    by_score = rows[np.argsort(-rows[:, 1], kind="stable")]
    return by_score, Objects(objects.boxes[mine], objects.classes[mine], difficult)


def _hits(rows: np.ndarray, objects: Objects) -> np.ndarray:
    """For each detection of one class on one image, 1 if it is right, 0 if it is wrong, -1 if it does not count."""
    hits = np.zeros(len(rows))
    if not len(objects.boxes):
        return hits
    found = np.zeros(len(objects.boxes), bool)
    boxes, truth = rows[:, None, 2:].astype(np.float64), objects.boxes.astype(np.float64)
    for i, iou in enumerate(overlaps(boxes, truth, extra=1.0, touching=False)):  # one number per object
        best = int(iou.argmax())
        if iou[best] <= IOU_THRESHOLD:
            continue
        if objects.difficult[best]:
            hits[i] = -1
        elif not found[best]:
            hits[i], found[best] = 1, True
    return hits
