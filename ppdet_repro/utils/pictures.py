"""Pictures of detections, as files.

M detections of an image; a row is class, score, x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Sequence

import cv2
import numpy as np

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.visualize import draw_boxes


def draw_detections(image: np.ndarray, rows: np.ndarray, names: Sequence[str], threshold: float) -> np.ndarray:
    """A copy of the RGB image with the detections [M, 6] that score at least `threshold`."""
    rows = rows[rows[:, 1] >= threshold]
    return draw_boxes(image, rows[:, 2:], rows[:, 0].astype(int), rows[:, 1], names)


def output_names(files: Sequence[str]) -> List[str]:
    """A name for the picture of each file, unique: its path below the folder that all files share."""
    paths = [os.path.abspath(file) for file in files]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [os.path.relpath(path, shared) for path in paths]


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB image; the file's ending says in which format. UserError if that fails."""
    try:
        _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.tobytes())
    except cv2.error as error:
        raise UserError(f"cannot write {path}: OpenCV has no format for {path.suffix!r}") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
