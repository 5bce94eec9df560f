"""Reads the JSON files of labelme: one per picture, with shapes whose points are in pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from ppdet_repro.data.source.files import is_text
from ppdet_repro.data.source.findings import DOUBTFUL, LEFT_OUT, Findings
from ppdet_repro.data.source.text import read_json
from ppdet_repro.data.source.values import MAX_NUMBER, as_flag, as_number
from ppdet_repro.data.source.voc_files import Object
from ppdet_repro.utils.errors import UserError

FLAT = ("point", "points", "line", "linestrip")  # shapes without area


class LabelmeFile(NamedTuple):
    """The content of a file. Width and height are None if they are missing."""

    width: Optional[float]
    height: Optional[float]
    objects: list[Object]


def is_labelme(document: Any) -> bool:
    """Whether the content of a JSON file is that of labelme."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document


def image_name(document: dict) -> Optional[str]:
    """Return the picture's path relative to the JSON file, with slashes."""
    name = document["imagePath"]
    return name.replace("\\", "/") if isinstance(name, str) and is_text(name) else None


def read_labelme(path: str, findings: Findings) -> LabelmeFile:
    """Read a file. Shapes become their bounding boxes; points and lines are left out. UserError if it is no labelme
    file."""
    document = read_json(path)
    if not is_labelme(document):
        raise UserError(f"{path} is not a labelme file: it needs 'shapes' and 'imagePath'")
    objects = []
    for number, shape in enumerate(document["shapes"]):
        where = f"{path}: shape {number}"
        name = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(name, str) or not is_text(name.strip()):
            fix = "write its class name as 'label'"
            findings.refuse("shape without a label", [f"{where} has no 'label'"], str, fix)
            continue
        where = f"{where} ({name.strip()[:40]})"
        kind = shape.get("shape_type") or "polygon"
        if kind in FLAT:
            findings.report(LEFT_OUT, "shape without area", [f"{where}: {kind}"], str)
            continue
        box = _box(shape.get("points"), kind)
        if box is None:
            what = f"{where}: the points of this {kind} cannot be used"
            findings.refuse("shape whose points cannot be used", [what], str, "draw it again")
            continue
        difficult = as_flag(shape.get("difficult"))
        if difficult is None:
            findings.report(DOUBTFUL, "difficult that is neither 0 nor 1", [f"{where}: read as 0"], str)
        objects.append(Object(name.strip(), box, bool(difficult), False))
    width, height = (as_number(document.get(key)) for key in ("imageWidth", "imageHeight"))
    sized = 0 < width < MAX_NUMBER and 0 < height < MAX_NUMBER
    return LabelmeFile(width if sized else None, height if sized else None, objects)


def _box(points: Any, kind: object) -> Optional[tuple[float, float, float, float]]:
    """Return (x1, y1, x2, y2) of a shape; None if its points cannot be used."""
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        return None
    xs, ys = ([as_number(point[axis]) for point in points] for axis in (0, 1))
    if len(points) < (3 if kind in ("polygon", "rotation") else 2) or not _finite(xs) or not _finite(ys):
        return None
    if kind == "circle":  # its center, and a point on it
        radius = math.hypot(xs[1] - xs[0], ys[1] - ys[0])
        return xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    return min(xs), min(ys), max(xs), max(ys)


def _finite(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) and abs(value) < MAX_NUMBER for value in values)
