"""Resizing: to a fixed size, to a random one, or a whole batch to one random size.

Interpolation codes are OpenCV's: 0 nearest, 1 bilinear, 2 cubic, 3 area, 4 Lanczos.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import BatchTransform, Context, Sample
from ppdet_repro.utils.errors import UserError

RANDOM_INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


class Size(NamedTuple):
    """An image's size in pixels."""

    height: int
    width: int


def resized_size(size: Size, target: Size, keep_ratio: bool) -> Size:
    """The size that an image of `size` is resized to.

    With keep_ratio the short side becomes the target's short side, unless the long side would then
    exceed the target's long side (which then decides); sides are rounded to the nearest pixel. Which
    of the target's two numbers is the height does not matter then.
    """
    if not keep_ratio:
        return target
    scale = min(min(target) / min(size), max(target) / max(size))
    return Size(int(scale * size.height + 0.5), int(scale * size.width + 0.5))


def scale_to_fit(size: Size, target: Size) -> float:
    """The one scale of both sides with which PaddleDetection's deployment fits an image of `size` into `target`: that
    of the short side, or that of the long one if it would come out longer than the target's after rounding."""
    scale = min(target) / min(size)
    return max(target) / max(size) if round(scale * max(size)) > max(target) else scale


def resize_sample(sample: Sample, target: Size, keep_ratio: bool, interp: int, one_scale: bool = False) -> Sample:
    """Resize a sample's image (which keeps its dtype), scale its boxes, clip them to the image. See `Resize`."""
    size = Size(*sample["image"].shape[:2])
    if keep_ratio and one_scale:
        scale_y = scale_x = scale_to_fit(size, target)
    else:
        new = resized_size(size, target, keep_ratio)
        scale_y, scale_x = new.height / size.height, new.width / size.width
    sample["image"] = cv2.resize(sample["image"], None, fx=scale_x, fy=scale_y, interpolation=interp)
    new = Size(*sample["image"].shape[:2])
    sample["im_shape"] = np.array(new, np.float32)
    before = sample.get("scale_factor", (1.0, 1.0))
    sample["scale_factor"] = np.array([before[0] * scale_y, before[1] * scale_x], np.float32)
    if "gt_bbox" in sample:
        boxes = sample["gt_bbox"] * np.array([scale_x, scale_y] * 2, np.float32)
        sample["gt_bbox"] = np.clip(boxes, 0, np.array(new[::-1] * 2, np.float32))
    return sample


def size_of(value: int | Sequence[int], owner: str) -> Size:
    """A size from YAML: a number means a square.

    Raises:
        UserError: it is neither a positive integer nor two of them.
    """
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"{owner}: target_size {value!r} is not a size; give a positive integer or [height, width]")
    return Size(*sides)


def interpolation(code: int, owner: str) -> int:
    """A checked interpolation code.

    Raises:
        UserError: OpenCV has no such code.
    """
    if code not in RANDOM_INTERPOLATIONS:
        raise UserError(
            f"{owner}: interp {code!r} is not known; use 0 (nearest), 1 (bilinear), 2 (cubic), 3 (area) or 4 (Lanczos)"
        )
    return code


@register
class Resize:
    """Resize to `target_size` (height, width), or fit into it with keep_ratio.

    im_shape becomes the new size, scale_factor is multiplied by the scales (y, x). An 8-bit image
    stays 8-bit: its values are those of PaddleDetection, which casts them to float32 here.

    one_scale   with keep_ratio, both sides by the one scale that fits, as PaddleDetection's deployment does. Without
                it each side by the scale that makes it whole pixels, as its training and evaluation do. The pictures
                are of one size, what they show is apart by up to half a pixel.
    """

    def __init__(self, target_size: int | Sequence[int], keep_ratio: bool, interp: int = 1, one_scale: bool = False):
        self.target_size = size_of(target_size, "Resize")
        self.keep_ratio = keep_ratio
        self.interp = interpolation(interp, "Resize")
        self.one_scale = one_scale

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        return resize_sample(sample, self.target_size, self.keep_ratio, self.interp, self.one_scale)


@register
class RandomResize:
    """Resize each image to a size of its own, drawn anew each time.

    random_size   one of the sizes in `target_size`, a list
    random_range  `target_size` is [[shortest, long], [longest, long]]: the short side is drawn from
                  shortest..longest, and the long side may reach max(first long, second long + 1),
                  PaddleDetection's bound
    random_interp one of the five interpolations instead of `interp`
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
        if random_range or random_size:
            self.sizes = [size_of(size, "RandomResize") for size in target_size]
        else:
            self.sizes = [size_of(target_size, "RandomResize")]
        if random_range and len(self.sizes) != 2:
            raise UserError("RandomResize: with random_range, target_size is [[shortest, long], [longest, long]]")
        self.keep_ratio = keep_ratio
        self.interp = interpolation(interp, "RandomResize")
        self.random_range = random_range
        self.random_interp = random_interp

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if self.random_range:
            (shortest, long), (longest, other_long) = self.sizes
            target = Size(int(ctx.rng.integers(shortest, longest + 1)), max(long, other_long + 1))
        else:
            target = self.sizes[ctx.rng.integers(len(self.sizes))]
        interp = random_interpolation(ctx) if self.random_interp else self.interp
        return resize_sample(sample, target, self.keep_ratio, interp)


@register
class BatchRandomResize(BatchTransform):
    """Resize all images of a batch to one size, drawn for each batch.

    random_size   one of the sizes in the list `target_size`; otherwise `target_size` itself
    random_interp one of the five interpolations instead of `interp`
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
        sizes = target_size if random_size else [target_size]
        self.sizes = [size_of(size, "BatchRandomResize") for size in sizes]
        self.keep_ratio = keep_ratio
        self.interp = interpolation(interp, "BatchRandomResize")
        self.random_interp = random_interp

    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]:
        target = self.sizes[ctx.rng.integers(len(self.sizes))]
        interp = random_interpolation(ctx) if self.random_interp else self.interp
        return [resize_sample(sample, target, self.keep_ratio, interp) for sample in samples]


def random_interpolation(ctx: Context) -> int:
    """One of the five interpolations."""
    return RANDOM_INTERPOLATIONS[ctx.rng.integers(len(RANDOM_INTERPOLATIONS))]
