"""Resizing images to a fixed size, to a random size, or to one random size per batch.

Interpolation codes are those of OpenCV: 0 nearest, 1 bilinear, 2 cubic, 3 area, 4 Lanczos.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Optional, Sequence

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import BatchTransform, Context, Sample
from ppdet_repro.data.transform.decode import DECODER_LIMIT
from ppdet_repro.utils.errors import UserError

RANDOM_INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


class Size(NamedTuple):
    """The size of an image in pixels."""

    height: int
    width: int


def resized_size(size: Size, target: Size, keep_ratio: bool) -> Size:
    """Compute the size to which an image of `size` is resized.

    With `keep_ratio`, the image becomes as large as possible with its short side at most the target's short side and
    its long side at most the target's long side, whichever of the two is the height. Sides are rounded, and have at
    least one pixel.
    """
    if not keep_ratio:
        return target
    scale = min(min(target) / min(size), max(target) / max(size))
    return Size(max(1, int(scale * size.height + 0.5)), max(1, int(scale * size.width + 0.5)))


def scale_to_fit(size: Size, target: Size) -> float:
    """Compute the scale with which PaddleDetection's deployment fits an image of `size` into `target`.

    It is the scale of the short side, or that of the long side if the long side would otherwise exceed the target's
    after rounding.
    """
    scale = min(target) / min(size)
    return max(target) / max(size) if round(scale * max(size)) > max(target) else scale


def resize_sample(sample: Sample, target: Size, keep_ratio: bool, interp: int, one_scale: bool = False) -> Sample:
    """Resize a sample's image, whose data type does not change, and scale and clip its boxes. See `Resize`."""
    size = Size(*sample["image"].shape[:2])
    if keep_ratio and one_scale:
        scale = scale_to_fit(size, target)
        scales = [scale if round(scale * side) else 1.0 / side for side in size]  # at least one pixel
    else:
        new = resized_size(size, target, keep_ratio)
        scales = [new.height / size.height, new.width / size.width]
    return scale_sample(sample, scales[0], scales[1], interp)


def scale_sample(sample: Sample, scale_y: float, scale_x: float, interp: int) -> Sample:
    """Resize a sample's image by two factors, and scale and clip its boxes. The image's data type does not change."""
    sample["image"] = cv2.resize(sample["image"], None, fx=scale_x, fy=scale_y, interpolation=interp)
    new = Size(*sample["image"].shape[:2])
    sample["im_shape"] = np.array(new, np.float32)
    before = np.asarray(sample.get("scale_factor", (1.0, 1.0)), np.float64)
    sample["scale_factor"] = (before * [scale_y, scale_x]).astype(np.float32)
    if "gt_bbox" in sample:
        boxes = sample["gt_bbox"] * np.array([scale_x, scale_y] * 2, np.float32)
        sample["gt_bbox"] = np.clip(boxes, 0, np.array(new[::-1] * 2, np.float32))
    return sample


def size_of(value: int | Sequence[int], owner: str) -> Size:
    """Read a size from a YAML value; one number means a square.

    UserError, which names the `owner`, if the value is neither a positive integer nor a pair of them.
    """
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"{owner}: target_size {value!r} is not a size; give a positive integer or [height, width]")
    return Size(*sides)


def sizes_of(value: Any, several: bool, owner: str) -> list[Size]:
    """Read a list of sizes from a YAML value, or, unless `several`, one size."""
    return [size_of(size, owner) for size in (value if several else [value])]


def interpolation(code: int, owner: str) -> int:
    """Check an interpolation code. UserError if it is unknown."""
    if code not in RANDOM_INTERPOLATIONS:
        raise UserError(
            f"{owner}: unknown interp {code!r}; use 0 (nearest), 1 (bilinear), 2 (cubic), 3 (area) or 4 (Lanczos)"
        )
    return code


@register
class Resize:
    """Resizes images to one size.

    `im_shape` becomes the new size, and `scale_factor` is multiplied by the scales (y, x). An 8-bit image stays
    8-bit. (PaddleDetection converts it to float32 here; the values are the same.)

    Args:
        target_size: Height and width, or one number for both.
        keep_ratio: Fit the image into the target size (see `resized_size`) instead of stretching it.
        interp: Interpolation code.
        one_scale: With `keep_ratio`, scale both sides by the same factor, as PaddleDetection's deployment does. By
            default, each side is scaled by the factor that gives a whole number of pixels, as PaddleDetection's
            training and evaluation do. The resulting sizes are equal, but the content differs by up to half a pixel.
    """

    def __init__(self, target_size: int | Sequence[int], keep_ratio: bool, interp: int = 1, one_scale: bool = False):
        self.target_size, self.interp = size_of(target_size, "Resize"), interpolation(interp, "Resize")
        self.keep_ratio, self.one_scale = keep_ratio, one_scale

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        return resize_sample(sample, self.target_size, self.keep_ratio, self.interp, self.one_scale)


