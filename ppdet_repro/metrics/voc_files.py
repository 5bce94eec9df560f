"""Writes detections as the PASCAL VOC evaluation server takes them: one text file per class."""

from __future__ import annotations

from pathlib import Path
from typing import List, Mapping, Sequence, Union

from ppdet_repro.metrics.detections import ImageDetections
from ppdet_repro.utils.files import atomic_file


def voc_lines(detections: Sequence[ImageDetections], label: int, names: Mapping[int, str]) -> List[str]:
    """The lines "image score x1 y1 x2 y2" of one class.

    Coordinates are those of the annotations, in which VOC counts pixels from 1.

    Args:
        detections: The detections per image.
        label: The class id.
        names: The name of each image's file, without suffix, by image id.
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
    """Write `folder`/comp4_det_SPLIT_CLASS.txt for every class. Files of classes without detections are empty.

    Args:
        detections: The detections per image.
        class_names: The names of all classes.
        names: The name of each image's file, without suffix, by image id.
        split: The name of the dataset's split.
        folder: Where to write.

    Raises:
        OSError: A file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"comp4_det_{split}_{name}.txt" for name in class_names]
    for label, path in enumerate(paths):
        with atomic_file(path) as file:
            file.write("".join(f"{line}\n" for line in voc_lines(detections, label, names)).encode())
    return paths
