"""A detector for concurrent requests, which wait in a bounded queue and are processed in order."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, NamedTuple

import numpy as np

from ppdet_repro.runtime.pipeline import Pipeline, decode_bounded
from ppdet_repro.runtime.timing import StageTimer
from ppdet_repro.utils.image_header import header_size


class Limits(NamedTuple):
    """Limits of requests."""

    max_bytes: int = 10 * 2**20  # of the upload
    max_pixels: int = 25_000_000  # of the decoded image
    timeout: float = 30.0  # seconds until the answer
    queue: int = 8  # requests that may be waiting or running


class Refusal(Exception):
    """The reason why a request is refused, and the HTTP status for it."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Answer(NamedTuple):
    """The detections on an image of `width` x `height` pixels."""

    width: int
    height: int
    rows: np.ndarray  # [M, 6]: class, score, x1, y1, x2, y2, in order of descending score
    milliseconds: Dict[str, float]  # the time of each stage


class QueuedDetector:
    """Runs a pipeline in one thread for requests from any number of clients."""

    def __init__(self, pipeline: Pipeline, labels: List[str], limits: Limits):
        self.labels = labels
        self.limits = limits
        self._pipeline = pipeline
        self._pool = ThreadPoolExecutor(1)
        self._slots = threading.BoundedSemaphore(limits.queue)

    async def detect(self, data: bytes) -> Answer:
        """Detect on the bytes of an image file.

        Raises:
            Refusal: The bytes are not an image or exceed a limit, too many requests are waiting, or the time is up.
        """
        check_image(data, self.limits)
        if not self._slots.acquire(blocking=False):
            raise Refusal(429, f"{self.limits.queue} requests are waiting; try again later")
        future = self._pool.submit(self._run, data)
        future.add_done_callback(lambda _: self._slots.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.timeout)
        except asyncio.TimeoutError as error:
            raise Refusal(504, f"no answer within {self.limits.timeout:g} seconds") from error

    def _run(self, data: bytes) -> Answer:
        try:
            image = decode_bounded(data, self.limits.max_pixels)
        except ValueError as error:
            raise Refusal(415, f"the upload {error}") from error
        self._pipeline.timer = StageTimer()
        (found,) = self._pipeline([image])
        times = {stage: 1000.0 * sum(seconds) for stage, seconds in self._pipeline.timer.seconds.items()}
        rows = found.rows[np.argsort(-found.rows[:, 1], kind="stable")]
        return Answer(image.shape[1], image.shape[0], rows, times)


def check_image(data: bytes, limits: Limits) -> None:
    """Refusal if the header of the bytes is not that of an image, or announces too many pixels."""
    if not data:
        raise Refusal(400, "the request has no body; send the bytes of an image")
    size = header_size(data)
    if size is None:
        raise Refusal(415, "the upload is not an image (JPEG, PNG, BMP, WebP or TIFF), or is damaged")
    if size.pixels > limits.max_pixels:
        allowed = f"at most {limits.max_pixels / 1e6:g} million are allowed"
        raise Refusal(413, f"the image is {size.width} x {size.height} pixels; {allowed}")
