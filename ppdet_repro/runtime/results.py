"""Writing results: bbox.json, boxes.csv, and videos with boxes."""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence

import cv2
import numpy as np

from ppdet_repro.metrics.detections import ImageDetections, coco_rows
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import require_utf8, write_output

CSV_HEADER = ("image", "class", "name", "score", "x1", "y1", "x2", "y2")


def write_json(folder: Path, found: List[ImageDetections], names: List[str], category_ids: List[int]) -> None:
    """Write bbox.json: COCO result rows, with the names of the images. UserError if that fails."""
    rows = [{**row, "file_name": name} for image, name in zip(found, names) for row in coco_rows([image], category_ids)]
    write_output(folder / "bbox.json", json.dumps(rows).encode())
    print(f"{len(rows)} detections in {folder / 'bbox.json'}")


@contextmanager
def csv_writer(folder: Optional[Path], labels: Sequence[str]) -> Iterator[Callable[[str, np.ndarray], None]]:
    """A function that appends the detections [M, 6] of an image or a frame to boxes.csv, or does nothing without a
    folder. UserError if the file cannot be written."""
    if folder is None:
        yield lambda image, rows: None
        return
    path, count = folder / "boxes.csv", 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(path, "w", newline="", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    table = csv.writer(file)
    table.writerow(CSV_HEADER)

    def write(image: str, rows: np.ndarray) -> None:
        nonlocal count
        for label, score, *corners in rows.tolist():
            name = labels[int(label)] if label < len(labels) else ""
            table.writerow([image, int(label), name, f"{score:.6f}", *(f"{side:.2f}" for side in corners)])
        count += len(rows)

    with file:
        yield write
    print(f"{count} detections in {path}")


@contextmanager
def video_writer(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends an RGB image [H, W, 3], all of one size, to an mp4 file. UserError if that fails."""
    writer: Optional[cv2.VideoWriter] = None

    def write(frame: np.ndarray) -> None:
        nonlocal writer
        if writer is None:
            require_utf8(str(path))
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, frame.shape[1::-1])
            if not writer.isOpened():
                raise UserError(f"cannot write the video {path}")
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    try:
        yield write
    finally:
        if writer is not None:
            writer.release()
