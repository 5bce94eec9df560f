"""Padding one image, or all images of a batch, to one size; stacking arrays into a batch."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import BatchTransform, Context, Sample, describe
from ppdet_repro.data.transform.resize import size_of
from ppdet_repro.utils.errors import UserError


@register
class Pad:
    """Pads an image [h, w, 3] at the bottom and the right to `size` (height, width) with `fill_value` (RGB).

    After Resize with keep_ratio, this gives a letterboxed image. `im_shape` keeps the size without padding, so that
    detections are clipped to it. The data type of the image does not change.
    """

    def __init__(self, size: int | Sequence[int], fill_value: Sequence[int] = (114, 114, 114)):
        self.size = size_of(size, "Pad")
        self.fill_value = tuple(fill_value)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        image = sample["image"]
        height, width = image.shape[:2]
        if height > self.size.height or width > self.size.width:
            raise UserError(
                f"Pad: {describe(sample)} is {height} x {width}, more than {self.size.height} x {self.size.width}; "
                "put a Resize with keep_ratio before it"
            )
        padded = np.empty((*self.size, image.shape[2]), image.dtype)
        padded[:] = self.fill_value
        padded[:height, :width] = image
        sample["image"] = padded
        return sample


@register
class PadBatch(BatchTransform):
    """Pads the images [C, h, w] of a batch at the bottom and the right to the batch's largest height and width.

    Both are rounded up to a multiple of `pad_to_stride`, unless that is 0. The padding is 0, which is the mean color
    of normalized images. The images become views of one new float32 array [B, C, H, W]; `stack` returns that array
    without copying it.
    """

    def __init__(self, pad_to_stride: int = 0):
        self.pad_to_stride = pad_to_stride

    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]:
        sizes = np.array([sample["image"].shape for sample in samples])  # [B, 3]
        channels, height, width = sizes.max(axis=0)
        if self.pad_to_stride > 0:
            height, width = (-(-side // self.pad_to_stride) * self.pad_to_stride for side in (height, width))
        batch = np.zeros((len(samples), channels, height, width), np.float32)
        for sample, row in zip(samples, batch):
            _, h, w = sample["image"].shape
            row[:, :h, :w] = sample["image"]
            sample["image"] = row
        return samples


def stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays of one shape along a new first axis. If they are the rows of one array, that array is returned."""
    base = arrays[0].base
    if (
        isinstance(base, np.ndarray)
        and base.shape == (len(arrays), *arrays[0].shape)
        and all(_memory(array) == _memory(row) for array, row in zip(arrays, base))
    ):
        return base
    return np.stack(arrays)


def _memory(array: np.ndarray) -> tuple:
    return array.ctypes.data, array.strides, array.dtype
