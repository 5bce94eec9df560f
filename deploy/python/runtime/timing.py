"""Where the time of a run goes."""
from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Dict, Iterator, List

import numpy as np

from ppdet_repro.utils.table import text_table

STAGES = ("preprocess", "inference", "postprocess")


class StageTimer:
    """Seconds of each stage of each batch, and the number of images they were spent on."""

    def __init__(self) -> None:
        self.seconds: Dict[str, List[float]] = {stage: [] for stage in STAGES}
        self.images = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the body as one batch's time in the stage."""
        start = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)

    def table(self) -> str:
        """Milliseconds an image in each stage: mean, and median and 95th percentile over the batches."""
        batches = max(len(times) for times in self.seconds.values())
        if not self.images:
            return "no image was timed"
        images_a_batch = self.images / batches
        rows = []
        for stage, times in [*self.seconds.items(), ("total", np.sum(list(self.seconds.values()), axis=0))]:
            milliseconds = 1000.0 * np.asarray(times) / images_a_batch
            rows.append(
                [stage, *(float(f) for f in (milliseconds.mean(), *np.percentile(milliseconds, [50, 95])))]
            )
        rate = 1000.0 / rows[-1][1]
        header = ["ms an image", "mean", "median", "p95"]
        return f"{text_table(header, rows)}\n{self.images} images, {rate:.2f} a second (warm-up not counted)"
