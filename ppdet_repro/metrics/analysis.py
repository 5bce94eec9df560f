"""Where a detector is right and wrong, image by image: found, missed and confused objects.

G objects and M detections of an image, K classes; a detection is class, score, x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence

import numpy as np

from ppdet_repro.metrics.detections import ImageDetections
from ppdet_repro.metrics.voc import Objects
from ppdet_repro.utils.boxes import overlaps

WRONG, UNCOUNTED = -1, -2
THRESHOLDS = [round(0.05 * i, 2) for i in range(1, 20)]


class Outcome(NamedTuple):
    """One image: `rows` [M, 6] by falling score; `owners` [M]: the object that each one lies on, WRONG for none, or
    UNCOUNTED for one in a crowd or on a difficult object; `missed` [G] bool: the objects that count and that none
    lies on."""

    rows: np.ndarray
    owners: np.ndarray
    missed: np.ndarray


def match_image(rows: np.ndarray, objects: Objects, threshold: float, iou_threshold: float = 0.5) -> Outcome:
    """What the detections [M, 6] that score at least `threshold` are worth.

    By falling score each takes the object with the largest IoU, at least `iou_threshold`, among those not yet taken,
    whatever its class; what is left over counts nothing if that much of it lies in a difficult object (or crowd).
    """
    rows = rows[rows[:, 1] >= threshold]
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    boxes, truth = rows[:, None, 2:].astype(np.float64), objects.boxes.astype(np.float64).reshape(-1, 4)
    overlap, inside = overlaps(boxes, truth), overlaps(boxes, truth, over="iof")  # [M, G] each
    difficult = objects.difficult.reshape(-1).astype(bool)
    free, owners = ~difficult, np.full(len(rows), WRONG)
    for i in range(len(rows)):
        candidates = np.where(free, overlap[i], 0.0)
        best = int(candidates.argmax()) if len(candidates) else 0
        if len(candidates) and candidates[best] >= iou_threshold:
            owners[i], free[best] = best, False
        elif (difficult & (inside[i] >= iou_threshold)).any():
            owners[i] = UNCOUNTED
    return Outcome(rows, owners, free)


def mistakes(outcome: Outcome, objects: Objects) -> int:
    """Missed objects, detections of nothing, and objects found under another class's name."""
    return int(outcome.missed.sum() + (outcome.owners == WRONG).sum() + confused(outcome, objects).sum())


def confused(outcome: Outcome, objects: Objects) -> np.ndarray:
    """Which detections [M] lie on an object of another class."""
    classes = objects.classes.reshape(-1)
    on_object = outcome.owners >= 0
    wrong = np.zeros(len(outcome.rows), bool)
    wrong[on_object] = classes[outcome.owners[on_object]] != outcome.rows[on_object, 0]
    return wrong


def confusion_matrix(outcomes: Sequence[Outcome], truth: Sequence[Objects], classes: int) -> np.ndarray:
    """How often a class [row] was found as which class [column]: [K + 1, K + 1]; the last row is detections of
    nothing, the last column missed objects."""
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for outcome, objects in zip(outcomes, truth):
        labels = objects.classes.reshape(-1).astype(int)
        for row, owner in zip(outcome.rows, outcome.owners):
            if owner != UNCOUNTED:
                matrix[labels[owner] if owner >= 0 else classes, int(row[0])] += 1
        for label in labels[outcome.missed]:
            matrix[label, classes] += 1
    return matrix


def best_threshold(detections: Sequence[ImageDetections], truth: Dict[int, Objects]) -> float:
    """The score above which detections have the best F1 (right ones twice over all they could be), of 0.05 to 0.95;
    the lowest of equals.

    Matching goes by falling score, so a detection's worth does not change where lower ones are left out.
    """
    scores, right, wanted = [np.zeros(0)], [np.zeros(0, bool)], 0
    for image in detections:
        objects = truth[image.im_id]
        outcome = match_image(image.rows, objects, THRESHOLDS[0])
        counted = outcome.owners != UNCOUNTED
        scores.append(outcome.rows[counted, 1])
        right.append(((outcome.owners >= 0) & ~confused(outcome, objects))[counted])
        wanted += int((~objects.difficult.reshape(-1).astype(bool)).sum())
    score, hit = np.concatenate(scores), np.concatenate(right)
    f1 = [2 * int(hit[score >= t].sum()) / max(int((score >= t).sum()) + wanted, 1) for t in THRESHOLDS]
    return THRESHOLDS[int(np.argmax(f1))]


class Curves(NamedTuple):
    """COCO's precision over recall: `recall` [R]; `by_iou` name -> [R], the mean over classes; `by_class` name -> [R]
    at IoU 0.5; `sizes` class -> AP of small, medium, large and all objects (None where there are none)."""

    recall: np.ndarray
    by_iou: Dict[str, np.ndarray]
    by_class: Dict[str, np.ndarray]
    sizes: Dict[str, List]


def curves_of(precision: np.ndarray, recall: np.ndarray, names: Sequence[str]) -> Curves:
    """The curves of COCOeval's precision [T, R, K, S, D], -1 where undefined, S all, small, medium, large."""
    defined = np.where(precision[..., -1] < 0, np.nan, precision[..., -1])  # [T, R, K, S]
    present = [k for k in range(len(names)) if not np.isnan(defined[:, :, k, 0]).all()]
    every = defined[:, :, present, 0]  # [T, R, present]
    if not present:
        return Curves(recall, {}, {}, {})
    by_iou = {"IoU .50": every[0].mean(-1), "IoU .75": every[5].mean(-1), "IoU .50 to .95": every.mean((0, -1))}
    by_class = {names[k]: defined[0, :, k, 0] for k in present}
    sizes = {names[k]: [mean_or_none(defined[:, :, k, size]) for size in (1, 2, 3, 0)] for k in present}
    return Curves(recall, by_iou, by_class, sizes)


def mean_or_none(values: np.ndarray):
    """The mean of what is defined, None if nothing is."""
    return None if np.isnan(values).all() else float(np.nanmean(values))
