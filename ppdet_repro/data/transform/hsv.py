"""Color augmentations in the color space HSV, by OpenCV.

As in PaddleDetection, these treat the RGB image as BGR, unless noted otherwise: hue then turns the other way round.
"""

from __future__ import annotations

from typing import Optional, Sequence

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample, between
from ppdet_repro.utils.errors import UserError


@register
class PhotoMetricDistortion:
    """Changes brightness, contrast, saturation, hue and the order of channels, each with a probability of 0.5.

    The contrast is changed before saturation and hue or after them, at random. The result is float32 and not clipped.

    Args:
        brightness_delta: A number from [-brightness_delta, brightness_delta] is added to all pixels.
        contrast_range: Range of the factor of all pixels.
        saturation_range: Range of the factor of the saturation.
        hue_delta: Degrees from [-hue_delta, hue_delta] are added to the hue.
    """

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: Sequence[float] = (0.5, 1.5),
        saturation_range: Sequence[float] = (0.5, 1.5),
        hue_delta: float = 18,
    ):
        for name, values in (("contrast_range", contrast_range), ("saturation_range", saturation_range)):
            if len(values) != 2:
                raise UserError(f"PhotoMetricDistortion: {name} {list(values)} must be [lowest, highest]")
        self.brightness_delta, self.hue_delta = brightness_delta, hue_delta
        self.contrast_range, self.saturation_range = tuple(contrast_range), tuple(saturation_range)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        rng = ctx.rng
        image = sample["image"].astype(np.float32)
        if rng.integers(2):
            image += np.float32(rng.uniform(-self.brightness_delta, self.brightness_delta))
        early = rng.integers(2)
        if early and rng.integers(2):
            image *= np.float32(between(self.contrast_range, rng))
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if rng.integers(2):
            hsv[..., 1] *= np.float32(between(self.saturation_range, rng))
        if rng.integers(2):
            hsv[..., 0] += np.float32(rng.uniform(-self.hue_delta, self.hue_delta))  # modulo 360
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if not early and rng.integers(2):
            image *= np.float32(between(self.contrast_range, rng))
        if rng.integers(2):
            image = image[..., rng.permutation(3)]
        sample["image"] = image
        return sample


@register
class AugmentHSV:
    """Changes saturation and value by random factors, or hue, saturation and value by random amounts.

    The image is truncated to 8 bits first, and the result is float32. In 8 bits, the hue has 180 steps.

    Args:
        fraction: Without gains, the factors of saturation and value are drawn from [1 - fraction, 1 + fraction].
        is_bgr: Treat the RGB image as BGR.
        hgain, sgain, vgain: With them, amounts from [-gain, gain] are added, each with a probability of 0.5.
    """

    def __init__(
        self,
        fraction: float = 0.5,
        is_bgr: bool = True,
        hgain: Optional[float] = None,
        sgain: Optional[float] = None,
        vgain: Optional[float] = None,
    ):
        given = [gain for gain in (hgain, sgain, vgain) if gain is not None]
        if len(given) not in (0, 3):
            raise UserError("AugmentHSV: give all of hgain, sgain and vgain, or none of them")
        self.fraction, self.is_bgr, self.gains = fraction, is_bgr, np.array(given)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        there = cv2.COLOR_BGR2HSV if self.is_bgr else cv2.COLOR_RGB2HSV
        back = cv2.COLOR_HSV2BGR if self.is_bgr else cv2.COLOR_HSV2RGB
        hsv = cv2.cvtColor(sample["image"].astype(np.uint8), there)
        if len(self.gains):
            amounts = ctx.rng.uniform(-1, 1, 3) * self.gains
            amounts = amounts * ctx.rng.integers(0, 2, 3)
            hsv[..., 0] = (hsv[..., 0] + amounts[0]) % 180
            for channel in (1, 2):
                hsv[..., channel] = np.clip(hsv[..., channel] + amounts[channel], 0, 255)
        else:
            for channel in (1, 2):
                factor = np.float32(ctx.rng.uniform(-1, 1) * self.fraction + 1)
                hsv[..., channel] = np.clip(hsv[..., channel] * factor, 0, 255)
        sample["image"] = cv2.cvtColor(hsv, back).astype(np.float32)
        return sample
