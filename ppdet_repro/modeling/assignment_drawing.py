"""What training makes of an image's ground truth, in a form that can be drawn.

A head's `assignment(raw, batch)` gives one `Assignment` an image. G objects, H, W a map.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import numpy as np


class AssignedBoxes(NamedTuple):
    """Boxes that training treats alike (positive anchors, ignored ones, cells): `boxes` [n, 4] xyxy input
    pixels; `owners` [n]: the index of the object that each one learns, -1 for none."""

    name: str
    boxes: np.ndarray
    owners: np.ndarray


class WeightMap(NamedTuple):
    """A number at every place of a map that covers the input, [H, W]; 0 where there is nothing to see."""

    name: str
    values: np.ndarray


class LevelBars(NamedTuple):
    """Numbers from 0 to 1 of each object, [G, L], one for each level of a pyramid, finest first."""

    name: str
    values: np.ndarray


class Assignment(NamedTuple):
    """`objects` [G, 4] xyxy input pixels, and what becomes of them."""

    objects: np.ndarray
    boxes: List[AssignedBoxes]
    maps: List[WeightMap]
    bars: Sequence[LevelBars] = ()


def owners_of(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """The index [n] of the object [G, 4] nearest to each box [n, 4] by its sides; -1 if there is none."""
    if len(objects) == 0:
        return np.full(len(boxes), -1)
    return np.abs(boxes[:, None] - objects[None]).max(axis=-1).argmin(axis=1)


def cells(places: np.ndarray, stride: float) -> np.ndarray:
    """The squares [n, 4] xyxy input pixels of map places [n, 2] (y, x)."""
    corner = places[:, ::-1] * stride
    return np.concatenate([corner, corner + stride], axis=1).astype(np.float32)
