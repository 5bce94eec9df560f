"""What a training run says while it runs: a bar or lines, `log.jsonl`, curves for VisualDL.

`log.jsonl` has a line {kind: train, epoch, step, lr, the losses, images_per_second} every `log_iter`
updates, and one {kind: eval, epoch, step, the metrics} an evaluation. Epochs and updates count from 1.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ppdet_repro.engine.training.step import StepReport
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import atomic_file
from ppdet_repro.utils.logger import get_logger

BAR = "{desc} {bar:20} {n_fmt}/{total_fmt} {postfix}"


class TrainLog:
    """Call it with every update's report; the process that keeps no log makes none.

    steps       updates an epoch
    done        updates that an earlier run did; its later lines in the file are dropped
    processes   how many there are, to count all their images
    """

    def __init__(
        self,
        path: Path,
        *,
        epochs: int,
        steps: int,
        done: int = 0,
        log_iter: int = 20,
        processes: int = 1,
        vdl_dir: Optional[str] = None,
    ):
        self.path = path
        self.epochs = epochs
        self.steps = steps
        self.done = done
        self.log_iter = log_iter
        self.processes = processes
        self.seconds: List[float] = []  # of recent updates, their data included
        self.window: List[StepReport] = []  # since the last line
        self.last = time.perf_counter()
        self.bar: Optional[tqdm] = None
        self.closing = ExitStack()
        keep_lines_until(path, done)
        self.writer = None
        if vdl_dir is not None:
            self.writer = open_visualdl(vdl_dir)
            self.closing.callback(self.writer.close)

    def __enter__(self) -> TrainLog:
        if sys.stderr.isatty():
            self.closing.enter_context(logging_redirect_tqdm([get_logger()]))
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_bar()
        self.closing.close()

    def start_epoch(self) -> None:
        """The time from here on counts for the next update."""
        self.last = time.perf_counter()
        if sys.stderr.isatty():
            epoch = self.done // self.steps + 1
            text = f"epoch {epoch}/{self.epochs}"
            self.bar = tqdm(total=self.steps, desc=text, bar_format=BAR, dynamic_ncols=True, leave=False)

    def __call__(self, report: StepReport) -> None:
        now = time.perf_counter()
        self.seconds = [*self.seconds[-99:], now - self.last]
        self.last = now
        self.done += 1
        self.window.append(report)
        if self.bar is not None:
            self.bar.update()
        in_epoch = (self.done - 1) % self.steps + 1
        if in_epoch % self.log_iter == 0 or in_epoch in (1, self.steps):
            self._line(in_epoch)
        if in_epoch == self.steps:
            self._end_bar()

    def evaluation(self, metrics: Mapping[str, float]) -> None:
        """Write down the metrics of the epoch that just ended."""
        self._append({"kind": "eval", "epoch": self.done // self.steps, "step": self.done, **metrics})
        self._curves("eval", metrics)

    def _line(self, in_epoch: int) -> None:
        window, self.window = self.window, []
        losses = {name: finite_mean([r.losses[name] for r in window]) for name in window[0].losses}
        recent = self.seconds[-len(window) :]
        rate = sum(r.images for r in window) * self.processes / sum(recent)
        waiting = max(0.0, 1 - sum(r.seconds for r in window) / sum(recent))
        left = (self.epochs * self.steps - self.done) * sum(self.seconds) / len(self.seconds)
        eta = datetime.timedelta(seconds=int(left))
        epoch, lr = (self.done - 1) // self.steps + 1, window[-1].learning_rate
        numbers = " ".join(f"{name} {value:.4g}" for name, value in losses.items())
        text = f"lr {lr:.3g} {numbers}, {rate:.1f} img/s, {waiting:.0%} waiting for data, eta {eta}"
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        else:
            get_logger().info(f"epoch {epoch}/{self.epochs} [{in_epoch}/{self.steps}] {text}")
        entry = {"kind": "train", "epoch": epoch, "step": self.done, "lr": lr, **losses}
        self._append({**entry, "images_per_second": round(rate, 3)})
        self._curves("train", {"lr": lr, **losses})

    def _append(self, entry: Dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            get_logger().error(f"{self.path}: cannot write the log: {error.strerror}; training goes on")

    def _curves(self, group: str, values: Mapping[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, self.done)

    def _end_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class NoLog(TrainLog):
    """What processes other than the first have: it says and writes nothing."""

    def __init__(self) -> None:
        self.closing = ExitStack()
        self.bar = None

    def __enter__(self) -> NoLog:
        return self

    def start_epoch(self) -> None:
        pass

    def __call__(self, report: StepReport) -> None:
        pass

    def evaluation(self, metrics: Mapping[str, float]) -> None:
        pass


def finite_mean(values: Sequence[float]) -> float:
    """The mean of those that are finite (skipped updates have others), 0 if none is."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / max(len(finite), 1)


def keep_lines_until(path: Path, step: int) -> None:
    """Drop the lines of later updates than `step`, and a last one that was cut, from a log."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    with atomic_file(path) as file:
        file.write("".join(kept).encode())


def open_visualdl(folder: str) -> Any:
    """VisualDL's writer. UserError: it is not installed."""
    try:
        from visualdl import LogWriter
    except ImportError as error:
        raise UserError("--use_vdl needs VisualDL: pip install visualdl") from error
    return LogWriter(folder)
