"""Detection on large images: cut into overlapping slices, detect on each, merge the boxes."""

from __future__ import annotations

from argparse import Namespace
from typing import Iterable, Iterator, List, Literal, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from ppdet_repro.runtime.background import prefetch
from ppdet_repro.runtime.pipeline import Detected, Image, Outcome, Pipeline, batched, checked, read, read_each
from ppdet_repro.utils.boxes import overlaps
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.slices import starts

MAX_SLICES = 10_000  # per image


class SliceOptions(NamedTuple):
    """How to cut images and to merge boxes."""

    slice_size: Tuple[int, int] = (640, 640)  # height and width in pixels
    overlap_ratio: Tuple[float, float] = (0.25, 0.25)  # of neighboring slices, as a fraction of their height and width
    combine_method: str = "nms"  # how the boxes of the slices are combined, see `combine`
    match_threshold: float = 0.6  # overlap from which on boxes are duplicates
    match_metric: Literal["iou", "ios"] = "ios"  # intersection over union, or over the area of the smaller box


def slices_of_flags(flags: Namespace) -> Optional[SliceOptions]:
    """The options that the flags of `options.add_slice_flags` give; None without --slice_infer."""
    if not flags.slice_infer:
        return None
    size, overlap = (tuple(value) for value in (flags.slice_size, flags.overlap_ratio))
    return SliceOptions(size, overlap, flags.combine_method, flags.match_threshold, flags.match_metric)


class SlicedPipeline:
    """A pipeline for large images. Its timer counts slices as images."""

    def __init__(self, pipeline: Pipeline, options: SliceOptions, batch_size: int):
        self.pipeline = pipeline
        self.options = options
        self.batch_size = batch_size
        self.timer = pipeline.timer

    def __call__(self, images: Sequence[Image]) -> List[Detected]:
        """The detections on each image. UserError if a file is not an image."""
        return [self._detect(read(image)) for image in images]

    def stream(self, batches: Iterable[Sequence[Image]]) -> Iterator[List[Detected]]:
        """The detections on each batch, computed as `outcomes` does. UserError if a file is not an image."""
        return map(checked, self.outcomes(batches))

    def outcomes(self, batches: Iterable[Sequence[Image]]) -> Iterator[List[Outcome]]:
        """The outcome for each image of each batch. The next batches are read while the network computes."""
        for decoded in prefetch(map(read_each, batches)):
            yield [image if isinstance(image, UserError) else self._outcome(image) for image in decoded]

    def benchmark(self, images: Sequence[Image]) -> None:
        """Time the slices of the images, `batch_size` at a time."""
        for image in map(read, images):
            for corners in batched(self._corners(image), self.batch_size):
                self.pipeline.benchmark([self._slice(image, y, x) for y, x in corners])

    def _outcome(self, image: np.ndarray) -> Outcome:
        try:
            return self._detect(image)
        except UserError as error:  # too many slices
            return error

    def _detect(self, image: np.ndarray) -> Detected:
        rows = []
        everywhere = self._corners(image)
        with tqdm(total=len(everywhere), unit="slice", leave=False, disable=None) as bar:
            for corners in batched(everywhere, self.batch_size):
                slices = [self._slice(image, y, x) for y, x in corners]
                for (y, x), found in zip(corners, self.pipeline(slices)):
                    rows.append(found.rows + np.array([0, 0, x, y, x, y], np.float32))
                bar.update(len(corners))
        return Detected(image, combine(np.concatenate(rows), self.options))

    def _corners(self, image: np.ndarray) -> List[Tuple[int, int]]:
        (height, width), (above, left) = self.options.slice_size, self.options.overlap_ratio
        tops, lefts = starts(image.shape[0], height, above), starts(image.shape[1], width, left)
        if len(tops) * len(lefts) > MAX_SLICES:
            raise UserError(
                f"an image of {image.shape[1]} x {image.shape[0]} pixels would be cut into {len(tops) * len(lefts):,} "
                f"slices, more than {MAX_SLICES:,}; give a larger --slice_size or a smaller --overlap_ratio"
            )
        return [(y, x) for y in tops for x in lefts]

    def _slice(self, image: np.ndarray, y: int, x: int) -> np.ndarray:
        height, width = self.options.slice_size
        return np.ascontiguousarray(image[y : y + height, x : x + width])


def combine(rows: np.ndarray, options: SliceOptions) -> np.ndarray:
    """Combine the rows [M, 6] (class, score, x1, y1, x2, y2) of all slices of an image, as `combine_method` says.

    "concat" keeps all rows; "nms" drops duplicates; "nmm" (non-maximum merging) lets the better row grow to enclose
    them. See `merge`.
    """
    if options.combine_method == "concat":
        return rows
    return merge(rows, options.match_threshold, options.match_metric, grow=options.combine_method == "nmm")


def merge(rows: np.ndarray, threshold: float, metric: Literal["iou", "ios"], grow: bool = False) -> np.ndarray:
    """The rows [M, 6] (class, score, x1, y1, x2, y2) in order of descending score, without duplicates.

    A row is a duplicate if it overlaps a better row of its class by at least `threshold`. With the metric
    "ios", a box and a part of it are duplicates. If boxes `grow`, the best of those rows gets the box around both, and
    later rows are compared with that; its score stays.
    """
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    pixel = np.array([0, 0, 1, 1], rows.dtype)  # corners are pixels that belong to the box
    kept: List[int] = []
    for i in range(len(rows)):
        better = [k for k in kept if rows[k, 0] == rows[i, 0]]
        found = overlaps(rows[i, 2:] + pixel, rows[better, 2:] + pixel, metric) >= threshold
        if not found.any():
            kept.append(i)
        elif grow:
            best = better[int(found.argmax())]
            rows[best, 2:4] = np.minimum(rows[best, 2:4], rows[i, 2:4])
            rows[best, 4:] = np.maximum(rows[best, 4:], rows[i, 4:])
    return rows[kept]
