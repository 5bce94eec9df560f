"""What a transform is: a function of one sample (or of a batch's samples) and a context.

A sample is a dict: image [H, W, 3] RGB, gt_bbox [G, 4] float32 (x1, y1, x2, y2 in pixels),
gt_class, is_crowd, difficult [G, 1] int32, gt_score [G, 1] float32, im_id [1], im_file, h, w,
im_shape and scale_factor [2] float32, ordered (y, x). Transforms may change the dict that they are
given, but not the image array in it: a caller may still own that.

This package knows numpy, OpenCV and Pillow, never Paddle, so that deployment can use it alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Iterator, NamedTuple, Optional, Protocol, Sequence

import numpy as np

from ppdet_repro.utils.errors import UserError

Sample = dict[str, Any]

PER_BOX = ("gt_bbox", "gt_class", "gt_score", "is_crowd", "difficult")


class Context(NamedTuple):
    """What a transform may know besides the sample.

    rng       the only source of randomness
    progress  how far training is, 0 at its start, 1 at its end
    draw      gives another random sample, taken through the transforms that come before the current
              one; None where there is no data set to draw from
    """

    rng: np.random.Generator
    progress: float = 0.0
    draw: Optional[Callable[[], Sample]] = None


class SampleTransform(Protocol):
    """Maps a sample to a sample."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample: ...


class BatchTransform(ABC):
    """Maps the samples of one batch to as many samples; needs to see them together."""

    @abstractmethod
    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]: ...


class ImageError(Exception):
    """An image file that cannot be used: `ImageError(path, im_id, reason)`."""

    def __init__(self, path: str, im_id: Optional[int], reason: str):
        super().__init__(path, im_id, reason)
        self.path, self.im_id, self.reason = path, im_id, reason

    def __str__(self) -> str:
        return f"image {self.path} (im_id {self.im_id}): {self.reason}"


class TransformError(RuntimeError):
    """A transform failed in a way that it did not foresee; the message names it and the image."""


class Compose:
    """Sample transforms one after another; `ctx.draw` gives what came before the one that asks.

    Raises:
        ImageError, UserError: as the transforms raise them.
        TransformError: for any other failure, naming transform and image.
    """

    def __init__(self, transforms: Sequence[SampleTransform]):
        self.transforms = list(transforms)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        return self._run(len(self.transforms), sample, ctx)

    def _run(self, count: int, sample: Sample, ctx: Context) -> Sample:
        name = describe(sample)
        for i, transform in enumerate(self.transforms[:count]):
            draw = None if ctx.draw is None else partial(self._draw, i, ctx)
            with _failures_named(transform, name):
                sample = transform(sample, ctx._replace(draw=draw))
        return sample

    def _draw(self, count: int, ctx: Context) -> Sample:
        return self._run(count, ctx.draw(), ctx)


def apply_to_batch(
    transforms: Sequence[SampleTransform | BatchTransform], samples: list[Sample], ctx: Context
) -> list[Sample]:
    """Batch transforms one after another; a sample transform among them is applied to each sample.

    Raises:
        UserError, TransformError: as `Compose`.
    """
    for transform in transforms:
        if isinstance(transform, BatchTransform):
            with _failures_named(transform, f"the batch of im_ids {[image_id(s) for s in samples]}"):
                samples = transform(samples, ctx)
        else:
            samples = [Compose([transform])(sample, ctx) for sample in samples]
    return samples


@contextmanager
def _failures_named(transform: SampleTransform | BatchTransform, what: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, UserError, TransformError):
        raise
    except Exception as error:
        raise TransformError(f"{type(transform).__name__} failed on {what}: {type(error).__name__}: {error}") from error


def describe(sample: Sample) -> str:
    """The image's name for a message: its file and id."""
    return f"image {sample.get('im_file', 'in memory')} (im_id {image_id(sample)})"


def image_id(sample: Sample) -> Optional[int]:
    """The sample's `im_id` as a number, None where it has none."""
    return int(np.ravel(sample["im_id"])[0]) if "im_id" in sample else None


def select_boxes(sample: Sample, keep: np.ndarray) -> None:
    """Keep the boxes that `keep` [G] bool or [K] int names, in every per-box entry."""
    for key in PER_BOX:
        if key in sample:
            sample[key] = sample[key][keep]
