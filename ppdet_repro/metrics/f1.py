"""Precision, recall and F1 at the score threshold where F1 is best.

A detection is right if its IoU with an object of its class, which no detection with a higher score has found, is at
least `LEAST_IOU`. Detections inside difficult objects or crowds of their class do not count.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from ppdet_repro.metrics.detections import ImageDetections, Objects
from ppdet_repro.utils.boxes import overlaps
from ppdet_repro.utils.table import text_table

LEAST_IOU = 0.5  # also the share of an ignored detection that lies in a difficult object
THRESHOLDS = np.arange(1, 100, dtype=np.float32) / np.float32(100)
WRONG, RIGHT, IGNORED = 0, 1, 2


class ClassF1(NamedTuple):
    """Precision, recall and F1 of one class; each is None where it is not defined."""

    name: str
    precision: Optional[float]  # None without detections
    recall: Optional[float]  # None without objects
    f1: Optional[float]  # None without both


class F1Scores(NamedTuple):
    """Precision, recall and F1 of all classes together, at the threshold of `THRESHOLDS` where F1 is best: the lowest
    of several. Without objects they are not defined, and are -1."""

    precision: float
    recall: float
    f1: float
    threshold: float
    classes: List[ClassF1]  # at the same threshold

    def values(self) -> Dict[str, float]:
        """The four numbers by name."""
        return dict(zip(("bbox_precision", "bbox_recall", "bbox_F1", "bbox_threshold"), self[:4]))

    def line(self) -> str:
        """The numbers as one line."""
        numbers = f"precision {self.precision:.3f}, recall {self.recall:.3f}, F1 {self.f1:.3f}"
        return f"{numbers} at the score threshold {self.threshold:.2f}, where F1 is best (IoU {LEAST_IOU:g})"

    def table(self) -> str:
        """The numbers per class as text."""
        return text_table(["class", "precision", "recall", "F1"], self.classes)


def best_f1(
    truth: Mapping[int, Objects], detections: Sequence[ImageDetections], class_names: Sequence[str]
) -> F1Scores:
    """Compare the detections of images with their objects, by image id.

    One matching serves all thresholds: higher scores are matched first, so dropping lower ones changes no match.

    Example:
        >>> objects = Objects(np.array([[0.0, 0, 9, 9]]), np.array([0]), np.array([False]))
        >>> rows = np.array([[0, 0.9, 0, 0, 9, 9], [0, 0.3, 20, 20, 29, 29]], np.float32)  # right, wrong
        >>> best_f1({1: objects}, [ImageDetections(1, rows)], ["cat"]).line()
        'precision 1.000, recall 1.000, F1 1.000 at the score threshold 0.31, where F1 is best (IoU 0.5)'
    """
    number, every = len(class_names), np.zeros((0, 3), np.float32)
    parts, objects = [every], np.zeros(number, np.int64)
    for image in detections:
        own = truth[image.im_id]
        parts.append(np.column_stack([image.rows[:, :2], judge(image.rows, own)]).astype(np.float32))
        sought = own.classes.reshape(-1)[~own.difficult.reshape(-1).astype(bool)]
        objects += np.bincount(sought.astype(np.int64), minlength=number)
    every = np.concatenate(parts)
    classes, scores, right = every[every[:, 2] != IGNORED].T
    total = int(objects.sum())
    if total == 0:
        return F1Scores(-1.0, -1.0, -1.0, -1.0, [ClassF1(name, None, None, None) for name in class_names])
    order = np.argsort(scores, kind="stable")
    above = len(scores) - np.searchsorted(scores[order], THRESHOLDS)  # detections per threshold
    hits = np.append(np.cumsum(right[order][::-1])[::-1], 0)[len(scores) - above]  # those that are right
    f1 = 2 * hits / (above + total)
    best = int(f1.argmax())
    kept = scores >= THRESHOLDS[best]
    found = np.bincount(classes[kept].astype(np.int64), minlength=number)
    good = np.bincount(classes[kept & (right == RIGHT)].astype(np.int64), minlength=number)
    return F1Scores(
        float(hits[best] / max(above[best], 1)),
        float(hits[best] / total),
        float(f1[best]),
        round(float(THRESHOLDS[best]), 2),
        [ClassF1(*row) for row in zip(class_names, _ratios(good, found), _ratios(good, objects),
                                      _ratios(2 * good, found + objects))],
    )  # fmt: skip


def judge(rows: np.ndarray, objects: Objects) -> np.ndarray:
    """Which detections [M, 6] of an image are `WRONG`, `RIGHT` or `IGNORED`: [M].

    The detection with the highest score comes first, and finds the free object of its class that it overlaps most.
    """
    verdicts = np.full(len(rows), WRONG)
    if not len(rows) or not len(objects.boxes):
        return verdicts
    boxes, truth = rows[:, None, 2:].astype(np.float64), objects.boxes.astype(np.float64).reshape(-1, 4)
    same = rows[:, :1] == objects.classes.reshape(-1)  # [M, G]
    difficult = objects.difficult.reshape(-1).astype(bool)
    iou = np.where(same & ~difficult, overlaps(boxes, truth), 0.0)
    candidates = np.flatnonzero((iou >= LEAST_IOU).any(1))
    for i in candidates[np.argsort(-rows[candidates, 1], kind="stable")]:
        best = int(iou[i].argmax())
        if iou[i, best] >= LEAST_IOU:
            verdicts[i] = RIGHT
            iou[:, best] = 0.0  # is found
    if difficult.any():
        inside = (overlaps(boxes, truth, over="iof") >= LEAST_IOU) & same & difficult
        verdicts[(verdicts == WRONG) & inside.any(1)] = IGNORED
    return verdicts


def _ratios(part: np.ndarray, whole: np.ndarray) -> List[Optional[float]]:
    return [None if n == 0 else float(p / n) for p, n in zip(part, whole)]
