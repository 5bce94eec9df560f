"""Reads YOLO's text files: `class cx cy width height`, or a class and the points of a polygon, in fractions.

The class names are in data.yaml (Ultralytics, Roboflow), classes.txt (LabelImg, label-studio), obj.names (Darknet,
CVAT) or _darknet.labels (Roboflow).
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple, Optional

import yaml

from ppdet_repro.data.source.files import is_text
from ppdet_repro.data.source.findings import Findings
from ppdet_repro.data.source.text import read_label_list, read_lines, read_text
from ppdet_repro.data.source.values import as_id, as_number
from ppdet_repro.data.source.voc_files import YOLO_LINE, Object
from ppdet_repro.utils.errors import UserError

CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels", "classes.names")
SPLITS = ("train", "val", "test")
MAX_YAML = 1 << 20  # bytes
LARGEST = 2.0  # coordinates that reach a little outside the picture are smaller, those in pixels are larger
FORM = "write 'class cx cy width height', or a class and three or more points x y, as fractions of width and height"


class DataYaml(NamedTuple):
    """What a data.yaml says."""

    names: list[str]
    folder: str  # `path`, or the file's folder
    splits: dict[str, list[str]]  # train, val, test: folders, or text files that list pictures


def is_label_text(text: str) -> bool:
    """Whether a text consists of YOLO labels.

    Example:
        >>> is_label_text("0 0.5 0.5 0.2 0.1\\n"), is_label_text("000005 1\\n"), is_label_text("")
        (True, False, False)
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(YOLO_LINE.match(line) for line in lines)


def read_data_yaml(path: str) -> Optional[DataYaml]:
    """Read a data.yaml. None if the file is another YAML file; UserError if its names cannot be used."""
    if os.path.getsize(path) > MAX_YAML:
        return None
    text = read_text(path)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            return None  # a few aliases can stand for more values than fit into memory
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or "names" not in document or not set(document) & {*SPLITS, "valid", "nc"}:
        return None
    names = _names(document["names"], path)
    number = document.get("nc")
    if isinstance(number, int) and number != len(names):
        raise UserError(f"{path}: nc is {number}, but 'names' has {len(names)}: correct one of them")
    here = os.path.dirname(path)
    root = document.get("path")
    folder = os.path.join(here, root) if isinstance(root, str) and is_text(root) else here
    splits = {split: _paths(document.get(split) or document.get(other)) for split, other in _spelled()}
    return DataYaml(names, folder, {split: found for split, found in splits.items() if found})


def _spelled() -> list[tuple[str, str]]:
    return [("train", "train"), ("val", "valid"), ("test", "test")]  # Roboflow's older files have "valid"


def _paths(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, str) and is_text(path)]


def _names(value: Any, path: str) -> list[str]:
    """Return the class names of a list, or of a mapping from class numbers."""
    if isinstance(value, dict):
        numbers = [as_id(key) for key in value]
        if sorted(number for number in numbers if number is not None) != list(range(len(value))):
            raise UserError(f"{path}: the keys of 'names' must be the class numbers 0, 1, 2, ...: number them so")
        value = [name for _, name in sorted(zip(map(as_id, value), value.values()), key=lambda pair: pair[0] or 0)]
    names = [str(name).strip() for name in value] if isinstance(value, list) else []
    if not names or not all(map(is_text, names)):
        raise UserError(f"{path}: 'names' must list the class names: write one for every class")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UserError(f"{path}: 'names' has {twice[0]!r} twice: tell the classes apart")
    return names


def read_class_names(path: str) -> list[str]:
    """Read the class names from a data.yaml or from a list of names, one per line."""
    if path.lower().endswith((".yaml", ".yml")):
        found = read_data_yaml(path)
        if found is None:
            raise UserError(f"{path} has no class names: write 'names: [cat, dog]' into it")
        return found.names
    return read_label_list(path, background=True)


def read_objects(
    path: str, width: float, height: float, names: list[str], class_list: str, findings: Findings
) -> list[Object]:
    """Read the objects of a label file, for a picture of this size in pixels; none if that is NaN.

    Polygons become their bounding boxes.
    """
    objects: list[Object] = []
    if math.isnan(width):
        return objects
    for number, line in read_lines(path):
        where = f"{path}:{number}"
        fields = line.split()
        values = [as_number(field) for field in fields]
        if any(value != value for value in values) or len(fields) < 5 or len(fields) % 2 == 0:
            has = "6 numbers, perhaps with a score" if len(fields) == 6 else repr(line[:60])
            findings.refuse("line that is no YOLO label", [f"{where}: {has}"], str, FORM)
            continue
        label = as_id(fields[0])
        if label is None or not 0 <= label < len(names):
            has = f"class {fields[0]}, but {class_list} has the {len(names)} classes 0 to {len(names) - 1}"
            fix = "add its name there or correct the label"
            findings.refuse("annotation of an unknown category", [f"{where}: {has}"], str, fix)
            continue
        largest = max(map(abs, values[1:]))
        if largest > LARGEST:
            has = f"{largest:g}, which is no fraction of the picture's size"
            fix = "divide x by the width and y by the height of the picture"
            findings.refuse("coordinate in pixels", [f"{where}: {has}"], str, fix)
            continue
        objects.append(Object(names[label], _box(values[1:], width, height), False, False))
    return objects


def _box(values: list[float], width: float, height: float) -> tuple[float, float, float, float]:
    """Return (x1, y1, x2, y2) in pixels, to 3 decimals."""
    if len(values) == 4:
        cx, cy, w, h = values
        xs, ys = [cx - w / 2, cx + w / 2], [cy - h / 2, cy + h / 2]
    else:
        xs, ys = [min(values[::2]), max(values[::2])], [min(values[1::2]), max(values[1::2])]
    x1, x2 = (round(x * width, 3) for x in xs)
    y1, y2 = (round(y * height, 3) for y in ys)
    return x1, y1, x2, y2
