"""From images to detections: preprocessing, the engine, and the time each takes.

B images of a batch, M boxes of an image.
"""

from __future__ import annotations

from typing import Dict, Iterable, Iterator, List, NamedTuple, Protocol, Sequence, Tuple, TypeVar, Union

import numpy as np

from ppdet_repro.data.transform.decode import decode_image
from ppdet_repro.data.transform.preprocess import Preprocess
from ppdet_repro.metrics.detections import split_batch
from ppdet_repro.runtime.overlap import ahead
from ppdet_repro.runtime.timing import StageTimer
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.image_header import header_size

Image = Union[str, np.ndarray]  # a file, or RGB [H, W, 3] uint8
T = TypeVar("T")

BENCHMARK_WARM_UPS = 50
BENCHMARK_REPEATS = 100
MAX_PIXELS = 2**27  # of a picture: 134 million, 400 MB when decoded


class Engine(Protocol):
    """Runs a model."""

    def run(self, inputs: Dict[str, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
        """image [B, 3, H, W], im_shape and scale_factor [B, 2] -> boxes [sum of M, 6], each image's M [B]."""


class Detected(NamedTuple):
    """An RGB image [H, W, 3] uint8 and its detections [M, 6]: class, score, x1, y1, x2, y2 in pixels."""

    image: np.ndarray
    rows: np.ndarray


class Prepared(NamedTuple):
    """A batch before the network: its RGB images and the engine's inputs."""

    pictures: List[np.ndarray]
    inputs: Dict[str, np.ndarray]


class Pipeline:
    """Detects on batches of images and keeps the time; the engine's very first run does not count."""

    def __init__(self, preprocess: Preprocess, engine: Engine):
        self.preprocess = preprocess
        self.engine = engine
        self.timer = StageTimer()
        self._is_warm = False

    def __call__(self, images: Sequence[Image]) -> List[Detected]:
        """What is found on each image. UserError if a file is not an image."""
        return self._detect(self._prepare(images))

    def stream(self, batches: Iterable[Sequence[Image]]) -> Iterator[List[Detected]]:
        """What is found on each batch; the next batches are read and preprocessed while the network computes."""
        for prepared in ahead(map(self._prepare, batches)):
            yield self._detect(prepared)

    def benchmark(self, images: Sequence[Image]) -> None:
        """Time the batch `BENCHMARK_REPEATS` times, after `BENCHMARK_WARM_UPS` runs that do not count."""
        inputs = self.preprocess([read(image) for image in images])._asdict()
        for _ in range(BENCHMARK_WARM_UPS):
            self.engine.run(inputs)
        self._is_warm = True
        for _ in range(BENCHMARK_REPEATS):
            self(images)

    def _prepare(self, images: Sequence[Image]) -> Prepared:
        with self.timer.stage("preprocess"):
            pictures = [read(image) for image in images]
            return Prepared(pictures, self.preprocess(pictures)._asdict())

    def _detect(self, prepared: Prepared) -> List[Detected]:
        pictures, inputs = prepared
        if not self._is_warm:
            self.engine.run(inputs)
            self._is_warm = True
        with self.timer.stage("inference"):
            bbox, bbox_num = self.engine.run(inputs)
        with self.timer.stage("postprocess"):
            found = split_batch(range(len(pictures)), bbox, bbox_num)
        self.timer.images += len(pictures)
        return [Detected(picture, rows) for picture, (_, rows) in zip(pictures, found)]


def read(image: Image) -> np.ndarray:
    """The image itself, or that in the file. UserError if the file is not an image, or a huge one."""
    if isinstance(image, np.ndarray):
        return image
    try:
        with open(image, "rb") as file:
            return decode_bounded(file.read(), MAX_PIXELS)
    except OSError as error:
        raise UserError(f"image {image} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"image {image} {error}") from error


def decode_bounded(data: bytes, max_pixels: int) -> np.ndarray:
    """The RGB image [H, W, 3] in a file's bytes, decoded only if its header announces at most `max_pixels`.

    Raises:
        ValueError: says what is wrong with the bytes.
    """
    size = header_size(data)
    if size is None and data:
        raise ValueError("is not an image (JPEG, PNG, BMP, WebP or TIFF), or is damaged")
    if size is not None and size.pixels > max_pixels:
        raise ValueError(
            f"would be {size.width} x {size.height} pixels when decoded, more than the {max_pixels / 1e6:.0f} "
            "million that are allowed"
        )
    return decode_image(data)


def batched(items: Iterable[T], size: int) -> Iterator[List[T]]:
    """Lists of `size` items, the last may be shorter."""
    batch: List[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
