"""Padding the images of a batch to one size, and stacking them."""
from __future__ import annotations

from typing import Sequence

import numpy as np

from ppdet_repro.core.registry import register
from ppdet_repro.data.transform.base import BatchTransform, Context, Sample, SampleTransform
from ppdet_repro.utils.errors import UserError


@register
class PadBatch(BatchTransform):
    """Pad images [C, h, w] at the bottom and the right with zeros to the batch's largest height and
    width, rounded up to a multiple of `pad_to_stride` (0: not rounded).

    After normalisation zero is the mean colour. The images become the rows of one new float32 array
    [B, C, H, W], which is then the batch without another copy.
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


class PadTo(SampleTransform):
    """Pad an image [h, w, C] at the bottom and the right with `fill_value` to `size` (height, width): PaddleDetection's
    deployment `Pad`, for networks of a fixed size. UserError if the image is larger."""

    def __init__(self, size: Sequence[int], fill_value: Sequence[float] = (114.0, 114.0, 114.0)):
        self.size = tuple(size)
        self.fill_value = tuple(fill_value)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        image = sample["image"]
        height, width = image.shape[:2]
        if height > self.size[0] or width > self.size[1]:
            raise UserError(f"an image of {height} x {width} pixels does not fit a network of {self.size}")
        padded = np.empty((*self.size, image.shape[2]), np.float32)
        padded[:] = self.fill_value
        padded[:height, :width] = image
        sample["image"] = padded
        return sample


def stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of one shape along a new first axis, without a copy if they are all rows of one array."""
    base = arrays[0].base
    whole = isinstance(base, np.ndarray) and base.shape == (len(arrays), *arrays[0].shape)
    if whole and all(_where(array) == _where(row) for array, row in zip(arrays, base)):
        return base
    return np.stack(arrays)


def _where(array: np.ndarray) -> tuple:
    return array.ctypes.data, array.strides, array.dtype