@register
class RandomResize:
    """Resizes each image to a random size.

    Args:
        target_size: A list of sizes, or, with `random_range`, [[shortest, long], [longest, long]].
        keep_ratio: See `Resize`.
        interp: Interpolation code.
        random_range: Draw the short side from [shortest, longest]. The long side is at most
            max(first long, second long + 1), as in PaddleDetection.
        random_size: Draw one of the sizes in `target_size`. If neither this nor `random_range` is set, `target_size`
            is the size.
        random_interp: Draw one of the five interpolations instead of using `interp`.
    """

    def __init__(
        self,
        target_size: int | Sequence[int | Sequence[int]],
        keep_ratio: bool = True,
        interp: int = 1,
        random_range: bool = False,
        random_size: bool = True,
        random_interp: bool = False,
    ):
        if (random_size or random_range) and isinstance(target_size, int):
            raise UserError(f"RandomResize: target_size {target_size} must be a list of sizes to draw from")
        self.sizes = sizes_of(target_size, random_size or random_range, "RandomResize")
        if random_range and len(self.sizes) != 2:
            raise UserError("RandomResize: with random_range, target_size is [[shortest, long], [longest, long]]")
        self.interp = interpolation(interp, "RandomResize")
        self.keep_ratio, self.random_range, self.random_interp = keep_ratio, random_range, random_interp

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if self.random_range:
            (shortest, long), (longest, other_long) = self.sizes
            target = Size(int(ctx.rng.integers(shortest, longest + 1)), max(long, other_long + 1))
        else:
            target = self.sizes[ctx.rng.integers(len(self.sizes))]
        interp = random_interpolation(ctx) if self.random_interp else self.interp
        return resize_sample(sample, target, self.keep_ratio, interp)


def decodable_scale(size: Size, scale: float) -> float:
    """The scale, or less so that an image of `size` does not get more pixels than an image may have."""
    return min(scale, math.sqrt(DECODER_LIMIT / (size.height * size.width)))


def short_side_size(size: Size, short: int, longest: Optional[int]) -> Size:
    """Compute the size with the short side `short`, or less so that the long side is at most `longest`.

    As in PaddleDetection, the short side is truncated where the long side limits it, and the long side is rounded.
    """
    smaller, larger = min(size), max(size)
    short = min(short, max(1, int(decodable_scale(size, short / smaller) * smaller + 1e-6)))
    if longest is not None and larger / smaller * short > longest:
        short, long = max(1, int(longest * smaller / larger)), longest
    else:
        long = round(short * larger / smaller)
    if smaller == short:
        return size
    return Size(long, short) if size.width < size.height else Size(short, long)


@register
class RandomShortSideResize:
    """Resizes each image, with its ratio, so that the short side has a random length.

    Args:
        short_side_sizes: Lengths of the short side in pixels, one of which is drawn.
        max_size: Longest side in pixels; the short side is less than drawn if the long side would exceed it.
        interp: Interpolation code.
        random_interp: See `RandomResize`.
    """

    def __init__(
        self,
        short_side_sizes: Sequence[int],
        max_size: Optional[int] = None,
        interp: int = 1,
        random_interp: bool = False,
    ):
        if not short_side_sizes or min(short_side_sizes) < 1 or (max_size is not None and max_size < 1):
            raise UserError("RandomShortSideResize: short_side_sizes and max_size must be at least 1 pixel")
        self.short_side_sizes, self.max_size = tuple(short_side_sizes), max_size
        self.interp, self.random_interp = interpolation(interp, "RandomShortSideResize"), random_interp

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        short = self.short_side_sizes[ctx.rng.integers(len(self.short_side_sizes))]
        interp = random_interpolation(ctx) if self.random_interp else self.interp
        target = short_side_size(Size(*sample["image"].shape[:2]), short, self.max_size)
        return resize_sample(sample, target, False, interp)


@register
class BatchRandomResize(BatchTransform):
    """Resizes all images of a batch to one size, which is drawn for each batch.

    Args:
        target_size: A list of sizes, or one size if `random_size` is false.
        keep_ratio: See `Resize`.
        interp: Interpolation code.
        random_size: Draw one of the sizes in `target_size`.
        random_interp: See `RandomResize`.
    """

    def __init__(
        self,
        target_size: int | Sequence[int | Sequence[int]],
        keep_ratio: bool,
        interp: int = 0,
        random_size: bool = True,
        random_interp: bool = False,
    ):
        if random_size and isinstance(target_size, int):
            raise UserError(
                f"BatchRandomResize: target_size {target_size} must be a list of sizes to draw from, "
                "or set random_size: false"
            )
        self.sizes = sizes_of(target_size, random_size, "BatchRandomResize")
        self.interp = interpolation(interp, "BatchRandomResize")
        self.keep_ratio, self.random_interp = keep_ratio, random_interp

    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]:
        target = self.sizes[ctx.rng.integers(len(self.sizes))]
        interp = random_interpolation(ctx) if self.random_interp else self.interp
        return [resize_sample(sample, target, self.keep_ratio, interp) for sample in samples]


def random_interpolation(ctx: Context) -> int:
    """Draw one of the five interpolations."""
    return RANDOM_INTERPOLATIONS[ctx.rng.integers(len(RANDOM_INTERPOLATIONS))]
