"""Draws boxes [B, 4] (xyxy, pixels) on RGB images (uint8 [H, W, 3]), and writes images to files."""

from __future__ import annotations

import colorsys
import math
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

import cv2
import numpy as np

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output

Numbers = Union[Sequence[int], Sequence[float], np.ndarray]
Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]

FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_color(class_id: int) -> Color:
    """The RGB color of a class. It is always the same, and distinct from those of classes with similar ids."""
    hue = (0.08 + class_id * 0.61803398875) % 1.0  # the golden ratio spreads hues evenly, however many
    lightness = (0.5, 0.62, 0.4)[class_id // 7 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def enlarged(image: np.ndarray, longest: int = 480) -> tuple[np.ndarray, int]:
    """The image, enlarged by an integer factor so that its longer side is at least `longest`, and the factor."""
    factor = max(1, math.ceil(longest / max(image.shape[:2])))
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return image, factor


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Numbers,
    scores: Optional[Numbers] = None,
    names: Optional[Sequence[str]] = None,
    notes: Optional[Sequence[str]] = None,
) -> np.ndarray:
    """Draw boxes with labels (name, score, note) on a copy of an image.

    Line width and font size grow with the image. Labels stay inside the image. `classes` [B] are ids, for which `names`
    has the names; a class without a name is called 'class 7'. Boxes with higher `scores` [B] are drawn later, on top.
    `notes` has B additions to the labels, such as 'difficult' or 'crowd'; '' for none.
    """
    drawn = np.ascontiguousarray(image).copy()
    boxes, ids = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), [int(c) for c in classes]
    thickness = max(1, round(max(drawn.shape[:2]) / 500))
    order = range(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable")
    for i in order:
        x1, y1, x2, y2 = (int(round(float(side))) for side in boxes[i].clip(-1e6, 1e6))
        cv2.rectangle(drawn, (x1, y1), (x2, y2), class_color(ids[i]), thickness)
    labels: list[Rectangle] = []
    for i in order:  # after all boxes, so that no box crosses a label
        words = [_name(ids[i], names)]
        words += [] if scores is None else [f"{scores[i]:.2f}"]
        words += [notes[i]] if notes is not None and notes[i] else []
        labels.append(_label(drawn, " ".join(words), boxes[i], class_color(ids[i]), labels))
    return drawn


def draw_detections(image: np.ndarray, rows: np.ndarray, names: Sequence[str], threshold: float) -> np.ndarray:
    """Draw the `rows` [M, 6] (class, score, x1, y1, x2, y2) that score at least `threshold` on a copy of an image."""
    rows = rows[rows[:, 1] >= threshold]
    return draw_boxes(image, rows[:, 2:], rows[:, 0], rows[:, 1], names)


def contact_sheet(images: Sequence[np.ndarray], columns: int = 0, cell: int = 320) -> np.ndarray:
    """All images in a grid, each fitted into `cell` x `cell` pixels. With 0 `columns`, the grid is about square."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * cell, columns * cell, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        scale = (cell - 4) / max(image.shape[:2])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        fitted = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        top = index // columns * cell + (cell - fitted.shape[0]) // 2
        left = index % columns * cell + (cell - fitted.shape[1]) // 2
        sheet[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return sheet


def output_names(files: Sequence[str]) -> list[str]:
    """A unique name for the output of each file: its path relative to the folder that all files share."""
    paths = [os.path.abspath(file) for file in files]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    return [os.path.relpath(path, shared) for path in paths]


def left_out(count: int, total: int, first: str) -> str:
    """The message at the end of a run in which some images could not be read."""
    rest = "" if count == total else "; the results of the others are written"
    return f"{count} of {total} images could not be used{rest}. The first: {first}" if total > 1 else first


def write_image(path: Path, image: np.ndarray) -> Path:
    """Write an RGB image to a file in the format of its suffix, or, if OpenCV writes none with this suffix, as
    `path`.jpg. Returns the file's path. Raises a `UserError` if that fails."""
    if not (path.suffix and cv2.haveImageWriter(f"image{path.suffix}")):
        path = path.with_name(f"{path.name}.jpg")
    try:
        _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error as error:
        raise UserError(f"cannot write {path}: OpenCV has no format for {path.suffix!r}") from error
    write_output(path, encoded.tobytes())
    return path


def _name(class_id: int, names: Optional[Sequence[str]]) -> str:
    """The name of a class in ASCII, all that OpenCV can draw: accents are removed, other scripts are dropped."""
    if names is None or not 0 <= class_id < len(names):
        return f"class {class_id}"
    plain = unicodedata.normalize("NFKD", names[class_id]).encode("ascii", "ignore").decode().strip()
    return plain or f"class {class_id}"


def _label(image: np.ndarray, text: str, box: np.ndarray, color: Color, others: Sequence[Rectangle]) -> Rectangle:
    """Draw a label with a background of the given color and return its rectangle.

    It goes above the box, inside it at the top or at the bottom, or below it: the first of these positions that is in
    the image and overlaps no other label, or the first in the image if there is none.
    """
    height, width = image.shape[:2]
    scale = min(max(0.4, max(height, width) / 1400), 3.0)
    thickness = max(1, round(1.4 * scale))
    (text_width, text_height), below = cv2.getTextSize(text, FONT, scale, thickness)
    label_width, label_height = text_width + 4, text_height + below + 2
    left = int(min(max(box[0], 0), max(width - label_width, 0)))
    tops = box[1] - label_height, box[1], box[3] - label_height, box[3]
    fitting = [int(top) for top in tops if 0 <= top <= height - label_height] or [0]
    candidates = [(left, top, left + label_width, top + label_height) for top in fitting]
    chosen = next((c for c in candidates if not any(_overlap(c, other) for other in others)), candidates[0])
    cv2.rectangle(image, chosen[:2], chosen[2:], color, cv2.FILLED)
    text_color = (0, 0, 0) if np.dot(color, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
    origin = chosen[0] + 2, chosen[1] + text_height + 1
    cv2.putText(image, text, origin, FONT, scale, text_color, thickness, cv2.LINE_AA)
    return chosen


def _overlap(one: Sequence[int], other: Sequence[int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
