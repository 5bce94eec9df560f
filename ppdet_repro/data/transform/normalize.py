"""From pixel values to the input of a network: normalization, and channels first."""

from __future__ import annotations

from typing import Literal, Sequence

import cv2
import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import Context, Sample
from ppdet_repro.utils.errors import UserError


def normalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float], is_scale: bool) -> np.ndarray:
    """Compute ((image / 255 if is_scale else image) - mean) / std for an image [H, W, C]. Returns a new float32 array.

    As in PaddleDetection, the scaling is done in float32. The subtraction and the division are each done in float64
    and rounded to float32. The result is stored channels first, so that `Permute` need not copy it.
    """
    height, width, channels = image.shape
    planes = np.empty((channels, height, width), np.float32)
    for c, plane in enumerate(planes):
        np.multiply(image[..., c], np.float32(1 / 255 if is_scale else 1), out=plane, casting="same_kind")
        np.subtract(plane, mean[c], out=plane, dtype=np.float64, casting="same_kind")
        np.divide(plane, std[c], out=plane, dtype=np.float64, casting="same_kind")
    return planes.transpose(1, 2, 0)


def apply_tables(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Map the values of an image [H, W, C] uint8 with one table per channel, `tables` [C, 256] float32.

    Returns an array [H, W, C] float32, stored channels first.
    """
    height, width, channels = image.shape
    planes = np.empty((channels, height, width), np.float32)
    for channel, table, plane in zip(cv2.split(image), tables, planes):
        cv2.LUT(channel, table, dst=plane)
    return planes.transpose(1, 2, 0)


@register
class NormalizeImage:
    """Scales pixel values to [0, 1] if `is_scale`, subtracts `mean` and divides by `std` unless `norm_type` is none.

    The image is [H, W, C] uint8 or float32 and becomes float32. For 8-bit images, the 256 possible values are
    normalized once and looked up in a table. This is faster and gives bit for bit the same result.
    """

    def __init__(
        self,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        is_scale: bool = True,
        norm_type: Literal["mean_std", "none"] = "mean_std",
    ):
        if len(mean) != len(std) or not all(std):
            raise UserError(
                f"NormalizeImage: mean {list(mean)} and std {list(std)} need one value per channel; std must not be 0"
            )
        self.mean, self.std, self.is_scale, self.norm_type = tuple(mean), tuple(std), is_scale, norm_type
        values = np.arange(256, dtype=np.float32).reshape(1, 256, 1)
        self._tables = np.ascontiguousarray(self._normalize(values.repeat(len(mean), axis=2))[0].T)

    def _normalize(self, image: np.ndarray) -> np.ndarray:
        channels = len(self.mean)
        mean, std = ([0.0] * channels, [1.0] * channels) if self.norm_type == "none" else (self.mean, self.std)
        return normalize(image, mean, std, self.is_scale)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        image, expected = sample["image"], len(self.mean)
        if image.shape[2] != expected:
            raise UserError(f"NormalizeImage: the image has {image.shape[2]} channels, mean has {expected} values")
        is_8_bit = image.dtype == np.uint8
        sample["image"] = apply_tables(image, self._tables) if is_8_bit else self._normalize(image)
        return sample


@register
class Permute:
    """Moves the channels first: image [H, W, C] -> [C, H, W], as a view."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        sample["image"] = sample["image"].transpose(2, 0, 1)
        return sample
