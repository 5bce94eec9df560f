"""Crops of a size that is given in pixels."""

from __future__ import annotations

from typing import Literal, Sequence

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample, select_boxes
from ppdet_repro.data.transform.geometry import Crop, RandomCrop
from ppdet_repro.data.transform.resize import Size, decodable_scale, interpolation, scale_sample, size_of
from ppdet_repro.utils.errors import UserError


def random_side(length: int, smallest: int, largest: int, rng: np.random.Generator) -> int:
    """Draw the side of a crop from [smallest, largest], both at most the image's side `length`."""
    return int(rng.integers(min(length, smallest), min(length, largest) + 1))


@register
class RandomResizeCrop:
    """With probability `prob`, resizes the image to a random size, and then crops it at random.

    The thresholds are tried in random order, with `num_attempts` crops each, and the first crop that RandomCrop would
    accept is used. If there is none, the image is resized only. Images without boxes are not cropped.
    (In PaddleDetection, images that are smaller than the smallest crop end the program.)

    Args:
        resizes: Sizes to resize to, each [height, width] or one number for both.
        cropsizes: Ranges [smallest, largest] of the crop's sides, one of which is drawn; one number for both.
        prob: Probability of doing anything.
        mode: With `keep_ratio`, "short" covers the drawn size and "long" fits into it.
        keep_ratio: Keep the image's ratio instead of stretching the image to the drawn size.
        interp: Interpolation code.
        num_attempts: Crops to try per threshold.
        cover_all_box: Whether the overlap of every box must reach the threshold.
        allow_no_crop: Accepted, without effect, as in PaddleDetection.
        thresholds: Overlaps of a box with the crop, to choose from.
        is_mask_crop: Accepted, without effect: there are no masks to crop.
        ioumode: "iou", or "iof" for the intersection over the area of the box. (PaddleDetection ignores this.)
    """

    def __init__(
        self,
        resizes: Sequence[int | Sequence[int]],
        cropsizes: Sequence[int | Sequence[int]],
        prob: float = 0.5,
        mode: Literal["short", "long"] = "short",
        keep_ratio: bool = True,
        interp: int = 1,
        num_attempts: int = 3,
        cover_all_box: bool = False,
        allow_no_crop: bool = False,
        thresholds: Sequence[float] = (0.3, 0.5, 0.7),
        is_mask_crop: bool = False,
        ioumode: Literal["iou", "iof"] = "iou",
    ):
        if not resizes or not cropsizes:
            raise UserError("RandomResizeCrop: resizes and cropsizes must list at least one size each")
        self.sizes = [size_of(size, "RandomResizeCrop") for size in resizes]
        self.crops = [sorted(size_of(size, "RandomResizeCrop")) for size in cropsizes]
        self.prob, self.mode, self.keep_ratio = prob, mode, keep_ratio
        self.interp, self.num_attempts = interpolation(interp, "RandomResizeCrop"), num_attempts
        self.cropper = RandomCrop(thresholds=thresholds, cover_all_box=cover_all_box, ioumode=ioumode)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        rng = ctx.rng
        if rng.random() >= self.prob:
            return sample
        target, sides = self.sizes[rng.integers(len(self.sizes))], self.crops[rng.integers(len(self.crops))]
        size = Size(*sample["image"].shape[:2])
        scales = [target.height / size.height, target.width / size.width]
        if self.keep_ratio:
            choose = min if self.mode == "long" else max
            scale = choose(min(target) / min(size), max(target) / max(size))
            scales = [decodable_scale(size, scale)] * 2
        sample = scale_sample(sample, scales[0], scales[1], self.interp)
        if len(sample["gt_bbox"]):
            self._crop(sample, sides, rng)
        return sample

    def _crop(self, sample: Sample, sides: Sequence[int], rng: np.random.Generator) -> None:
        height, width = sample["image"].shape[:2]
        for i in rng.permutation(len(self.cropper.thresholds)):
            for _ in range(self.num_attempts):
                h, w = (random_side(length, sides[0], sides[1], rng) for length in (height, width))
                y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                if self.cropper.try_crop(sample, Crop(x, y, x + w, y + h), self.cropper.thresholds[i]):
                    sample["im_shape"] = np.array([h, w], np.float32)
                    return


@register
class RandomSizeCrop:
    """Crops the image to a random size, each of whose sides is drawn from [min_size, max_size], at a random place.

    Sides are at most those of the image. Boxes are clipped, and those without area are removed.
    (In PaddleDetection, the last place that is drawn is one pixel outside the image.)

    Args:
        min_size, max_size: Range of the sides in pixels.
        keep_empty: Whether to crop also if no box would remain.
    """

    def __init__(self, min_size: int, max_size: int, keep_empty: bool = True):
        if not 1 <= min_size <= max_size:
            raise UserError(f"RandomSizeCrop: min_size {min_size} must be at least 1, and at most max_size {max_size}")
        self.min_size, self.max_size, self.keep_empty = min_size, max_size, keep_empty

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        height, width = sample["image"].shape[:2]
        h, w = (random_side(length, self.min_size, self.max_size, ctx.rng) for length in (height, width))
        y, x = int(ctx.rng.integers(height - h + 1)), int(ctx.rng.integers(width - w + 1))
        boxes: np.ndarray = np.clip(
            sample["gt_bbox"] - np.array([x, y, x, y], np.float32), 0, np.array([w, h] * 2, np.float32)
        )
        keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        if len(boxes) and not keep.any() and not self.keep_empty:
            return sample
        sample["image"] = sample["image"][y : y + h, x : x + w]
        sample["im_shape"] = np.array([h, w], np.float32)
        sample["gt_bbox"] = boxes
        select_boxes(sample, keep)
        return sample
