"""Ground truth and detections in one line each."""

from __future__ import annotations

import numpy as np

from ppdet_repro.metrics.detections import Objects


def objects(*items):
    """Ground truth from one tuple (class, x1, y1, x2, y2[, difficult]) per object."""
    return Objects(
        np.array([item[1:5] for item in items], float).reshape(-1, 4),
        np.array([item[0] for item in items], int),
        np.array([len(item) > 5 and item[5] for item in items], bool),
    )


def rows(*items):
    """Detections from one tuple (class, score, x1, y1, x2, y2) each."""
    return np.array(items, np.float32).reshape(-1, 6)
