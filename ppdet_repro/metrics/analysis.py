"""Analyzes the mistakes of a detector: missed objects, false positives, confused classes, precision-recall curves.

G objects and M detections of an image, K classes. A row of detections is class, score, x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from ppdet_repro.metrics.detections import ImageDetections, Objects
from ppdet_repro.utils.boxes import overlaps

FALSE_POSITIVE, IGNORED = -1, -2
THRESHOLDS = [round(0.05 * i, 2) for i in range(1, 20)]


class MatchedDetections(NamedTuple):
    """The detections of an image, matched with its objects.

    Attributes:
        rows: The detections [M, 6] with the highest score first.
        objects: [M], the index of the object that each detection is matched with, or FALSE_POSITIVE, or IGNORED for
            one in a difficult object or crowd.
        missed: [G] bool, the objects that are not difficult and are matched with no detection.
    """

    rows: np.ndarray
    objects: np.ndarray
    missed: np.ndarray


def match_image(rows: np.ndarray, objects: Objects, threshold: float, iou_threshold: float = 0.5) -> MatchedDetections:
    """Match the detections of an image with its objects.

    The detection with the highest score is matched first, each with the object that has the largest IoU among those
    that are still free, whatever its class. A detection without an object is ignored if it lies in a difficult object.

    Args:
        rows: Detections [M, 6].
        objects: The ground truth.
        threshold: Detections with a lower score are dropped.
        iou_threshold: The least IoU of a match, and the least share of a detection in a difficult object.
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
        if len(candidates) and candidates[best] >= iou_threshold:
            matched[i], free[best] = best, False
        elif (difficult & (inside[i] >= iou_threshold)).any():
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
    """Count how often a true class (row) was found as each class (column).

    Returns:
        [K + 1, K + 1]. The last row counts false positives, the last column missed objects.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for matches, objects in zip(images, truth):
        labels = objects.classes.reshape(-1).astype(int)
        for row, index in zip(matches.rows, matches.objects):
            if index != IGNORED:
                matrix[labels[index] if index >= 0 else classes, int(row[0])] += 1
        for label in labels[matches.missed]:
            matrix[label, classes] += 1
    return matrix


def best_threshold(detections: Sequence[ImageDetections], truth: Dict[int, Objects]) -> float:
    """The score threshold with the best F1 score, among 0.05, 0.10, ..., 0.95; the lowest of several.

    One matching serves all thresholds: higher scores are matched first, so dropping lower ones changes no match.
    """
    scores, right, total = [np.zeros(0)], [np.zeros(0, bool)], 0
    for image in detections:
        objects = truth[image.im_id]
        matches = match_image(image.rows, objects, THRESHOLDS[0])
        counted = matches.objects != IGNORED
        scores.append(matches.rows[counted, 1])
        right.append(((matches.objects >= 0) & ~confused(matches, objects))[counted])
        total += int((~objects.difficult.reshape(-1).astype(bool)).sum())
    score, hit = np.concatenate(scores), np.concatenate(right)
    f1 = [2 * int(hit[score >= t].sum()) / max(int((score >= t).sum()) + total, 1) for t in THRESHOLDS]
    return THRESHOLDS[int(np.argmax(f1))]


class Curves(NamedTuple):
    """COCO's precision-recall curves. Classes without objects are left out.

    Attributes:
        recall: The recall thresholds [R].
        by_iou: Precision [R] by the name of the IoU threshold, the mean over classes.
        by_class: Precision [R] by class at IoU 0.5.
        sizes: By class, the AP of small, medium, large and all objects; None if there are none of that size.
    """

    recall: np.ndarray
    by_iou: Dict[str, np.ndarray]
    by_class: Dict[str, np.ndarray]
    sizes: Dict[str, List[Optional[float]]]


def precision_recall_curves(precision: np.ndarray, recall: np.ndarray, names: Sequence[str]) -> Curves:
    """The curves of a finished COCO evaluation.

    Args:
        precision: COCOeval's array [T, R, K, S, D]: IoU thresholds, recall thresholds, classes, sizes (all, small,
            medium, large), limits of detections per image. It is -1 where there are no objects.
        recall: The recall thresholds [R].
        names: The names of the classes.
    """
    defined = np.where(precision[..., -1] < 0, np.nan, precision[..., -1])  # [T, R, K, S]
    present = [k for k in range(len(names)) if not np.isnan(defined[:, :, k, 0]).all()]
    every = defined[:, :, present, 0]  # [T, R, present]
    if not present:
        return Curves(recall, {}, {}, {})
    by_iou = {"IoU .50": every[0].mean(-1), "IoU .75": every[5].mean(-1), "IoU .50 to .95": every.mean((0, -1))}
    by_class = {names[k]: defined[0, :, k, 0] for k in present}
    sizes = {names[k]: [_mean(defined[:, :, k, size]) for size in (1, 2, 3, 0)] for k in present}
    return Curves(recall, by_iou, by_class, sizes)


def _mean(values: np.ndarray) -> Optional[float]:
    """The mean of the values that are not NaN, None if there are none."""
    return None if np.isnan(values).all() else float(np.nanmean(values))
