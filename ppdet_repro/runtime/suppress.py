"""Suppression in NumPy, for exported networks that end in decoded boxes.

N candidate boxes, C classes, n candidates of one class, M rows kept. The entry `PostProcess` of infer_cfg.yml has the
names and parameters of the Paddle components in modeling/nms.py and modeling/ttf_box.py, and the results are the same.
"""

from __future__ import annotations

import inspect
import reprlib
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Tuple

import numpy as np

from ppdet_repro.runtime.matrix_nms import matrix_nms
from ppdet_repro.utils.boxes import overlaps
from ppdet_repro.utils.errors import UserError

Suppress = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""One image's boxes [N, 4] xyxy and scores [C, N] -> rows [M, 6]: class, score, x1, y1, x2, y2."""


def open_suppress(entry: Mapping[str, Any], source: str) -> Suppress:
    """The function that a `PostProcess` entry of the file `source` describes. UserError if the entry is wrong."""
    settings = dict(entry)
    kind = settings.pop("type", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"{source}: PostProcess has type {reprlib.repr(kind)}; known are {', '.join(KINDS)}")
    function = KINDS[kind]
    known = set(inspect.signature(function).parameters) - {"boxes", "scores"}
    if set(settings) != known:
        raise UserError(f"{source}: PostProcess {kind} has {reprlib.repr(sorted(settings))}; it takes {sorted(known)}")
    if settings.get("nms_eta", 1.0) != 1.0:
        raise UserError(f"{source}: PostProcess {kind}: nms_eta other than 1 needs the NMS inside the model")
    return partial(function, **settings)


def suppress_batch(suppress: Suppress, boxes: np.ndarray, scores: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Boxes [B, N, 4] and scores [B, C, N] -> rows of all images [sum of M, 6], and M of each image [B]."""
    rows = [suppress(*image) for image in zip(boxes, scores)]
    return np.concatenate(rows), np.array([len(found) for found in rows], np.int32)


def multiclass_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    nms_top_k: int,
    keep_top_k: int,
    nms_threshold: float,
    normalized: bool,
    background_label: int,
    nms_eta: float = 1.0,
) -> np.ndarray:
    """Hard suppression per class. The rows are grouped by class and ordered by score within a class.

    Of boxes without area that touch, only the best is kept, as in Paddle's operator: 0 / 0 is not below the threshold.
    Only 1 is supported for `nms_eta`.
    """
    found: List[np.ndarray] = [np.zeros((0, 6), boxes.dtype)]
    labels = np.flatnonzero((scores > score_threshold).any(axis=1))
    for label in labels[labels != background_label]:
        candidates = np.flatnonzero(scores[label] > score_threshold)
        candidates = candidates[np.argsort(-scores[label, candidates], kind="stable")]  # [n]
        if nms_top_k > -1:
            candidates = candidates[:nms_top_k]
        near = boxes[candidates]  # [n, 4]
        ious = overlaps(near[:, None], near, extra=0.0 if normalized else 1.0, flat=np.inf)  # [n, n]
        kept = candidates[keep(ious, nms_threshold)]
        classes = np.full((len(kept), 1), label, boxes.dtype)
        found.append(np.concatenate([classes, scores[label, kept, None], boxes[kept]], axis=1))
    rows = np.concatenate(found)
    if -1 < keep_top_k < len(rows):
        rows = rows[np.sort(np.argsort(-rows[:, 1], kind="stable")[:keep_top_k])]
    return rows


def keep(ious: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy selection of boxes in order of descending score: IoUs [n, n] -> mask [n].

    A box is kept unless its IoU with a better box that is kept is above the threshold.
    """
    kept = np.ones(len(ious), bool)
    for i, row in enumerate(ious):
        if kept[i]:
            kept[i + 1 :] &= row[i + 1 :] <= threshold
    return kept


def peaks(boxes: np.ndarray, scores: np.ndarray, score_thresh: float) -> np.ndarray:
    """TTFNet's suppression: the boxes whose best class scores above the threshold."""
    classes, best = scores.argmax(axis=0), scores.max(axis=0)  # [N] each
    above = best > score_thresh
    rows = np.concatenate([classes[:, None], best[:, None], boxes], axis=1)
    return rows[above].astype(boxes.dtype)


KINDS: Dict[str, Callable[..., np.ndarray]] = {
    "MultiClassNMS": multiclass_nms,
    "MatrixNMS": matrix_nms,
    "TTFBox": peaks,
}
