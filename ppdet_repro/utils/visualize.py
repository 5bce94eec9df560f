"""Boxes drawn on pictures. Images are RGB uint8 [H, W, 3]; numpy and OpenCV only.

B boxes, xyxy in pixels of the image.
"""

from __future__ import annotations

import colorsys
import math
import unicodedata
from collections.abc import Sequence
from typing import Optional

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX


def class_colour(class_id: int) -> tuple[int, int, int]:
    """The class's colour, RGB: always the same, and far from those of its neighbours' ids."""
    hue = (0.08 + class_id * 0.61803398875) % 1.0  # the golden ratio spreads hues evenly, however many
    lightness = (0.5, 0.62, 0.4)[class_id // 7 % 3]
    return tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, 0.95))


def enlarged(image: np.ndarray, longest: int = 480) -> tuple[np.ndarray, int]:
    """The image enlarged by a whole factor until its longer side is at least `longest`, and that factor."""
    factor = max(1, math.ceil(longest / max(image.shape[:2])))
    if factor == 1:
        return image, 1
    size = image.shape[1] * factor, image.shape[0] * factor
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), factor


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    scores: Optional[Sequence[float]] = None,
    names: Optional[Sequence[str]] = None,
    notes: Optional[Sequence[str]] = None,
) -> np.ndarray:
    """A copy of the image with each box and its label: name, score, note.

    boxes: [B, 4]; classes: B class ids. scores: B numbers; the highest are then drawn last, on top.
    names: the classes' names, by class id ('class 7' where there is none).
    notes: B more words, such as 'difficult' or 'crowd', '' for none.
    Lines and letters grow with the image; labels stay inside it.
    """
    drawn = np.ascontiguousarray(image).copy()
    boxes, classes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4), [int(c) for c in classes]
    thickness = max(1, round(max(drawn.shape[:2]) / 500))
    order = range(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable")
    for i in order:
        x1, y1, x2, y2 = (int(round(float(side))) for side in boxes[i].clip(-1e6, 1e6))
        cv2.rectangle(drawn, (x1, y1), (x2, y2), class_colour(classes[i]), thickness)
    plates: list[tuple[int, int, int, int]] = []
    for i in order:  # labels last: no box runs through one
        words = [_name(classes[i], names)]
        words += [] if scores is None else [f"{scores[i]:.2f}"]
        words += [notes[i]] if notes is not None and notes[i] else []
        plates.append(_label(drawn, " ".join(words), boxes[i], class_colour(classes[i]), plates))
    return drawn


def contact_sheet(images: Sequence[np.ndarray], columns: int = 0, cell: int = 320) -> np.ndarray:
    """All images on one picture, each fitted into a square of `cell` px; about square if columns is 0."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = np.full((rows * cell, columns * cell, 3), 255, dtype=np.uint8)
    for index, image in enumerate(images):
        scale = (cell - 4) / max(image.shape[:2])
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        fitted = cv2.resize(image, size, interpolation=method)
        top = index // columns * cell + (cell - fitted.shape[0]) // 2
        left = index % columns * cell + (cell - fitted.shape[1]) // 2
        sheet[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return sheet


def _name(class_id: int, names: Optional[Sequence[str]]) -> str:
    """The class's name in letters that OpenCV can draw (accents go; of other scripts nothing is left)."""
    if names is None or not 0 <= class_id < len(names):
        return f"class {class_id}"
    plain = unicodedata.normalize("NFKD", names[class_id]).encode("ascii", "ignore").decode().strip()
    return plain or f"class {class_id}"


def _label(
    image: np.ndarray,
    text: str,
    box: np.ndarray,
    colour: tuple[int, int, int],
    plates: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Write the text on a plate of the class's colour; the plate's x1, y1, x2, y2.

    Above the box, or inside at its top, bottom, or below it: the first place in the image that is free
    of the other `plates`, else the first of all.
    """
    height, width = image.shape[:2]
    scale = min(max(0.4, max(height, width) / 1400), 3.0)
    thickness = max(1, round(1.4 * scale))
    (text_width, text_height), below = cv2.getTextSize(text, FONT, scale, thickness)
    plate_width, plate_height = text_width + 4, text_height + below + 2
    left = int(min(max(box[0], 0), max(width - plate_width, 0)))
    tops = box[1] - plate_height, box[1], box[3] - plate_height, box[3]
    fitting = [int(top) for top in tops if 0 <= top <= height - plate_height] or [0]
    places = [(left, top, left + plate_width, top + plate_height) for top in fitting]
    place = next((p for p in places if not any(_overlap(p, other) for other in plates)), places[0])
    cv2.rectangle(image, place[:2], place[2:], colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
    origin = place[0] + 2, place[1] + text_height + 1
    cv2.putText(image, text, origin, FONT, scale, ink, thickness, cv2.LINE_AA)
    return place


def _overlap(one: Sequence[int], other: Sequence[int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
