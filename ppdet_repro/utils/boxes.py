"""Overlaps of boxes in NumPy, for data, metrics and deployment. (The training code has `modeling/boxes.py`.)"""

from __future__ import annotations

from typing import Literal

import numpy as np

TINY = 1e-12  # the least area to divide by


def areas(boxes: np.ndarray, extra: float = 0.0) -> np.ndarray:
    """Areas [...] of xyxy boxes [..., 4], 0 for inverted ones. `extra` is added to each side."""
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    return np.where((x2 < x1) | (y2 < y1), 0.0, (x2 - x1 + extra) * (y2 - y1 + extra))


def overlaps(
    a: np.ndarray,
    b: np.ndarray,
    over: Literal["iou", "iof", "ios"] = "iou",
    extra: float = 0.0,
    touching: bool = True,
    flat: float = 0.0,
) -> np.ndarray:
    """The overlaps [...] of xyxy boxes [..., 4]; [M, 1, 4] and [G, 4] give all pairs [M, G].

    Args:
        a, b: The boxes.
        over: What the intersection is divided by: the union, the area of `a` ("iof") or the smaller area ("ios").
        extra: Pixels to add to each side; 1 where the corners are pixels that belong to the box.
        touching: Whether boxes that share no more than an edge overlap (by `extra`).
        flat: The overlap of two boxes without area that touch.
    """
    ax1, ay1, ax2, ay2 = np.moveaxis(a, -1, 0)
    bx1, by1, bx2, by2 = np.moveaxis(b, -1, 0)
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
    meet = (width >= 0) & (height >= 0) if touching else (width > 0) & (height > 0)
    shared = np.where(meet, (width + extra) * (height + extra), 0.0)
    area_a, area_b = areas(a, extra), areas(b, extra)
    whole = area_a if over == "iof" else np.minimum(area_a, area_b) if over == "ios" else area_a + area_b - shared
    return np.where(meet & (whole == 0), flat, shared / np.maximum(whole, TINY))


def shape_iou(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU [G, A] of boxes [G, 2] and anchors [A, 2] (width, height), all with the same top left corner."""
    both = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)  # [G, A]
    return both / (sizes.prod(axis=1)[:, None] + anchors.prod(axis=1) - both)
