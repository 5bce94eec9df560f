"""Writes detections as the PASCAL VOC evaluation server takes them: one text file per class."""

from __future__ import annotations

from pathlib import Path
from typing import List, Mapping, Sequence

from ppdet_repro.metrics.detections import ImageDetections
from ppdet_repro.utils.files import write_output


def write_voc_files(
    detections: Sequence[ImageDetections],
    class_names: Sequence[str],
    names: Mapping[int, str],
    split: str,
    folder: Path,
) -> List[Path]:
    """Write `folder`/comp4_det_SPLIT_CLASS.txt for every class, with lines "image score x1 y1 x2 y2".

    `names` are the names of the images' files, without suffix, by image id. Coordinates are those of the annotations,
    in which VOC counts pixels from 1. Raises UserError if a file cannot be written.
    """
    lines: List[List[str]] = [[] for _ in class_names]
    for image in detections:
        for label, score, *box in image.rows.tolist():
            sides = " ".join(f"{side:.2f}" for side in box)
            lines[int(label)].append(f"{names[image.im_id]} {score:.6f} {sides}\n")
    paths = [folder / f"comp4_det_{split}_{name}.txt" for name in class_names]
    for path, of_class in zip(paths, lines):
        write_output(path, "".join(of_class).encode())
    return paths
