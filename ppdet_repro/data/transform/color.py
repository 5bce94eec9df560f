"""Changes of colour, with Pillow's arithmetic, which PaddleDetection's trained weights have seen."""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample


def shift_hue(image: Image.Image, delta: float) -> Image.Image:
    """Add `delta` to the 8-bit hue, cut to a whole number; the circle of hues closes at 256."""
    hue, saturation, value = image.convert("HSV").split()
    shifted = hue.point([int(h + delta) % 256 for h in range(256)])
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")


def scale_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Blend from black: 0 is black, 1 the image; the values are clipped beyond."""
    return ImageEnhance.Brightness(image).enhance(factor)


def scale_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Blend from the mean grey: 0 is grey, 1 the image."""
    return ImageEnhance.Contrast(image).enhance(factor)


def scale_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Blend from the grey image: 0 is grey, 1 the image."""
    return ImageEnhance.Color(image).enhance(factor)


@register
class RandomDistort:
    """Random brightness, contrast, saturation and hue; image uint8 or float32 (cut to 8 bits first),
    result float32.

    hue, saturation, contrast, brightness
                    [low, high, probability]: the change is drawn from [low, high]. Quirk of
                    PaddleDetection, kept: with this probability nothing happens, and `brightness` is
                    a factor even where configs give it in pixels ([-32, 32])
    random_apply    the first `count` of the four in random order; otherwise brightness, saturation,
                    hue, with contrast before or after the last two by a coin
    random_channel  permute the channels half the time (not with random_apply)
    prob            of distorting at all
    """

    def __init__(
        self,
        hue: Sequence[float] = (-18, 18, 0.5),
        saturation: Sequence[float] = (0.5, 1.5, 0.5),
        contrast: Sequence[float] = (0.5, 1.5, 0.5),
        brightness: Sequence[float] = (0.5, 1.5, 0.5),
        random_apply: bool = True,
        count: int = 4,
        random_channel: bool = False,
        prob: float = 1.0,
    ):
        self.hue, self.saturation, self.contrast, self.brightness = hue, saturation, contrast, brightness
        self.random_apply, self.count = random_apply, count
        self.random_channel, self.prob = random_channel, prob

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        rng = ctx.rng
        if rng.random() >= self.prob:
            return sample
        brightness = (scale_brightness, self.brightness)
        contrast = (scale_contrast, self.contrast)
        saturation = (scale_saturation, self.saturation)
        hue = (shift_hue, self.hue)
        if self.random_apply:
            steps = [brightness, contrast, saturation, hue]
            steps = [steps[i] for i in rng.permutation(4)[: self.count]]
        elif rng.random() < 0.5:
            steps = [brightness, contrast, saturation, hue]
        else:
            steps = [brightness, saturation, hue, contrast]
        image = Image.fromarray(sample["image"].astype(np.uint8))
        for change, limits in steps:
            image = _maybe(change, image, limits, rng)
        pixels = np.asarray(image).astype(np.float32)
        if self.random_channel and not self.random_apply and rng.random() < 0.5:
            pixels = pixels[..., rng.permutation(3)]
        sample["image"] = pixels
        return sample


def _maybe(
    change: Callable[[Image.Image, float], Image.Image],
    image: Image.Image,
    limits: Sequence[float],
    rng: np.random.Generator,
) -> Image.Image:
    low, high, skip = limits
    return image if rng.random() < skip else change(image, rng.uniform(low, high))
