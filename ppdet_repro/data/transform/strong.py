"""Strong augmentations of semi-supervised training, which do not move boxes.

The numbers are those of the functions of Paddle that PaddleDetection calls.
"""

from __future__ import annotations

import math
from typing import Any, Sequence

import cv2
import numpy as np

from ppdet_repro.core.registry import Part, register
from ppdet_repro.data.transform.base import Compose, Context, Sample, between
from ppdet_repro.utils.errors import UserError

MIDDLE_GRAY = 74  # the fixed point of a change of contrast


def by_table(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Map 8-bit values by a table [256], clipped and truncated."""
    return cv2.LUT(image, values.clip(0, 255).astype(np.uint8))


def jitter_brightness(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Multiply an image, uint8, by a factor from [1 - strength, 1 + strength]."""
    return by_table(image, np.arange(256) * rng.uniform(max(0, 1 - strength), 1 + strength))


def jitter_contrast(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Multiply the distance from gray by a factor from [1 - strength, 1 + strength]."""
    factor = rng.uniform(max(0, 1 - strength), 1 + strength)
    return by_table(image, (np.arange(256) - MIDDLE_GRAY) * factor + MIDDLE_GRAY)


def jitter_saturation(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Multiply the distance from the gray image by a factor that is drawn twice, as in Paddle.

    A first number `s` is drawn from [1 - strength, 1 + strength], and the factor from [1 - s, 1 + s].
    """
    first = rng.uniform(max(0, 1 - strength), 1 + strength)
    factor = np.float32(rng.uniform(max(0, 1 - first), 1 + first))
    pixels = image.astype(np.float32)
    gray = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)[..., None]
    return (pixels * factor + gray * (1 - factor)).clip(0, 255).astype(np.uint8)


def jitter_hue(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Turn the hue by up to `strength` of the circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
    shift = int(rng.uniform(-strength, strength) * 255)
    hsv[..., 0] = (hsv[..., 0].astype(np.int32) + shift) % 256
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


@register
class RandomColorJitter:
    """With probability `prob`, changes brightness, contrast, saturation and hue in random order.

    The image is truncated to 8 bits first, and the result is float32.

    Args:
        prob: Probability of doing anything.
        brightness, contrast, saturation: The factor is drawn from [1 - value, 1 + value].
        hue: The change is drawn from [-hue, hue], as a part of the circle of hues; at most 0.5.
    """

    def __init__(
        self,
        prob: float = 0.8,
        brightness: float = 0.4,
        contrast: float = 0.4,
        saturation: float = 0.4,
        hue: float = 0.1,
    ):
        if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
            raise UserError("RandomColorJitter: the strengths must be at least 0, and hue at most 0.5")
        self.prob = prob
        changes = (jitter_brightness, jitter_contrast, jitter_saturation, jitter_hue)
        self.changes = list(zip(changes, (brightness, contrast, saturation, hue)))

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() >= self.prob:
            return sample
        image = sample["image"].astype(np.uint8)
        for i in ctx.rng.permutation(len(self.changes)):
            change, strength = self.changes[i]
            if strength:
                image = change(image, strength, ctx.rng)
        sample["image"] = image.astype(np.float32)
        return sample


@register
class RandomGrayscale:
    """Makes the image gray with probability `prob`."""

    def __init__(self, prob: float = 0.2):
        self.prob = prob

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() < self.prob:
            gray = cv2.cvtColor(sample["image"], cv2.COLOR_RGB2GRAY)
            sample["image"] = cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)
        return sample


@register
class RandomGaussianBlur:
    """With probability `prob`, blurs the image; the standard deviation is drawn from `sigma`, in pixels."""

    def __init__(self, prob: float = 0.5, sigma: Sequence[float] = (0.1, 2.0)):
        if len(sigma) != 2 or not 0 < sigma[0] <= sigma[1]:
            raise UserError(f"RandomGaussianBlur: sigma {list(sigma)} must be [lowest, highest] with numbers above 0")
        self.prob, self.sigma = prob, tuple(sigma)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        if ctx.rng.random() < self.prob:
            sample["image"] = cv2.GaussianBlur(sample["image"], (23, 23), between(self.sigma, ctx.rng))
        return sample


@register
class RandomErasingCrop:
    """Covers up to three rectangles of the image, of 5 to 20 % of its area each, with noise.

    The probabilities are 0.7, 0.5 and 0.3, and height over width is drawn, on a logarithmic scale, from [0.3, 3.3],
    [0.1, 6] and [0.05, 8]. A rectangle that does not fit into the image is left out. The noise is normally distributed
    with a standard deviation of 255; the image, which is 8-bit, takes it modulo 256.
    """

    RECTANGLES = ((0.7, (0.3, 3.3)), (0.5, (0.1, 6.0)), (0.3, (0.05, 8.0)))

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        rng = ctx.rng
        height, width = sample["image"].shape[:2]
        for prob, (lowest, highest) in self.RECTANGLES:
            if rng.random() >= prob:
                continue
            area = rng.uniform(0.05, 0.2) * height * width
            ratio = math.exp(rng.uniform(math.log(lowest), math.log(highest)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                noise = (rng.normal(size=(h, w, 3)) * 255).astype(np.int32)
                y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                image = sample["image"].astype(np.uint8)
                image[y : y + h, x : x + w] = noise % 256
                sample["image"] = image
        return sample


@register
class StrongAugImage:
    """Applies transforms that move no boxes. The image is truncated to 8 bits before and after them.

    Args:
        transforms: the transforms, applied in this order
    """

    def __init__(self, transforms: list[Part[Any]]):
        self.transforms = Compose(transforms)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        sample["image"] = sample["image"].astype(np.uint8)
        sample = self.transforms(sample, ctx)
        sample["image"] = sample["image"].astype(np.uint8)
        return sample
