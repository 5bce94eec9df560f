"""Flips, shifts, larger canvases and crops: transforms that move boxes together with pixels."""

from __future__ import annotations

from typing import Literal, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample, select_boxes
from ppdet_repro.utils.boxes import overlaps
from ppdet_repro.utils.errors import UserError


@register
class RandomFlip:
    """Mirror left and right with probability `prob`: x becomes width - x."""

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
    """Move the image [H, W, C] by whole pixels, right and down for positive shifts; what is
    uncovered is 0."""
    height, width = image.shape[:2]
    shifted = np.zeros_like(image)
    shifted[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = image[
        max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return shifted


@register
class RandomShift:
    """With probability `prob`, shift by up to `max_shift` pixels a direction (YOLOF, "Other Details").

    Boxes are clipped to the image; those with a side of at most `filter_thr` pixels are dropped. If
    none stays, nothing is shifted.
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
    """Put the image somewhere on a canvas 1 to `ratio` times as large, filled with `fill_value` (RGB).

    Quirk of PaddleDetection, kept because published configs count on it: `prob` is the probability
    that nothing happens. The result is float32, since the fill need not be whole numbers.
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
        ratio = ctx.rng.uniform(1.0, self.ratio)
        canvas_h, canvas_w = int(height * ratio), int(width * ratio)
        if canvas_h <= height or canvas_w <= width:
            return sample
        y = int(ctx.rng.integers(canvas_h - height))
        x = int(ctx.rng.integers(canvas_w - width))
        below, right = canvas_h - height - y, canvas_w - width - x
        sample["image"] = cv2.copyMakeBorder(
            image.astype(np.float32), y, below, x, right, cv2.BORDER_CONSTANT, value=self.fill
        )
        if "gt_bbox" in sample:
            sample["gt_bbox"] = sample["gt_bbox"] + np.array([x, y, x, y], np.float32)
        return sample


class Crop(NamedTuple):
    """A rectangle of whole pixels."""

    x1: int
    y1: int
    x2: int
    y2: int


def boxes_in_crop(boxes: np.ndarray, crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [G, 4] clipped to the crop, in its coordinates, and which [G] keep their centre in it
    and some area."""
    crop_box = np.array(crop, np.float32)
    clipped = np.concatenate(
        [np.maximum(boxes[:, :2], crop_box[:2]), np.minimum(boxes[:, 2:], crop_box[2:])], axis=1
    ) - np.tile(crop_box[:2], 2)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    keep = ((crop_box[:2] <= centres) & (centres < crop_box[2:])).all(axis=1)
    keep &= (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
    return clipped, keep


@register
class RandomCrop:
    """A random crop that keeps enough of the boxes (as SSD, with the first success taken).

    The thresholds, and no crop at all if `allow_no_crop`, are tried in random order, `num_attempts`
    crops each. A crop is accepted when the largest overlap of a box with it reaches the threshold
    (with `cover_all_box` the smallest as well) and at least one box has its centre inside. Boxes
    whose centre is outside are dropped, the others clipped. Images without boxes stay as they are.

    aspect_ratio  [low, high] of width over height; None: both sides are drawn from `scaling` and
                  height over width must be within [0.5, 2]
    scaling       [low, high] of the crop's size relative to the image
    ioumode       overlap as "iou", or "iof": relative to the box
    prob          of trying at all
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
                if crop is not None and self._apply(sample, crop, thresholds[i]):
                    return sample
        return sample

    def _propose(self, height: int, width: int, rng: np.random.Generator) -> Optional[Crop]:
        scale = rng.uniform(*self.scaling)
        if self.aspect_ratio is None:
            h, w = height * rng.uniform(*self.scaling), width * rng.uniform(*self.scaling)
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

    def _apply(self, sample: Sample, crop: Crop, threshold: float) -> bool:
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
