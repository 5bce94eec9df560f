"""From images to detections, M per image: preprocessing, the engine, and the time of each stage."""

from __future__ import annotations

import itertools
from typing import (
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

import numpy as np

from ppdet_repro.data.transform.base import ImageError
from ppdet_repro.data.transform.decode import read_image
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.metrics.detections import split_batch
from ppdet_repro.runtime.background import prefetch
from ppdet_repro.runtime.timing import StageTimer
from ppdet_repro.utils.errors import UserError

Image = Union[str, np.ndarray]  # the path of a file, or RGB [H, W, 3] uint8
T = TypeVar("T")

BENCHMARK_WARM_UPS, BENCHMARK_REPEATS = 50, 100


class Engine(Protocol):
    """A model that is loaded and ends in final boxes."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """`image` [B, 3, H, W], `im_shape` and `scale_factor` [B, 2] -> boxes [sum of M, 6], M of each image [B]."""


class Detected(NamedTuple):
    """An RGB image [H, W, 3] uint8 and its detections [M, 6]: class, score, x1, y1, x2, y2 in pixels."""

    image: np.ndarray
    rows: np.ndarray


Outcome = Union[Detected, UserError]  # the detections on an image, or why it cannot be read
Prepared = Tuple[List[np.ndarray], Dict[str, np.ndarray]]  # a batch's RGB images, and the engine's inputs


class Pipeline:
    """Detects on batches of images and measures the time. The engine's first run, a warm-up, is not measured."""

    def __init__(self, preprocess: Preprocess, engine: Engine):
        self.preprocess = preprocess
        self.engine = engine
        self.timer = StageTimer()
        self._is_warm = False

    def __call__(self, images: Sequence[Image]) -> List[Detected]:
        """The detections on each image. UserError if a file is not an image."""
        return self._detect(self._prepare(images))

    def stream(self, batches: Iterable[Sequence[Image]]) -> Iterator[List[Detected]]:
        """The detections on each batch, computed as `outcomes` does. UserError if a file is not an image."""
        return map(checked, self.outcomes(batches))

    def outcomes(self, batches: Iterable[Sequence[Image]]) -> Iterator[List[Outcome]]:
        """The outcome for each image of each batch. The next batches are read and preprocessed while the network
        computes."""

        def prepare(images: Sequence[Image]) -> Tuple[List[Union[np.ndarray, UserError]], Optional[Prepared]]:
            with self.timer.stage("preprocess"):
                decoded = read_each(images)
            readable = [image for image in decoded if not isinstance(image, UserError)]
            return decoded, self._prepare(readable) if readable else None

        for decoded, prepared in prefetch(map(prepare, batches)):
            found = iter(self._detect(prepared) if prepared else [])
            yield [image if isinstance(image, UserError) else next(found) for image in decoded]

    def benchmark(self, images: Sequence[Image]) -> None:
        """Time the batch `BENCHMARK_REPEATS` times, after `BENCHMARK_WARM_UPS` runs of the engine."""
        inputs = self.preprocess([read(image) for image in images])._asdict()
        for _ in range(BENCHMARK_WARM_UPS):
            self.engine.run(inputs)
        self._is_warm = True
        for _ in range(BENCHMARK_REPEATS):
            self(images)

    def _prepare(self, images: Sequence[Image]) -> Prepared:
        with self.timer.stage("preprocess"):
            decoded = [read(image) for image in images]
            return decoded, self.preprocess(decoded)._asdict()

    def _detect(self, prepared: Prepared) -> List[Detected]:
        images, inputs = prepared
        if not self._is_warm:
            self.engine.run(inputs)
            self._is_warm = True
        with self.timer.stage("inference"):
            bbox, bbox_num = self.engine.run(inputs)
        with self.timer.stage("postprocess"):
            found = split_batch(np.arange(len(images)), bbox, bbox_num)
        self.timer.images += len(images)
        return [Detected(image, rows) for image, (_, rows) in zip(images, found)]


def read(image: Image) -> np.ndarray:
    """Decode the image if it is a file. UserError if the file is not an image, or has too many pixels."""
    if isinstance(image, np.ndarray):
        return image
    try:
        return read_image(image)
    except ImageError as error:
        raise UserError(f"image {image} {error.reason}") from error


def checked(outcomes: Iterable[Outcome]) -> List[Detected]:
    """The detections on the images. UserError if one of them cannot be read."""
    found = []
    for outcome in outcomes:
        if isinstance(outcome, UserError):
            raise outcome
        found.append(outcome)
    return found


def read_each(images: Iterable[Image]) -> List[Union[np.ndarray, UserError]]:
    """Decode each image as `read` does; a UserError takes the place of one that cannot be read."""

    def attempt(image: Image) -> Union[np.ndarray, UserError]:
        try:
            return read(image)
        except UserError as error:
            return error

    return [attempt(image) for image in images]


def batched(items: Iterable[T], size: int) -> Iterator[List[T]]:
    """Group the items in lists of `size`. The last list may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
