"""Training targets of TTFNet and PAFNet heads.

G ground truths, K classes, H x W the cells of the target maps; a cell is `down_ratio` pixels wide and high.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import numpy as np

from ppdet_repro.core.registry import Shared, register
from ppdet_repro.data.transform.base import PER_BOX, BatchTransform, Context, Sample


class TTFTarget(NamedTuple):
    """The targets of one image, all float32."""

    heatmap: np.ndarray  # [K, H, W]: 1 at the centers of objects
    box: np.ndarray  # [4, H, W]: x1, y1, x2, y2 in input pixels, -1 where there is no box
    weight: np.ndarray  # [1, H, W]: weight of the box loss, 0 where there is no box


def gaussian(radius_x: int, radius_y: int) -> np.ndarray:
    """A Gaussian [2 radius_y + 1, 2 radius_x + 1] with maximum 1, whose sigmas are a sixth of its sides."""
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
    """Compute the targets of one image (TTFNet, section 3).

    Each box draws a Gaussian around the cell that contains its center. The radii are alpha / 2 times the sides of the
    box, in cells and clipped to the map. Where Gaussians overlap, the heatmap keeps the larger value. Boxes are drawn
    by falling area, and later boxes overwrite `box` and `weight`. The weights of a box are its Gaussian divided by
    its sum, times the logarithm of its area, which is (w + 1) (h + 1) pixels.

    Args:
        boxes: [G, 4] float32, xyxy in input pixels.
        classes: [G] int.
        input_size: Height and width in pixels. (PaddleDetection uses the height for both: its inputs must be square.)
        num_classes: K.
        down_ratio: Pixels per cell.
        alpha: Size of the Gaussians relative to the boxes.
        scores: [G] in [0, 1], for mixed images. They multiply the weights.
    """
    height, width = (side // down_ratio for side in input_size)
    heatmap = np.zeros((num_classes, height, width), np.float32)
    box = np.full((4, height, width), -1, np.float32)
    weight = np.zeros((1, height, width), np.float32)

    sides = boxes[:, 2:] - boxes[:, :2]  # [G, 2]
    log_areas = np.log((sides + 1).prod(axis=1))  # [G]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 / down_ratio  # [G, 2]
    limits = np.array([width - 1, height - 1] * 2, np.float32)
    in_cells = np.clip(boxes / down_ratio, 0, limits)
    radii = ((in_cells[:, 2:] - in_cells[:, :2]) / 2 * np.float32(alpha)).astype(int)  # [G, 2]
    for g in np.argsort(log_areas, kind="stable")[::-1]:
        (x, y), (rx, ry) = centers[g].astype(int), radii[g]
        if x >= width or y >= height:  # a box without area on the right or bottom border
            continue
        left, right, top, bottom = max(x - rx, 0), x + rx + 1, max(y - ry, 0), y + ry + 1
        drawn = gaussian(rx, ry)[top - y + ry :, left - x + rx :][: height - top, : width - left]
        area = np.s_[top:bottom, left:right]
        np.maximum(heatmap[classes[g]][area], drawn, out=heatmap[classes[g]][area])
        box[(slice(None), *area)] = boxes[g][:, None, None]
        score = 1 if scores is None else scores[g]
        weight[0][area] = drawn * log_areas[g] / np.ascontiguousarray(drawn).sum() * score
    return TTFTarget(heatmap, box, weight)


def center_scores(boxes: np.ndarray, scores: np.ndarray, input_size: tuple[int, int], down_ratio: int) -> np.ndarray:
    """The score of an object at the cell that contains its center, 1 elsewhere: [1, H, W].

    If several centers lie in one cell, the score is that of the smallest object.
    """
    height, width = (side // down_ratio for side in input_size)
    out = np.ones((1, height, width), np.float32)
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2 / down_ratio).astype(int).T
    for g in np.argsort((boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1), kind="stable")[::-1]:
        if x[g] < width and y[g] < height:
            out[0, y[g], x[g]] = scores[g]
    return out


@register
class Gt2TTFTarget(BatchTransform):
    """Adds ttf_heatmap, ttf_box_target and ttf_reg_weight (see `ttf_target`) and removes the boxes.

    If images were mixed, `gt_score` multiplies the regression weights, and `ttf_score` (see `center_scores`) gives
    the heatmap loss the weights of its positive cells (PAFNet, equation 6). PaddleDetection ignores the scores.

    Args:
        down_ratio: stride of the heatmap in pixels of the input
        alpha: size of the Gaussian relative to that of the box
    """

    def __init__(self, num_classes: Shared[int] = 80, down_ratio: int = 4, alpha: float = 0.54):
        self.num_classes, self.down_ratio, self.alpha = num_classes, down_ratio, alpha

    @property
    def target_settings(self) -> dict[str, Any]:
        """The parameters that must have the same values in TTFHead."""
        return {"down_ratio": self.down_ratio}

    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]:
        for sample in samples:
            height, width = sample["image"].shape[1:]
            size, boxes, classes = (height, width), sample["gt_bbox"], np.ravel(sample["gt_class"])
            scores = None
            if "gt_score" in sample:
                scores = np.ravel(sample["gt_score"])
                sample["ttf_score"] = center_scores(boxes, scores, size, self.down_ratio)
            target = ttf_target(boxes, classes, size, self.num_classes, self.down_ratio, self.alpha, scores)
            sample["ttf_heatmap"], sample["ttf_box_target"], sample["ttf_reg_weight"] = target
            for key in PER_BOX:
                sample.pop(key, None)
        return samples
