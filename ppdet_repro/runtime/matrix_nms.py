"""Matrix NMS in NumPy, for exported networks that cannot contain it (ONNX, Paddle-Lite).

N boxes, C classes, P pairs of a box and a class, n pairs of one class, M rows kept.
Source: Wang et al., "SOLOv2", NeurIPS 2020 ("Matrix NMS").
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import numpy as np

from ppdet_repro.utils.boxes import overlaps

FIRST = 256  # pairs that are computed first; all are only if these do not settle the result


def matrix_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float = 0.01,
    post_threshold: float = 0.01,
    nms_top_k: int = -1,
    keep_top_k: int = 100,
    use_gaussian: bool = False,
    gaussian_sigma: float = 2.0,
    normalized: bool = False,
    background_label: int = -1,
    candidates: Optional[int] = 2048,
) -> np.ndarray:
    """Suppress an image's boxes: boxes [N, 4] xyxy and scores [C, N] -> rows [M, 6] (class, decayed score, x1, y1,
    x2, y2) in order of descending score. The settings are those of `MatrixNMS` in modeling/nms.py.

    The work grows with the square of the pairs, so the best ones go first, until no other can be kept.
    """
    sigma = gaussian_sigma if use_gaussian else None
    places = best_pairs(scores, score_threshold, candidates)  # [P]
    classes, index = np.divmod(places, scores.shape[1])
    raw = scores.ravel()[places]
    ranked = np.argsort(-raw, kind="stable")
    ranked = ranked[classes[ranked] != background_label]
    taken = len(ranked) if keep_top_k < 0 else max(FIRST, keep_top_k)
    while True:
        pairs, final = decayed(ranked[:taken], classes, boxes[index], raw, nms_top_k, sigma, normalized)
        above = np.flatnonzero(final > post_threshold)
        best = above[np.argsort(-final[above], kind="stable")]
        if keep_top_k > -1:
            best = best[:keep_top_k]
        if are_best(final[best], raw[ranked[taken:]], keep_top_k, post_threshold):
            break
        taken *= 2
    pairs, final = pairs[best], final[best]
    return np.concatenate([classes[pairs][:, None], final[:, None], boxes[index[pairs]]], axis=1).astype(boxes.dtype)


def are_best(found: np.ndarray, others: np.ndarray, keep_top_k: int, post_threshold: float) -> bool:
    """Whether none of the other pairs, whose scores are given in descending order, can be among the best ones that
    are kept, whose decayed scores are `found`, in descending order: scores only decrease."""
    if not len(others) or others[0] <= post_threshold:
        return True
    return len(found) == keep_top_k and (not keep_top_k or bool(found[-1] > others[0]))


def decayed(
    ranked: np.ndarray,
    classes: np.ndarray,
    boxes: np.ndarray,
    raw: np.ndarray,
    nms_top_k: int,
    sigma: Optional[float],
    normalized: bool,
) -> Tuple[np.ndarray, np.ndarray]:
    """The pairs, grouped by class, and their decayed scores.

    Args:
        ranked: Indices of pairs in order of descending score, with all better ones of their classes.
        classes, boxes, raw: Class, box [4] and score of each pair.
        sigma: That of the Gaussian decay, None for the linear one.
    """
    kept: List[np.ndarray] = [np.zeros(0, np.int64)]
    scores: List[np.ndarray] = [np.zeros(0, raw.dtype)]
    for label in np.unique(classes[ranked]):
        pairs = ranked[classes[ranked] == label]
        if nms_top_k > -1:
            pairs = pairs[:nms_top_k]
        found = boxes[pairs]  # [n, 4]
        ious = overlaps(found[:, None], found, extra=0.0 if normalized else 1.0)  # [n, n]
        kept.append(pairs)
        scores.append(raw[pairs] * decay(ious, sigma))
    return np.concatenate(kept), np.concatenate(scores)


def best_pairs(scores: np.ndarray, threshold: float, limit: Optional[int]) -> np.ndarray:
    """Indices [P] into the flattened scores [C, N]: the `limit` best above the threshold, or all if `limit` is None."""
    if limit is not None and limit < scores.shape[1]:
        columns = np.argpartition(scores.max(axis=0), -limit)[-limit:]  # these boxes have the best pairs
    else:
        columns = np.arange(scores.shape[1])
    chosen = scores[:, columns]
    rows, positions = np.nonzero(chosen > threshold)
    if limit is not None and limit < len(rows):
        best = np.argpartition(chosen[rows, positions], -limit)[-limit:]
        rows, positions = rows[best], positions[best]
    return rows * scores.shape[1] + columns[positions]


def decay(ious: np.ndarray, gaussian_sigma: Optional[float] = None) -> np.ndarray:
    """The factors [n] for the scores of a class's boxes in order of descending score, from their IoUs [n, n].

    Factor i is the minimum over j < i of (1 - iou_ij) / (1 - max_k<j iou_kj), but at most 1. With a sigma, it is the
    minimum of exp(sigma (max_k<j iou_kj^2 - iou_ij^2)). A box with the same corners as a better one decays no others.
    """
    above = np.triu(ious, 1)  # [n, n]: row j suppresses column i > j
    covered = above.max(axis=0, initial=0.0)[:, None]  # [n, 1]
    if gaussian_sigma is None:
        factors = (1 - above) / np.maximum(1 - covered, 1e-12)
    else:
        factors = np.exp(gaussian_sigma * (covered**2 - above**2))
    return np.minimum(np.where(np.tri(len(above), dtype=bool), 1.0, factors).min(axis=0, initial=1.0), 1.0)
