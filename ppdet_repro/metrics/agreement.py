"""Compares the detections of two detectors on one image, whatever their order.

A row of detections is class, score, x1, y1, x2, y2.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

import numpy as np

from ppdet_repro.utils.boxes import overlaps

BEST = 100  # detections that `found_again` looks for at most


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


def found_again(expected: np.ndarray, found: np.ndarray) -> Tuple[int, int]:
    """Of the best expected detections [M, 6]: how many of them are among the found ones [N, 6], and how many they are.

    The best ones have at least half of the highest score. One is found again if a found detection of its class has an
    IoU of at least 0.5 with it, or corners within a pixel of its own, and a score within 0.25 of its own. A precision
    may move every box a little and pass; boxes of a wrong size or place do not.
    """
    expected, found = (np.asarray(rows, np.float64).reshape(-1, 6) for rows in (expected, found))
    best = expected[expected[:, 1] >= 0.5 * expected[:, 1].max(initial=0.0)]
    best = best[np.argsort(-best[:, 1], kind="stable")[:BEST], None]  # [best, 1, 6]
    near = np.abs(best[..., 2:] - found[:, 2:]).max(axis=-1) <= 1.0
    near |= overlaps(best[..., 2:], found[:, 2:]) >= 0.5
    same = near & (best[..., 0] == found[:, 0]) & (np.abs(best[..., 1] - found[:, 1]) <= 0.25)  # [best, N]
    return int(same.any(axis=1).sum()), len(best)
