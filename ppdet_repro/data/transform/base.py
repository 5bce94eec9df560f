"""The sample, and the interface of the transforms that change it.

A transform is a function of one sample, or of the samples of one batch, and of a `Context`. It may change the
dictionary that it is given, but not the image array in it, which the caller may still use.

This package uses NumPy, OpenCV and Pillow, but never Paddle, so that deployment can use it alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Literal, NamedTuple, Optional, Protocol, TypedDict, Union, get_args

import numpy as np

from ppdet_repro.utils.errors import UserError


class Sample(TypedDict, total=False):
    """One image and its annotations on the way from a data source to a batch.

    H, W image size; G ground truth boxes. Pairs of sizes and scales are ordered (y, x).
    """

    image: np.ndarray  # [H, W, 3] RGB, uint8 or float32; [3, H, W] after Permute. Decode also accepts encoded bytes
    im_file: str
    im_id: np.ndarray  # [1] int64
    h: float  # size of the image as it was decoded
    w: float
    im_shape: np.ndarray  # [2] float32: size after resizing, without padding
    scale_factor: np.ndarray  # [2] float32: resized over original size

    gt_bbox: np.ndarray  # [G, 4] float32, xyxy, pixels of `image`
    gt_class: np.ndarray  # [G, 1] int32 ([G] after PadBox)
    gt_score: np.ndarray  # [G, 1] float32 ([G] after PadBox): the weight that Mixup or Cutmix gives
    is_crowd: np.ndarray  # [G, 1] int32 ([G] after PadBox)
    difficult: np.ndarray  # [G, 1] int32 ([G] after PadBox)
    gt_poly: list[Any]  # G `segmentation` entries of COCO annotations
    gt_xyxy_relative: np.ndarray  # [G, 4] float32, xyxy over the image's width and height (NormalizeBox)
    gt_cxcywh_relative: np.ndarray  # [G, 4] float32, center and size over the same (BboxXYXY2XYWH)

    # Training targets; see Gt2YoloTarget and Gt2TTFTarget.
    target0: np.ndarray
    target1: np.ndarray
    target2: np.ndarray
    ttf_heatmap: np.ndarray
    ttf_box_target: np.ndarray
    ttf_reg_weight: np.ndarray
    ttf_score: np.ndarray


BoxField = Literal["gt_bbox", "gt_class", "gt_score", "is_crowd", "difficult", "gt_xyxy_relative", "gt_cxcywh_relative"]
PER_BOX: tuple[BoxField, ...] = get_args(BoxField)
"""The entries of a sample that have one row per ground truth box."""


class Context(NamedTuple):
    """What a transform may use besides the sample."""

    rng: np.random.Generator  # the only source of randomness
    progress: float = 0.0  # fraction of the training that is done, from 0 to 1
    draw: Optional[Callable[[], Sample]] = None
    """Returns another random sample, which went through the transforms that precede the current one; None if there
    is no dataset to draw from."""


class SampleTransform(Protocol):
    """Maps one sample to one sample."""

    def __call__(self, sample: Sample, ctx: Context) -> Sample: ...


class BatchTransform(ABC):
    """Maps the samples of one batch to equally many samples, for transforms that must see the whole batch."""

    @abstractmethod
    def __call__(self, samples: list[Sample], ctx: Context) -> list[Sample]: ...


AnyTransform = Union[SampleTransform, BatchTransform]


class ImageError(Exception):
    """An image file cannot be used: `ImageError(path, im_id, reason)`."""

    def __init__(self, path: str, im_id: Optional[int], reason: str):
        super().__init__(path, im_id, reason)
        self.path, self.im_id, self.reason = path, im_id, reason

    def __str__(self) -> str:
        number = "" if self.im_id is None else f" (im_id {self.im_id})"
        return f"image {self.path}{number}: {self.reason}"


class TransformError(RuntimeError):
    """A transform raised an unexpected exception. The message names the transform and the image."""


class Compose:
    """Applies sample transforms one after another.

    A transform that calls `ctx.draw` gets a sample to which the transforms before it have been applied. ImageError and
    UserError are passed on unchanged, any other exception of a transform becomes a TransformError.
    """

    def __init__(self, transforms: Sequence[SampleTransform]):
        self.transforms = list(transforms)

    def __call__(self, sample: Sample, ctx: Context) -> Sample:
        return self._run(len(self.transforms), sample, ctx)

    def _run(self, count: int, sample: Sample, ctx: Context) -> Sample:
        name = describe(sample)
        for i, transform in enumerate(self.transforms[:count]):
            draw = None if ctx.draw is None else partial(self._draw, i, ctx.draw, ctx)
            with _failures_named(transform, name):
                sample = transform(sample, ctx._replace(draw=draw))
        return sample

    def _draw(self, count: int, draw: Callable[[], Sample], ctx: Context) -> Sample:
        return self._run(count, draw(), ctx)


def apply_to_batch(transforms: Sequence[AnyTransform], samples: list[Sample], ctx: Context) -> list[Sample]:
    """Apply transforms one after another to the samples of a batch. Sample transforms are applied to each sample.

    Errors are those of `Compose`.
    """
    for transform in transforms:
        if isinstance(transform, BatchTransform):
            with _failures_named(transform, f"the batch of im_ids {[image_id(s) for s in samples]}"):
                samples = transform(samples, ctx)
        else:
            samples = [Compose([transform])(sample, ctx) for sample in samples]
    return samples


@contextmanager
def _failures_named(transform: AnyTransform, what: str) -> Iterator[None]:
    try:
        yield
    except (ImageError, UserError, TransformError):
        raise
    except Exception as error:
        raise TransformError(f"{type(transform).__name__} failed on {what}: {type(error).__name__}: {error}") from error


def between(limits: Sequence[float], rng: np.random.Generator) -> float:
    """Draw a number from [lowest, highest]."""
    lowest, highest = limits
    return rng.uniform(lowest, highest)


def describe(sample: Sample) -> str:
    """Name a sample's image in a message, by its file and id."""
    return f"image {sample.get('im_file', 'in memory')} (im_id {image_id(sample)})"


def image_id(sample: Sample) -> Optional[int]:
    """The sample's `im_id` as an integer, or None if it has none."""
    return int(np.ravel(sample["im_id"])[0]) if "im_id" in sample else None


def select_boxes(sample: Sample, keep: np.ndarray) -> None:
    """Keep the boxes that `keep` selects, a mask [G] or indices [K], in every entry of `PER_BOX`."""
    for key in PER_BOX:
        if key in sample:
            sample[key] = sample[key][keep]


def append_boxes(sample: Sample, others: Sequence[Sample]) -> None:
    """Append the boxes of other samples to those of a sample, in every entry of `PER_BOX` that it has."""
    for key in PER_BOX:
        if key in sample:
            sample[key] = np.concatenate([sample[key], *(other[key] for other in others)])
