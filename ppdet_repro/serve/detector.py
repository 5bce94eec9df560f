"""A detector for concurrent requests, which wait in a bounded queue and are processed in order."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, NamedTuple

import numpy as np

from ppdet_repro.runtime.pipeline import Pipeline
from ppdet_repro.runtime.timing import StageTimer
from ppdet_repro.serve.limits import Limits, Refusal


class Answer(NamedTuple):
    """The detections on an image of `width` x `height` pixels."""

    width: int
    height: int
    rows: np.ndarray  # [M, 6]: class, score, x1, y1, x2, y2, in order of descending score
    milliseconds: Dict[str, float]  # the time of each stage


class QueuedDetector:
    """Runs a pipeline in one thread for requests from any number of clients.

    `decode` makes RGB [H, W, 3] uint8 of the bytes of an image file, or raises a `Refusal`; see decoding.py.
    """

    def __init__(self, pipeline: Pipeline, labels: List[str], limits: Limits, decode: Callable[[bytes], np.ndarray]):
        self.labels = labels
        self.limits = limits
        self._pipeline = pipeline
        self._decode = decode
        self._pool = ThreadPoolExecutor(1)
        self._slots = threading.BoundedSemaphore(limits.queue)

    async def detect(self, data: bytes) -> Answer:
        """Detect on the bytes of an image file.

        Raises:
            Refusal: The bytes are not an image or exceed a limit, too many requests are waiting, or the time is up.
        """
        if not data:
            raise Refusal(400, "the request has no body; send the bytes of an image")
        if not self._slots.acquire(blocking=False):
            raise Refusal(429, f"{self.limits.queue} requests are waiting; try again later")
        future = self._pool.submit(self._run, data)
        future.add_done_callback(lambda _: self._slots.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.timeout)
        except asyncio.TimeoutError as error:
            raise Refusal(504, f"no answer within {self.limits.timeout:g} seconds") from error

    def _run(self, data: bytes) -> Answer:
        image = self._decode(data)
        self._pipeline.timer = StageTimer()
        (found,) = self._pipeline([image])
        times = {stage: 1000.0 * sum(seconds) for stage, seconds in self._pipeline.timer.seconds.items()}
        rows = found.rows[np.argsort(-found.rows[:, 1], kind="stable")]
        return Answer(image.shape[1], image.shape[0], rows, times)
