"""What a run leaves: pictures with boxes, bbox.json, boxes.csv.

M detections of an image; a row is class, score, x1, y1, x2, y2 in pixels.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import List, Optional, Sequence

import numpy as np

from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.utils.errors import UserError

CSV_HEADER = ("image", "class", "name", "score", "x1", "y1", "x2", "y2")


def write_json(folder: Path, found: List[ImageDetections], names: List[str], category_ids: List[int]) -> None:
    """Write bbox.json: COCO result rows with the file names. UserError if the disk refuses."""
    rows = [{**row, "file_name": name} for image, name in zip(found, names) for row in coco_rows([image], category_ids)]
    path = folder / "bbox.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    print(f"{len(rows)} detections in {path}")


class CsvWriter:
    """Writes boxes.csv row by row, or nothing if `folder` is None; closes it on leaving the `with`."""

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
        """Append an image's (or a frame's) detections [M, 6]."""
        if self.path is None:
            return
        for label, score, *corners in rows.tolist():
            sides = [f"{side:.2f}" for side in corners]
            self._writer.writerow([image, int(label), self._name(int(label)), f"{score:.6f}", *sides])
        self.rows += len(rows)

    def _name(self, label: int) -> str:
        return self.labels[label] if label < len(self.labels) else ""
