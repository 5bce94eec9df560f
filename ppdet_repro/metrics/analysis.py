"""Analyzes the mistakes of a detector: missed objects, false positives, confused classes, precision-recall curves.

G objects and M detections of an image, K classes. A row of detections is class, score, x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from ppdet_repro.metrics.coco import defined_mean
from ppdet_repro.metrics.detections import Objects
from ppdet_repro.utils.boxes import overlaps

FALSE_POSITIVE, IGNORED = -1, -2
LEAST_OVERLAP = 0.5  # the IoU of a match, and the share of an ignored detection that lies in a difficult object


class MatchedDetections(NamedTuple):
    """The detections of an image, matched with its objects."""

    rows: np.ndarray  # [M, 6], the highest score first
    objects: np.ndarray  # [M], the index of the object; or FALSE_POSITIVE; or IGNORED: in a difficult object or crowd
    missed: np.ndarray  # [G] bool, the objects that are not difficult and are matched with no detection


def match_image(rows: np.ndarray, objects: Objects, threshold: float) -> MatchedDetections:
    """Match the detections [M, 6] of an image with its objects. Those with a score below `threshold` are dropped.

    The detection with the highest score is matched first, each with the object that has the largest IoU among those
    that are still free, whatever its class. A detection without an object is ignored if it lies in a difficult object.
    """
    rows = rows[rows[:, 1] >= threshold]
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    boxes, truth = rows[:, None, 2:].astype(np.float64), objects.boxes.astype(np.float64).reshape(-1, 4)
    overlap, inside = overlaps(boxes, truth), overlaps(boxes, truth, over="iof")  # [M, G] each
    difficult = objects.difficult.reshape(-1).astype(bool)
    free, matched = ~difficult, np.full(len(rows), FALSE_POSITIVE)
    for i in range(len(rows)):
        candidates = np.where(free, overlap[i], 0.0)
        best = int(candidates.argmax()) if len(candidates) else 0
        if len(candidates) and candidates[best] >= LEAST_OVERLAP:
            matched[i], free[best] = best, False
        elif (difficult & (inside[i] >= LEAST_OVERLAP)).any():
            matched[i] = IGNORED
    return MatchedDetections(rows, matched, free)


def count_mistakes(matches: MatchedDetections, objects: Objects) -> int:
    """The number of missed objects, false positives, and objects that were found as another class."""
    false_positives = matches.objects == FALSE_POSITIVE
    return int(matches.missed.sum() + false_positives.sum() + confused(matches, objects).sum())


def confused(matches: MatchedDetections, objects: Objects) -> np.ndarray:
    """Which detections [M] are matched with an object of another class."""
    classes = objects.classes.reshape(-1)
    on_object = matches.objects >= 0
    wrong = np.zeros(len(matches.rows), bool)
    wrong[on_object] = classes[matches.objects[on_object]] != matches.rows[on_object, 0]
    return wrong


def confusion_matrix(images: Sequence[MatchedDetections], truth: Sequence[Objects], classes: int) -> np.ndarray:
    """How often each true class (row) was found as each class (column); the last row counts false positives, the last
    column missed objects: [K + 1, K + 1]."""
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for matches, objects in zip(images, truth):
        labels = objects.classes.reshape(-1).astype(int)
        for row, index in zip(matches.rows, matches.objects):
            if index != IGNORED:
                matrix[labels[index] if index >= 0 else classes, int(row[0])] += 1
        for label in labels[matches.missed]:
            matrix[label, classes] += 1
    return matrix


class Curves(NamedTuple):
    """COCO's precision-recall curves. Classes without objects are left out."""

    recall: np.ndarray  # the recall thresholds [R]
    by_iou: Dict[str, np.ndarray]  # precision [R] by the name of the IoU threshold, the mean over classes
    by_class: Dict[str, np.ndarray]  # precision [R] by class at IoU 0.5
    sizes: Dict[
        str, List[Optional[float]]
    ]  # by class, the AP of small, medium, large and all objects; None: no objects


def precision_recall_curves(precision: np.ndarray, recall: np.ndarray, names: Sequence[str]) -> Curves:
    """The curves of a finished COCO evaluation, for the recall thresholds [R] and the names of the classes.

    `precision` is COCOeval's array [T, R, K, S, D]: IoU thresholds, recall thresholds, classes, sizes (all, small,
    medium, large), limits of detections per image. It is -1 where there are no objects.
    """
    precision = precision[..., -1]  # [T, R, K, S]
    present = [k for k in range(len(names)) if (precision[:, :, k, 0] >= 0).any()]
    every = precision[:, :, present, 0]  # [T, R, present]
    if not present:
        return Curves(recall, {}, {}, {})
    by_iou = {"IoU .50": every[0].mean(-1), "IoU .75": every[5].mean(-1), "IoU .50 to .95": every.mean((0, -1))}
    by_class = {names[k]: precision[0, :, k, 0] for k in present}
    sizes = {names[k]: [defined_mean(precision[:, :, k, size]) for size in (1, 2, 3, 0)] for k in present}
    return Curves(recall, by_iou, by_class, sizes)
