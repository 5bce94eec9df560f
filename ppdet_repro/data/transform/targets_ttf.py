"""Training targets of TTFNet and PAFNet heads.

G ground truths, C classes, H x W the cells of the map, which has one for `down_ratio` pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import numpy as np

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.data.transform.base import PER_BOX, BatchTransform, Context, Sample


class TTFTarget(NamedTuple):
    """heatmap [C, H, W]: 1 at centres; box [4, H, W]: x1, y1, x2, y2 in input pixels, -1 where there is
    none; weight [1, H, W]: of the box loss, 0 where there is none. All float32."""

    heatmap: np.ndarray
    box: np.ndarray
    weight: np.ndarray


def gaussian(radius_x: int, radius_y: int) -> np.ndarray:
    """A Gaussian of height 1 on [2 radius_y + 1, 2 radius_x + 1] cells, sigma a sixth of each side."""
    x, y = np.arange(-radius_x, radius_x + 1), np.arange(-radius_y, radius_y + 1)
    sigma_x, sigma_y = (2 * radius_x + 1) / 6, (2 * radius_y + 1) / 6
    squares = x[None] ** 2 / (2 * sigma_x**2) + y[:, None] ** 2 / (2 * sigma_y**2)
    return np.exp(-squares).astype(np.float32)


def ttf_target(
    boxes: np.ndarray,
    classes: np.ndarray,
    input_size: tuple[int, int],
    num_classes: int,
    down_ratio: int = 4,
    alpha: float = 0.54,
    scores: Optional[np.ndarray] = None,
) -> TTFTarget:
    """The targets of one image (TTFNet, section 3).

    boxes       [G, 4] float32 x1, y1, x2, y2 in input pixels
    classes     [G] int
    input_size  (height, width) in pixels. Departure from PaddleDetection, which takes the height for
                both: the same where they are equal, right where they are not
    scores      [G] in 0..1, of mixed images; they multiply the weights

    Each box draws a Gaussian around the cell with its centre, with radii of alpha / 2 times its sides in
    cells (clipped to the map), cut to that rectangle and to the map. The heatmap keeps the larger
    value; box and weight are overwritten by smaller boxes, drawn later. The weights of a box are its
    Gaussian divided by its sum, times the log of its area ((w + 1) (h + 1) pixels).
    """
    height, width = (side // down_ratio for side in input_size)
    heatmap = np.zeros((num_classes, height, width), np.float32)
    box = np.full((4, height, width), -1, np.float32)
    weight = np.zeros((1, height, width), np.float32)

    sides = boxes[:, 2:] - boxes[:, :2]  # [G, 2]
    log_areas = np.log((sides + 1).prod(axis=1))  # [G]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / down_ratio  # [G, 2]
    limits = np.array([width - 1, height - 1] * 2, np.float32)
    in_cells = np.clip(boxes / down_ratio, 0, limits)
    radii = ((in_cells[:, 2:] - in_cells[:, :2]) / 2 * np.float32(alpha)).astype(int)  # [G, 2]
    for g in np.argsort(log_areas, kind="stable")[::-1]:
        (x, y), (rx, ry) = centres[g].astype(int), radii[g]
        if x >= width or y >= height:  # a box without area on the far border
            continue
        left, right, top, bottom = max(x - rx, 0), x + rx + 1, max(y - ry, 0), y + ry + 1
        drawn = gaussian(rx, ry)[top - y + ry :, left - x + rx :][: height - top, : width - left]
        area = np.s_[top:bottom, left:right]
        np.maximum(heatmap[classes[g]][area], drawn, out=heatmap[classes[g]][area])
        box[(slice(None), *area)] = boxes[g][:, None, None]
        score = 1 if scores is None else scores[g]
        weight[0][area] = drawn * log_areas[g] / np.ascontiguousarray(drawn).sum() * score
    return TTFTarget(heatmap, box, weight)


def centre_scores(
    boxes: np.ndarray, scores: np.ndarray, input_size: tuple[int, int], down_ratio: int = 4
) -> np.ndarray:
    """[1, H, W]: an object's score at the cell with its centre (the smallest object's, of several), else 1."""
    height, width = (side // down_ratio for side in input_size)
    out = np.ones((1, height, width), np.float32)
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2 / down_ratio).astype(int).T
    for g in np.argsort((boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1), kind="stable")[::-1]:
        if x[g] < width and y[g] < height:
            out[0, y[g], x[g]] = scores[g]
    return out


@register
class Gt2TTFTarget(BatchTransform):
    """Adds ttf_heatmap, ttf_box_target and ttf_reg_weight (`ttf_target`); removes the boxes.

    Where images were mixed, gt_score multiplies the regression weights, and ttf_score (`centre_scores`)
    has the heat map's positives count as much: PAFNet, equation 6. PaddleDetection drops the scores.
    """

    def __init__(self, num_classes: Shared[int] = 80, down_ratio: int = 4, alpha: float = 0.54):
        self.num_classes, self.down_ratio, self.alpha = num_classes, down_ratio, alpha

    @property
    def target_settings(self) -> dict[str, Any]:
        """What TTFHead must share."""
        return {"down_ratio": self.down_ratio}

    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]:
        for sample in samples:
            size, boxes = sample["image"].shape[1:], sample["gt_bbox"]
            scores = None
            if "gt_score" in sample:
                scores = np.ravel(sample["gt_score"])
                sample["ttf_score"] = centre_scores(boxes, scores, size, self.down_ratio)
            classes = np.ravel(sample["gt_class"])
            target = ttf_target(boxes, classes, size, self.num_classes, self.down_ratio, self.alpha, scores)
            sample["ttf_heatmap"], sample["ttf_box_target"], sample["ttf_reg_weight"] = target
            for key in PER_BOX:
                sample.pop(key, None)
        return samples
