"""Geometric augmentations that change the image and its boxes together: flip, shift, expand and crop."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample, select_boxes
from ppdet_repro.data.transform.decode import DECODER_LIMIT
from ppdet_repro.utils.boxes import overlaps
from ppdet_repro.utils.errors import UserError


@register
class RandomFlip:
    """Mirrors the image horizontally with probability `prob`: x becomes width - x."""

    def __init__(self, prob: float = 0.5):
        self.prob = prob

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() >= self.prob:
            return sample
        width = sample["image"].shape[1]
        sample["image"] = sample["image"][:, ::-1]
        if "gt_bbox" in sample:
            x1, y1, x2, y2 = sample["gt_bbox"].T
            sample["gt_bbox"] = np.stack([width - x2, y1, width - x1, y2], axis=1)
        return sample


def shift_image(image: np.ndarray, dx: int, dy: int) -> np.ndarray:
    """Move an image [H, W, C] right by `dx` and down by `dy` pixels. Uncovered pixels become 0."""
    height, width = image.shape[:2]
    shifted = np.zeros_like(image)
    shifted[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = image[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return shifted


@register
class RandomShift:
    """With probability `prob`, shifts the image by up to `max_shift` pixels along each axis.

    Boxes are clipped to the image, and those with a side of at most `filter_thr` pixels are removed. If no box would
    remain, the image is not shifted. Source: YOLOF, "Other Details".
    """

    def __init__(self, prob: float = 0.5, max_shift: int = 32, filter_thr: int = 1):
        self.prob, self.max_shift, self.filter_thr = prob, max_shift, filter_thr

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() >= self.prob:
            return sample
        height, width = sample["image"].shape[:2]
        dy, dx = (int(s) for s in ctx.rng.integers(-self.max_shift, self.max_shift + 1, size=2))
        boxes = sample["gt_bbox"] + np.array([dx, dy, dx, dy], np.float32)
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        keep = (boxes[:, 2:] - boxes[:, :2] > self.filter_thr).all(axis=1)
        if keep.any():
            sample["image"] = shift_image(sample["image"], dx, dy)
            sample["gt_bbox"] = boxes
            select_boxes(sample, keep)
        return sample


@register
class RandomExpand:
    """Places the image at a random position on a canvas whose sides are 1 to `ratio` times as long.

    The canvas is filled with `fill_value` (RGB). The result is float32, because the fill need not be an integer.
    As in PaddleDetection, `prob` is the probability that nothing happens; published configs rely on this. The canvas
    has at most as many pixels as an image may have.
    """

    def __init__(
        self, ratio: float = 4.0, prob: float = 0.5, fill_value: float | Sequence[float] = (127.5, 127.5, 127.5)
    ):
        if ratio <= 1.01:
            raise UserError(f"RandomExpand: ratio {ratio} must be larger than 1.01")
        self.ratio, self.prob = ratio, prob
        self.fill = np.broadcast_to(np.array(fill_value, np.float64), 3).tolist()

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() < self.prob:
            return sample
        image = sample["image"]
        height, width = image.shape[:2]
        ratio = min(ctx.rng.uniform(1.0, self.ratio), math.sqrt(DECODER_LIMIT / (height * width)))
        canvas_h, canvas_w = int(height * ratio), int(width * ratio)
        if canvas_h <= height or canvas_w <= width:
            return sample
        y, x = int(ctx.rng.integers(canvas_h - height)), int(ctx.rng.integers(canvas_w - width))
        sides = y, canvas_h - height - y, x, canvas_w - width - x  # top, bottom, left, right
        image = image.astype(np.float32)
        sample["image"] = cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=self.fill)
        if "gt_bbox" in sample:
            sample["gt_bbox"] = sample["gt_bbox"] + np.array([x, y, x, y], np.float32)
        return sample


class Crop(NamedTuple):
    """A rectangle with integer coordinates."""

    x1: int
    y1: int
    x2: int
    y2: int


def boxes_in_crop(boxes: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes [G, 4] clipped to a crop, in its coordinates, and the mask [G] of the boxes to keep.

    These are the boxes whose center lies in the crop and that keep some area.
    """
    start, end = np.array(crop, np.float32).reshape(2, 2)
    corners = [np.maximum(boxes[:, :2], start) - start, np.minimum(boxes[:, 2:], end) - start]
    clipped = np.concatenate(corners, axis=1)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    keep = ((start <= centers) & (centers < end)).all(axis=1)
    keep &= (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
    return clipped, keep


@register
class RandomCrop:
    """Crops at random so that enough of the boxes remains, as SSD does. The first accepted crop is used.

    The thresholds are tried in random order, with `num_attempts` random crops each. A crop is accepted if the largest
    overlap of any box with it reaches the threshold and at least one box has its center inside. Boxes whose center
    is outside are removed, the others are clipped. Images without boxes are not cropped.

    Args:
        aspect_ratio: Range of width over height. If None, both sides are drawn from `scaling`, and height over width
            must lie in [0.5, 2].
        thresholds: Overlaps to choose from.
        scaling: Range of the crop's size relative to the image.
        num_attempts: Crops to try per threshold.
        allow_no_crop: Whether "no crop" is one of the choices.
        cover_all_box: Whether the overlap of every box must reach the threshold.
        ioumode: "iou", or "iof" for the intersection over the area of the box.
        prob: Probability of trying to crop at all.
    """

    def __init__(
        self,
        aspect_ratio: Optional[Sequence[float]] = (0.5, 2.0),
        thresholds: Sequence[float] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        scaling: Sequence[float] = (0.3, 1.0),
        num_attempts: int = 50,
        allow_no_crop: bool = True,
        cover_all_box: bool = False,
        ioumode: Literal["iou", "iof"] = "iou",
        prob: float = 1.0,
    ):
        self.aspect_ratio, self.scaling = aspect_ratio, scaling
        self.thresholds, self.allow_no_crop = tuple(thresholds), allow_no_crop
        self.num_attempts, self.cover_all_box = num_attempts, cover_all_box
        self.ioumode, self.prob = ioumode, prob

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() >= self.prob or not len(sample["gt_bbox"]):
            return sample
        thresholds = [*self.thresholds, None] if self.allow_no_crop else list(self.thresholds)
        for i in ctx.rng.permutation(len(thresholds)):
            if thresholds[i] is None:
                return sample
            for _ in range(self.num_attempts):
                crop = self._propose(sample["image"].shape[0], sample["image"].shape[1], ctx.rng)
                if crop is not None and self.try_crop(sample, crop, thresholds[i]):
                    return sample
        return sample

    def _propose(self, height: int, width: int, rng: np.random.Generator) -> Optional[Crop]:
        smallest, largest = self.scaling
        scale = rng.uniform(smallest, largest)
        if self.aspect_ratio is None:
            h, w = height * rng.uniform(smallest, largest), width * rng.uniform(smallest, largest)
            if not 0.5 <= h / w <= 2.0:
                return None
        else:
            low, high = self.aspect_ratio
            aspect = rng.uniform(max(low, scale**2), min(high, scale**-2))
            h, w = height * scale / np.sqrt(aspect), width * scale * np.sqrt(aspect)
        h, w = int(h), int(w)
        if not (0 < h < height and 0 < w < width):
            return None
        y, x = int(rng.integers(height - h)), int(rng.integers(width - w))
        return Crop(x, y, x + w, y + h)

    def try_crop(self, sample: Sample, crop: Crop, threshold: float) -> bool:
        """Crop the sample if enough of its boxes remains, and return whether it was cropped."""
        overlap = overlaps(sample["gt_bbox"], np.array(crop, np.float32), self.ioumode)  # [G]
        if overlap.max() < threshold or (self.cover_all_box and overlap.min() < threshold):
            return False
        boxes, keep = boxes_in_crop(sample["gt_bbox"], crop)
        if not keep.any():
            return False
        sample["image"] = sample["image"][crop.y1 : crop.y2, crop.x1 : crop.x2]
        sample["gt_bbox"] = boxes
        select_boxes(sample, keep)
        return True
