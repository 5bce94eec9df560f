"""Color augmentations. They use Pillow, with which PaddleDetection's published weights were trained."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample


def shift_hue(image: Image.Image, delta: float) -> Image.Image:
    """Add `delta` to the 8-bit hue and truncate to an integer, modulo 256."""
    hue, saturation, value = image.convert("HSV").split()
    shifted = hue.point([int(h + delta) % 256 for h in range(256)])
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")


def scale_brightness(image: Image.Image, factor: float) -> Image.Image:
    """Multiply the brightness: a factor of 0 gives black, 1 the image itself. Values are clipped."""
    return ImageEnhance.Brightness(image).enhance(factor)


def scale_contrast(image: Image.Image, factor: float) -> Image.Image:
    """Multiply the contrast: a factor of 0 gives the mean gray, 1 the image itself."""
    return ImageEnhance.Contrast(image).enhance(factor)


def scale_saturation(image: Image.Image, factor: float) -> Image.Image:
    """Multiply the saturation: a factor of 0 gives the grayscale image, 1 the image itself."""
    return ImageEnhance.Color(image).enhance(factor)


@register
class RandomDistort:
    """Changes brightness, contrast, saturation and hue at random.

    The image is uint8 or float32. It is truncated to 8 bits first, and the result is float32.

    As in PaddleDetection, the third number of each parameter is the probability that the change is NOT made, and
    `brightness` is a factor even in configs that seem to give it in pixel values ([-32, 32]).

    Args:
        hue: [low, high, probability]. The change is drawn from [low, high].
        saturation, contrast, brightness: [low, high, probability]. The factor is drawn from [low, high].
        random_apply: Make the first `count` of the four changes in random order. Otherwise the order is brightness,
            saturation, hue, with contrast either after brightness or at the end.
        count: Number of changes with `random_apply`.
        random_channel: Without `random_apply`, permute the channels with a probability of 0.5.
        prob: Probability of doing anything.
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
        for change, (low, high, skip) in steps:
            if rng.random() >= skip:
                image = change(image, rng.uniform(low, high))
        pixels = np.asarray(image).astype(np.float32)
        if self.random_channel and not self.random_apply and rng.random() < 0.5:
            pixels = pixels[..., rng.permutation(3)]
        sample["image"] = pixels
        return sample
