"""Class names of COCO and VOC, and those that annotation files define."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ppdet_repro.data.source.coco_file import read_categories_of, read_document
from ppdet_repro.data.source.findings import Findings
from ppdet_repro.data.source.text import is_json, read_label_list


class Categories(NamedTuple):
    """Names and category ids of classes; the index is the class id."""

    names: list[str]
    ids: list[int]


COCO_NAMES = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
]  # fmt: skip
COCO_UNUSED_IDS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO = Categories(COCO_NAMES, [i for i in range(1, 91) if i not in COCO_UNUSED_IDS])

VOC_NAMES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
VOC = Categories(VOC_NAMES, list(range(20)))


def read_categories(path: str, number: Optional[int] = None) -> Categories:
    """Read the classes from a COCO JSON file (`*.json`), or from a text file with one name per line.

    A leading "background" in a text file is no class, unless the names are a given number with it.
    """
    if is_json(path):
        return Categories(*read_categories_of(read_document(path), path, Findings(f"{path}: ")))
    names = read_label_list(path, background=True)
    if len(names) != number:
        names = read_label_list(path)
    return Categories(names, list(range(len(names))))
