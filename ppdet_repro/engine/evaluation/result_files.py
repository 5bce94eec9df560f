"""The files of an evaluation: detections in COCO's and VOC's formats, and the scores."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Dict, List, Mapping, Sequence, Union

from ppdet_repro.data.source.base import Source
from ppdet_repro.metrics.detections import ImageDetections, Rows
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.logger import get_logger

RESULT_FILE, SCORES_FILE = "bbox.json", "scores.json"


def write_scores(scores: Mapping[str, float], folder: Union[str, Path]) -> None:
    """Write scores by name to `folder`/scores.json. Raises UserError if that fails."""
    write_output(Path(folder) / SCORES_FILE, json.dumps(dict(scores), indent=1).encode())


def write_rows(rows: Rows, folder: Union[str, Path]) -> None:
    """Write the rows of a COCO result file to `folder`/bbox.json. Raises UserError if it cannot be written."""
    path = Path(folder) / RESULT_FILE
    write_output(path, json.dumps(rows).encode())
    get_logger().info(f"{len(rows)} detections written to {path}")


def write_server_files(detections: Sequence[ImageDetections], dataset: Source, folder: str) -> None:
    """Write detections as the PASCAL VOC evaluation server takes them: `folder`/comp4_det_SPLIT_CLASS.txt per class.

    The dataset's annotation file names the split. Files have lines "image score x1 y1 x2 y2" with the coordinates of
    the annotations, in which VOC counts pixels from 1.
    """
    names = {int(im_id): Path(file).stem for im_id, file in zip(dataset.table.ids, dataset.table.files)}
    lines: List[List[str]] = [[] for _ in dataset.class_names]
    for image in detections:
        for label, score, *box in image.rows.tolist():
            sides = " ".join(f"{side:.2f}" for side in box)
            lines[int(label)].append(f"{names[image.im_id]} {score:.6f} {sides}\n")
    split = Path(dataset.anno_path or "set").stem
    paths = [Path(folder) / f"comp4_det_{split}_{name}.txt" for name in file_names(dataset.class_names)]
    for path, of_class in zip(paths, lines):
        write_output(path, "".join(of_class).encode(errors="surrogateescape"))
    get_logger().info(f"for the VOC server: {paths[0]} and {len(paths) - 1} more")


def file_names(names: Sequence[str]) -> List[str]:
    """Names of classes as parts of file names: without slashes, at most 50 characters, and no two alike in capitals.

    Example:
        >>> file_names(["cat", "cat/dog", "cat:dog", "Cat"])
        ['cat', 'cat_dog', 'cat_dog_2', 'Cat_3']
    """
    plain = [re.sub(r"[/\\\x00-\x1f:*?\"<>|]", "_", name)[:50] for name in names]
    first: Dict[str, int] = {}
    return [name if first.setdefault(name.lower(), i) == i else f"{name}_{i}" for i, name in enumerate(plain)]
