"""Compares the detections of two detectors on one image, whatever their order.

A row of detections is class, score, x1, y1, x2, y2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Agreement(NamedTuple):
    """The result of a comparison."""

    rows: int  # expected detections
    unmatched: int  # detections of either side without a partner
    score: float  # the largest difference of scores between partners
    box: float  # the largest difference of coordinates between partners, in pixels


def agreement(expected: np.ndarray, found: np.ndarray, score: float, box: float, lowest: float = 0.0) -> Agreement:
    """Pair each expected detection [M, 6] with an unused found one [N, 6] of the same class.

    `score` and `box` are the largest differences of scores and of coordinates, in pixels, that partners may have. A
    detection without a partner is not counted as unmatched if the other detector may have cut it off: if its score is
    at most `score` above `lowest`, the detectors' score threshold, or above the lowest expected score.
    """
    expected, found = (np.asarray(rows, np.float64).reshape(-1, 6) for rows in (expected, found))
    cutoff = max(lowest, expected[:, 1].min(initial=np.inf) if len(expected) else 0.0) + score
    free = np.ones(len(found), bool)
    unmatched, score_difference, box_difference = 0, 0.0, 0.0
    for row in expected[np.argsort(-expected[:, 1], kind="stable")]:
        scores = np.abs(found[:, 1] - row[1])
        boxes = np.abs(found[:, 2:] - row[2:]).max(axis=1, initial=0.0)
        fits = free & (found[:, 0] == row[0]) & (scores <= score) & (boxes <= box)
        if fits.any():
            best = np.where(fits, scores / score + boxes / box, np.inf).argmin()
            free[best] = False
            score_difference = max(score_difference, float(scores[best]))
            box_difference = max(box_difference, float(boxes[best]))
        else:
            unmatched += int(row[1] > cutoff)
    unmatched += int((free & (found[:, 1] > cutoff)).sum())
    return Agreement(len(expected), unmatched, score_difference, box_difference)
