"""Detections as the VOC evaluation server takes them: a text file a class."""

from __future__ import annotations

from pathlib import Path
from typing import List, Mapping, Sequence, Union

from ppdet_repro.metrics.detections import ImageDetections
from ppdet_repro.utils.files import atomic_file


def voc_lines(detections: Sequence[ImageDetections], label: int, names: Mapping[int, str]) -> List[str]:
    """A class's lines "image score x1 y1 x2 y2"; `names` are those of the images' files, without suffix.

    Coordinates are those of the annotations, which in VOC count pixels from 1.
    """
    return [
        f"{names[image.im_id]} {score:.6f} " + " ".join(f"{side:.2f}" for side in box)
        for image in detections
        for found, score, *box in image.rows.tolist()
        if int(found) == label
    ]


def write_voc_files(
    detections: Sequence[ImageDetections],
    class_names: Sequence[str],
    names: Mapping[int, str],
    split: str,
    folder: Union[str, Path],
) -> List[Path]:
    """Write `folder`/comp4_det_SPLIT_CLASS.txt for every class, empty where nothing was found. OSError: the disk
    refuses."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"comp4_det_{split}_{name}.txt" for name in class_names]
    for label, path in enumerate(paths):
        with atomic_file(path) as file:
            file.write("".join(f"{line}\n" for line in voc_lines(detections, label, names)).encode())
    return paths
