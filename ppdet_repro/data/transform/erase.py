"""Augmentations that hide parts of an image: Cutout, GridMask and random erasing."""

from __future__ import annotations

import math
from typing import Literal, Sequence

import cv2
import numpy as np
from PIL import Image

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample
from ppdet_repro.utils.errors import UserError


@register
class Cutout:
    """Covers squares of the image with one color (DeVries and Taylor, Cutout, section 3.2).

    The center of a square is any pixel, so the square may reach over the border. Boxes do not change.

    Args:
        count: Number of squares.
        size: Side of a square relative to the image's short side. (The paper's 16 of 32 pixels are 0.5.)
        fill_value: RGB. The default is the mean color, which normalization turns into the paper's zero.
        prob: Probability of doing anything.
    """

    def __init__(
        self,
        count: int = 1,
        size: float = 0.5,
        fill_value: Sequence[float] = (123.675, 116.28, 103.53),
        prob: float = 1.0,
    ):
        if not 0 < size <= 1:
            raise UserError(f"Cutout: size {size} is relative to the image's short side and must lie within (0, 1]")
        self.count, self.size, self.fill_value, self.prob = count, size, tuple(fill_value), prob

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() >= self.prob:
            return sample
        image = sample["image"].copy()
        height, width = image.shape[:2]
        side = max(1, round(self.size * min(height, width)))
        for _ in range(self.count):
            y1 = int(ctx.rng.integers(height)) - side // 2
            x1 = int(ctx.rng.integers(width)) - side // 2
            image[max(y1, 0) : y1 + side, max(x1, 0) : x1 + side] = self.fill_value
        sample["image"] = image
        return sample


def stripes(length: int, period: int, width: int, start: int) -> np.ndarray:
    """Mark length // period stripes of `width` pixels, one per `period`, the first at `start`: [length] bool."""
    covered = np.zeros(length, bool)
    for i in range(length // period):
        covered[i * period + start : i * period + start + width] = True
    return covered


@register
class GridMask:
    """Sets a grid of squares, or everything except such a grid, to zero (GridMask, section 3).

    The period of the grid is drawn from [2, height). The mask is made half as large again as the image and cropped at
    its center.

    The probability of doing anything is prob * progress, so it grows during training. (In PaddleDetection, it grows
    with the number of samples that one worker has drawn, up to `upper_iter`.)

    Args:
        use_h, use_w: Use horizontal and vertical stripes.
        rotate: Rotate the grid by an integer number of degrees drawn from [0, rotate).
        offset: Fill hidden pixels with noise from [-1, 1] instead of zero.
        ratio: Width of a stripe relative to the period.
        mode: 1 hides the squares between the stripes, 0 hides the stripes.
        prob: Probability at the end of training.
        upper_iter: Accepted for compatibility, without effect.
    """

    def __init__(
        self,
        use_h: bool = True,
        use_w: bool = True,
        rotate: int = 1,
        offset: bool = False,
        ratio: float = 0.5,
        mode: Literal[0, 1] = 1,
        prob: float = 0.7,
        upper_iter: int = 360000,
    ):
        self.use_h, self.use_w, self.rotate, self.offset = use_h, use_w, rotate, offset
        self.ratio, self.mode, self.prob = ratio, mode, prob

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() >= self.prob * ctx.progress:
            return sample
        image = sample["image"]
        keep = self.mask(image.shape[0], image.shape[1], ctx.rng)
        if self.offset:
            noise = ctx.rng.uniform(-1, 1, image.shape[:2]).astype(np.float32)
            sample["image"] = np.where(keep[..., None], image, noise[..., None]).astype(image.dtype)
        else:
            sample["image"] = cv2.copyTo(image, keep.astype(np.uint8))
        return sample

    def mask(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the mask [height, width] bool of the pixels that stay visible."""
        tall, wide = int(1.5 * height), int(1.5 * width)
        period = int(rng.integers(2, height))
        stripe = min(max(int(period * self.ratio + 0.5), 1), period - 1)
        start_h, start_w = (int(start) for start in rng.integers(period, size=2))
        covered = np.zeros((tall, wide), bool)
        if self.use_h:
            covered |= stripes(tall, period, stripe, start_h)[:, None]
        if self.use_w:
            covered |= stripes(wide, period, stripe, start_w)[None, :]
        rotated = np.asarray(Image.fromarray(np.uint8(~covered)).rotate(int(rng.integers(self.rotate))))
        top, left = (tall - height) // 2, (wide - width) // 2
        free = rotated[top : top + height, left : left + width].astype(bool)
        return ~free if self.mode == 1 else free


@register
class RandomErasingImage:
    """Sets a rectangle in each box to zero, each with probability `prob`.

    A rectangle that is as high or as wide as its box is not erased. The boxes do not change.
    Source: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020, section on object detection.

    Args:
        prob: Probability per box.
        lower, higher: Range of the rectangle's area relative to that of the box.
        aspect_ratio: Height over width is drawn from [aspect_ratio, 1 / aspect_ratio].
    """

    def __init__(self, prob: float = 0.5, lower: float = 0.02, higher: float = 0.4, aspect_ratio: float = 0.3):
        if not 0 <= lower <= higher or aspect_ratio <= 0:
            raise UserError(
                f"RandomErasingImage: lower {lower} must be at least 0 and at most higher {higher}, and aspect_ratio "
                f"{aspect_ratio} above 0"
            )
        self.prob, self.lower, self.higher, self.aspect_ratio = prob, lower, higher, aspect_ratio

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        image = sample["image"].copy()
        for x1, y1, x2, y2 in sample["gt_bbox"].tolist():
            if ctx.rng.random() >= self.prob:
                continue
            area = ctx.rng.uniform(self.lower, self.higher) * (x2 - x1) * (y2 - y1)
            ratio = ctx.rng.uniform(self.aspect_ratio, 1 / self.aspect_ratio)
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if width < x2 - x1 and height < y2 - y1:
                y = y1 + int(ctx.rng.integers(int(y2 - y1 - height) + 1))
                x = x1 + int(ctx.rng.integers(int(x2 - x1 - width) + 1))
                image[max(0, int(y)) : max(0, int(y + height)), max(0, int(x)) : max(0, int(x + width))] = 0
        sample["image"] = image
        return sample
