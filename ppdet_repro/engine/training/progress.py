"""How a training run reports its progress: a progress bar or log lines, `log.jsonl`, and curves for other programs.

`log.jsonl` has a line {kind: train, epoch, step, lr, the losses, images_per_second} every `log_iter` updates, and a
line {kind: eval, epoch, step, the metrics} for every evaluation. Epochs and updates are counted from 1.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ppdet_repro.engine.training.curves import Loggers
from ppdet_repro.engine.training.step import StepReport
from ppdet_repro.utils.files import atomic_file
from ppdet_repro.utils.logger import get_logger

BAR = "{desc} {bar:20} {n_fmt}/{total_fmt} {postfix}"


@dataclass
class TrainLog:
    """Logs a training run. Call it with the report of every update."""

    path: Path  # of `log.jsonl`
    epochs: int
    steps: int  # updates per epoch
    done: int = 0  # updates that are already done when a run is resumed; lines of later ones are removed from the file
    evaluated: bool = True  # whether the evaluation of the last epoch ended; if not, its line is removed, too
    log_iter: int = 20  # updates from one line to the next
    processes: int = 1  # each of them trains on as many images as this one
    loggers: Loggers = Loggers()  # receive the curves

    def __post_init__(self) -> None:
        self.seconds: List[float] = []  # per recent update, with the time that its data took
        self.window: List[StepReport] = []  # since the last line
        self.last = time.perf_counter()
        self.bar = tqdm(disable=True)
        self.closing = ExitStack()
        keep_lines_until(self.path, self.done, self.evaluated)
        self.curves = self.loggers.open(self.path.parent, self.done)

    def __enter__(self) -> TrainLog:
        if sys.stderr.isatty():
            self.closing.enter_context(logging_redirect_tqdm([get_logger()]))
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        for curves in self.curves:
            curves.close()
        self.closing.close()

    def start_epoch(self) -> None:
        """Start measuring the time of the epoch's first update, and show a bar on a terminal."""
        self.last = time.perf_counter()
        text = f"epoch {self.done // self.steps + 1}/{self.epochs}"
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=self.steps, desc=text, bar_format=BAR, dynamic_ncols=True, leave=False, disable=hidden)

    def __call__(self, report: StepReport) -> None:
        now = time.perf_counter()
        self.seconds = [*self.seconds[-99:], now - self.last]
        self.last = now
        self.done += 1
        self.window.append(report)
        self.bar.update()
        in_epoch = (self.done - 1) % self.steps + 1
        if in_epoch % self.log_iter == 0 or in_epoch in (1, self.steps):
            self._line(in_epoch)
        if in_epoch == self.steps:
            self.bar.close()

    def evaluation(self, metrics: Mapping[str, float]) -> None:
        """Log the metrics of the epoch that just ended."""
        self._append({"kind": "eval", "epoch": self.done // self.steps, "step": self.done, **metrics})
        self._draw("eval", metrics)

    def _line(self, in_epoch: int) -> None:
        window, self.window = self.window, []
        losses = {name: finite_mean([r.losses[name] for r in window]) for name in window[0].losses}
        recent = self.seconds[-len(window) :]
        rate = sum(r.images for r in window) * self.processes / sum(recent)
        waiting = max(0.0, 1 - sum(r.seconds for r in window) / sum(recent))
        left = (self.epochs * self.steps - self.done) * sum(self.seconds) / len(self.seconds)
        eta = datetime.timedelta(seconds=int(left))
        epoch, lr = (self.done - 1) // self.steps + 1, window[-1].learning_rate
        shown = " ".join(f"{name} {value:.4g}" for name, value in losses.items())
        text = f"lr {lr:.3g} {shown}, {rate:.1f} img/s, {waiting:.0%} waiting for data, eta {eta}"
        if self.bar.disable:
            get_logger().info(f"epoch {epoch}/{self.epochs} [{in_epoch}/{self.steps}] {text}")
        else:
            self.bar.set_postfix_str(text)
        numbers = {"lr": lr, **losses, "images_per_second": round(rate, 3)}
        self._append({"kind": "train", "epoch": epoch, "step": self.done, **numbers})
        self._draw("train", numbers)

    def _append(self, entry: Dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            get_logger().error(f"{self.path}: cannot write the log: {error.strerror}; training continues")

    def _draw(self, group: str, values: Mapping[str, float]) -> None:
        named = {f"{group}/{name}": value for name, value in values.items()}
        for curves in list(self.curves):
            try:
                curves.add(named, self.done)
            except OSError as error:
                self.curves.remove(curves)
                get_logger().error(f"cannot write curves: {error.strerror or error}; training continues without them")


def finite_mean(values: Sequence[float]) -> float:
    """The mean of the finite values, or 0 if there are none. Skipped updates have values that are not finite."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / max(len(finite), 1)


def keep_lines_until(path: Path, step: int, evaluated: bool = True) -> None:
    """Remove the lines of updates after `step`, and incomplete lines, from a log; also the evaluation after `step`,
    unless it is evaluated."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            entry = json.loads(line)
            if entry["step"] < step or (entry["step"] == step and (evaluated or entry["kind"] != "eval")):
                kept.append(line)
    with atomic_file(path) as file:
        file.write("".join(kept).encode())
