"""How training assigns ground truth to anchors, cells or points, as data that can be drawn.

A head's `assignment(raw, batch)` returns one `Assignment` per image.

G objects of an image, L levels, H, W size of a map.
"""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

import numpy as np
from paddle import Tensor

from ppdet_repro.modeling.assigners.matches import IGNORED, Matches
from ppdet_repro.modeling.ground_truth import GroundTruth


class AssignedBoxes(NamedTuple):
    """Boxes of one kind, such as positive anchors, ignored anchors or cells."""

    name: str
    boxes: np.ndarray  # [n, 4] xyxy, input pixels
    owners: np.ndarray  # [n]: index of the object that each one learns, -1 for none


class WeightMap(NamedTuple):
    """A number per location of a map that covers the input; 0 is not drawn."""

    name: str
    values: np.ndarray  # [H, W]


class LevelBars(NamedTuple):
    """A number from 0 to 1 per object and level, finest level first."""

    name: str
    values: np.ndarray  # [G, L]


class Assignment(NamedTuple):
    """One image's objects, and what learns them."""

    objects: np.ndarray  # [G, 4] xyxy, input pixels
    boxes: List[AssignedBoxes]
    maps: List[WeightMap]
    bars: Sequence[LevelBars] = ()


def anchor_assignment(truth: GroundTruth, anchors: Tensor, matches: Matches) -> Assignment:
    """One image's anchors [N, 4] that regress, and those that are ignored."""
    every = anchors.numpy()
    positive = AssignedBoxes("positive anchors", every[matches.anchors.numpy()], matches.gts.numpy())
    boxes = every[matches.labels.numpy() == IGNORED]
    ignored = AssignedBoxes("ignored anchors", boxes, np.full(len(boxes), -1))
    return Assignment(truth.boxes.numpy(), [positive, ignored], [])


def owners_of(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """For each box [n, 4] the index of the object [G, 4] with the nearest sides [n]; -1 if there are no objects."""
    if len(objects) == 0:
        return np.full(len(boxes), -1)
    return np.abs(boxes[:, None] - objects[None]).max(axis=-1).argmin(axis=1)


def cells(locations: np.ndarray, stride: float) -> np.ndarray:
    """The cells of map locations [n, 2] (y, x) as boxes [n, 4] xyxy in input pixels."""
    corner = locations[:, ::-1] * stride
    return np.concatenate([corner, corner + stride], axis=1).astype(np.float32)
