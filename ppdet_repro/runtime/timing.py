"""Time measurement by stage."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional

import numpy as np

from ppdet_repro.utils.table import text_table

STAGES = ("preprocess", "inference", "postprocess")


class StageTimer:
    """Collects the seconds of each stage for each batch, and the number of images.

    Different stages may run at the same time in different threads; a stage must not overlap with itself.
    """

    def __init__(self) -> None:
        self.seconds: Dict[str, List[float]] = {stage: [] for stage in STAGES}
        self.images = 0
        self._first_inference: Optional[float] = None
        self._end = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the body of the `with` statement as the time of one batch in a stage."""
        start = time.perf_counter()
        if name == "inference" and self._first_inference is None:
            self._first_inference = start
        yield
        self._end = time.perf_counter()
        self.seconds[name].append(self._end - start)

    def wall(self) -> float:
        """Seconds from the first batch to the last result, without the warm-up. Less than the sum of the stages if they
        overlap."""
        if self._first_inference is None:
            return float(sum(map(sum, self.seconds.values())))
        return self.seconds["preprocess"][0] + self._end - self._first_inference

    def table(self) -> str:
        """Milliseconds per image in each stage as text: mean, median and 95th percentile over the batches."""
        if not self.images:
            return "no image was timed"
        batches = len(self.seconds["inference"])
        times = {stage: seconds[:batches] for stage, seconds in self.seconds.items()}
        times["total"] = np.sum(list(times.values()), axis=0)
        images_per_batch = self.images / batches
        rows = []
        for stage, seconds in times.items():
            milliseconds = 1000.0 * np.asarray(seconds) / images_per_batch
            rows.append([stage, *map(float, (milliseconds.mean(), *np.percentile(milliseconds, [50, 95])))])
        header = ["ms per image", "mean", "median", "p95"]
        rate = self.images / self.wall()
        return f"{text_table(header, rows)}\n{self.images} images, {rate:.2f} per second (warm-up not counted)"
