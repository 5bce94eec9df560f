"""Writing results: bbox.json, boxes.csv, and videos with boxes.

M detections per image; a row is class, score, x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import List, Optional, Sequence

import cv2
import numpy as np

from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.utils.errors import UserError

CSV_HEADER = ("image", "class", "name", "score", "x1", "y1", "x2", "y2")


def write_json(folder: Path, found: List[ImageDetections], names: List[str], category_ids: List[int]) -> None:
    """Write bbox.json: COCO result rows, with the names of the images. UserError if that fails."""
    rows = [{**row, "file_name": name} for image, name in zip(found, names) for row in coco_rows([image], category_ids)]
    path = folder / "bbox.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(f"{len(rows)} detections in {path}")


class CsvWriter:
    """Writes boxes.csv row by row, or nothing if `folder` is None. A context manager."""

    def __init__(self, folder: Optional[Path], labels: Sequence[str]):
        self.path = None if folder is None else folder / "boxes.csv"
        self.labels = labels
        self.rows = 0

    def __enter__(self) -> CsvWriter:
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "w", newline="", encoding="utf-8")  # noqa: SIM115
            except OSError as error:
                raise UserError(f"cannot write {self.path}: {error.strerror}") from error
            self._writer = csv.writer(self._file)
            self._writer.writerow(CSV_HEADER)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.path is not None:
            self._file.close()
            print(f"{self.rows} detections in {self.path}")

    def write(self, image: str, rows: np.ndarray) -> None:
        """Append the detections [M, 6] of an image or a frame."""
        if self.path is None:
            return
        for label, score, *corners in rows.tolist():
            sides = [f"{side:.2f}" for side in corners]
            self._writer.writerow([image, int(label), self._name(int(label)), f"{score:.6f}", *sides])
        self.rows += len(rows)

    def _name(self, label: int) -> str:
        return self.labels[label] if label < len(self.labels) else ""


class VideoWriter:
    """Writes RGB images of one size as an mp4 file. A context manager."""

    def __init__(self, path: Path, rate: float):
        self.path = path
        self.rate = rate
        self._writer: Optional[cv2.VideoWriter] = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, frame: np.ndarray) -> None:
        """Append an image [H, W, 3]. UserError if the file cannot be written."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec, (height, width) = cv2.VideoWriter_fourcc(*"mp4v"), frame.shape[:2]
            self._writer = cv2.VideoWriter(str(self.path), codec, self.rate, (width, height))
            if not self._writer.isOpened():
                raise UserError(f"cannot write the video {self.path}")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
