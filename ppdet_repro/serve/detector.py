"""One model, asked by many: requests wait in a bounded queue and are answered one after the other."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Dict, List, NamedTuple

import numpy as np

from ppdet_repro.runtime.pipeline import Pipeline, decode_bounded
from ppdet_repro.runtime.timing import StageTimer
from ppdet_repro.utils.image_header import header_size


class Limits(NamedTuple):
    """What a request may cost: bytes of the upload, pixels when decoded, seconds until the answer, and how many
    requests may be waiting or running."""

    max_bytes: int = 10 * 2**20
    max_pixels: int = 25_000_000
    timeout: float = 30.0
    queue: int = 8


class Refusal(Exception):
    """Why a request is not answered, and the HTTP status that says so."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Answer(NamedTuple):
    """An image's size in pixels, its detections [M, 6] (class, score, x1, y1, x2, y2), best first, and where the
    time went."""

    width: int
    height: int
    rows: np.ndarray
    milliseconds: Dict[str, float]


class QueuedDetector:
    """Runs a pipeline, which serves one thread at a time, for requests that come at any time."""

    def __init__(self, pipeline: Pipeline, labels: List[str], limits: Limits):
        self.labels = labels
        self.limits = limits
        self._pipeline = pipeline
        self._pool = ThreadPoolExecutor(1)
        self._places = threading.BoundedSemaphore(limits.queue)

    async def detect(self, data: bytes) -> Answer:
        """The detections on an encoded image. Raises Refusal: not an image, too large, too many, too slow."""
        check_image(data, self.limits)
        if not self._places.acquire(blocking=False):
            raise Refusal(429, f"{self.limits.queue} requests are waiting already; try again later")
        future = self._pool.submit(self._run, data)
        future.add_done_callback(self._leave)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.timeout)
        except asyncio.TimeoutError as error:
            raise Refusal(504, f"no answer within {self.limits.timeout:g} seconds") from error

    def _leave(self, _: Future) -> None:
        self._places.release()

    def _run(self, data: bytes) -> Answer:
        try:
            picture = decode_bounded(data, self.limits.max_pixels)
        except ValueError as error:
            raise Refusal(415, f"the upload {error}") from error
        self._pipeline.timer = StageTimer()
        (found,) = self._pipeline([picture])
        times = {stage: 1000.0 * sum(seconds) for stage, seconds in self._pipeline.timer.seconds.items()}
        rows = found.rows[np.argsort(-found.rows[:, 1], kind="stable")]
        return Answer(picture.shape[1], picture.shape[0], rows, times)


def check_image(data: bytes, limits: Limits) -> None:
    """Refusal if the bytes do not start like an image, or like one that is too large to decode."""
    if not data:
        raise Refusal(400, "the request has no body; send the picture's bytes")
    size = header_size(data)
    if size is None:
        raise Refusal(415, "the upload is not an image (JPEG, PNG, BMP, WebP or TIFF), or is damaged")
    if size.pixels > limits.max_pixels:
        raise Refusal(
            413,
            f"the picture is {size.width} x {size.height} pixels; at most {limits.max_pixels / 1e6:g} million are "
            "allowed",
        )
