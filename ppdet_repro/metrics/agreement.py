"""Do two detectors find the same boxes? Detections are compared as sets.

M rows of an image: class, score, x1, y1, x2, y2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Agreement(NamedTuple):
    """`rows` compared, those without a partner, and the largest differences of those with one: of the scores, and of
    the corners in pixels."""

    rows: int
    unmatched: int
    score: float
    box: float


def agreement(expected: np.ndarray, found: np.ndarray, score: float, box: float, lowest: float = 0.0) -> Agreement:
    """Pair each expected row with an unused found one of its class, at most `score` and `box` away.

    Rows that the other side's threshold or limit may have cut off are not counted where they lack a partner: those
    that score at most `score` above `lowest`, or above the expected list's last.
    """
    expected, found = (np.asarray(rows, np.float64).reshape(-1, 6) for rows in (expected, found))
    bar = max(lowest, expected[:, 1].min(initial=np.inf) if len(expected) else 0.0) + score
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
            unmatched += int(row[1] > bar)
    unmatched += int((free & (found[:, 1] > bar)).sum())
    return Agreement(len(expected), unmatched, score_difference, box_difference)
