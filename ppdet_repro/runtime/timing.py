"""Where the time of a run goes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional

import numpy as np

from ppdet_repro.utils.table import text_table

STAGES = ("preprocess", "inference", "postprocess")


class StageTimer:
    """Seconds of each stage of each batch, and the number of images they were spent on.

    Stages of different batches may overlap, in threads; those of one kind must not.
    """

    def __init__(self) -> None:
        self.seconds: Dict[str, List[float]] = {stage: [] for stage in STAGES}
        self.images = 0
        self._first_inference: Optional[float] = None
        self._end = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the body as one batch's time in the stage."""
        start = time.perf_counter()
        if name == "inference" and self._first_inference is None:
            self._first_inference = start
        yield
        self._end = time.perf_counter()
        self.seconds[name].append(self._end - start)

    def wall(self) -> float:
        """Seconds from the first batch to the last result: less than the sum of the stages where they overlap.

        The first batch's preprocessing counts, the warm-up after it does not.
        """
        if self._first_inference is None:
            return float(sum(map(sum, self.seconds.values())))
        return self.seconds["preprocess"][0] + self._end - self._first_inference

    def table(self) -> str:
        """Milliseconds an image in each stage: mean, and median and 95th percentile over the batches."""
        if not self.images:
            return "no image was timed"
        batches = len(self.seconds["inference"])
        times = {stage: seconds[:batches] for stage, seconds in self.seconds.items()}
        times["total"] = np.sum(list(times.values()), axis=0)
        images_a_batch = self.images / batches
        rows = []
        for stage, seconds in times.items():
            milliseconds = 1000.0 * np.asarray(seconds) / images_a_batch
            rows.append([stage, *map(float, (milliseconds.mean(), *np.percentile(milliseconds, [50, 95])))])
        header = ["ms an image", "mean", "median", "p95"]
        rate = self.images / self.wall()
        return f"{text_table(header, rows)}\n{self.images} images, {rate:.2f} a second (warm-up not counted)"
