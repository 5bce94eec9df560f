"""Profiles some updates of a training run with `paddle.profiler`, as `profiler_options` says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Callable, Dict, Sequence, Tuple

from paddle import profiler

from ppdet_repro.core.contract import Batch
from ppdet_repro.engine.training.step import StepReport
from ppdet_repro.utils.cli import FLAGS
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

Step = Callable[[Sequence[Batch]], StepReport]

FOLDER = "profiler_log"
UNUSED = ("state", "sorted_key", "tracer_option", "profile_path")  # PaddleDetection accepts and ignores these, too


class UpdateProfiler:
    """Measures those updates of a process that the options name.

    Args:
        options: `key=value` pairs with semicolons between them, for example "batch_range=[10, 20]; timer_only=False".
            `batch_range` are the first update, from 0, and the one after the last, by default [10, 20]. `timer_only`,
            true by default, logs the time of an update and the images per second alone; otherwise a table of the
            operators is printed, and `folder`/profiler_log gets the trace for chrome://tracing. `exit_on_finished`,
            true by default, ends the program after the last update of the range.
        folder: The folder of the run.

    Raises UserError if the options are not understood. Source: PaddleDetection's ppdet/utils/profiler.py.

    Example:
        >>> UpdateProfiler("batch_range=[2, 3]; exit_on_finished=no", Path("output/NAME")).last
        3
    """

    def __init__(self, options: str, folder: Path):
        values = parse_options(options)
        first, self.last = parse_range(values["batch_range"])
        self.timer_only, self.exits = (parse_flag(name, values[name]) for name in ("timer_only", "exit_on_finished"))
        self.folder, self.done = folder / FOLDER, 0
        self.profiler = profiler.Profiler(
            scheduler=(first, self.last),
            on_trace_ready=profiler.export_chrome_tracing(str(self.folder)) if not self.timer_only else None,
            timer_only=self.timer_only,
        )

    def watch(self, step: Step) -> Step:
        """The same function for an update, which is measured if it is one of those."""
        if self.done == 0:
            self.profiler.start()

        def watched(batches: Sequence[Batch]) -> StepReport:
            report = step(batches)
            self.done += 1
            if self.done <= self.last:
                self.profiler.step(num_samples=report.images)
            if self.done == self.last:
                self._finish()
            return report

        return watched

    def _finish(self) -> None:
        get_logger().info(f"profile of {self.last} updates: {self.profiler.step_info(unit='images').strip()}")
        self.profiler.stop()
        if not self.timer_only:
            self.profiler.summary(op_detail=True, thread_sep=False, time_unit="ms")
            get_logger().info(f"the trace for chrome://tracing is in {self.folder}")
        if self.exits:
            get_logger().info("training ends here; with exit_on_finished=False in the profiler options it goes on")
            raise SystemExit(0)


def parse_options(text: str) -> Dict[str, str]:
    """The options as texts, with the defaults of those that are not given. UserError: an unknown one, or no value."""
    values = {"batch_range": "[10,20]", "timer_only": "True", "exit_on_finished": "True"}
    for pair in filter(None, text.replace(" ", "").split(";")):
        key, equals, value = pair.partition("=")
        if not equals or key not in (*values, *UNUSED):
            known = ", ".join((*values, *UNUSED))
            raise UserError(f"profiler_options: {pair!r} is not one of the options {known} with = and a value")
        values[key] = value
    return values


def parse_range(text: str) -> Tuple[int, int]:
    """The two numbers of a batch_range such as [10,20]. UserError: they are not ascending numbers."""
    found = re.fullmatch(r"\[?(\d{1,9}),(\d{1,9})\]?", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"profiler_options: batch_range must be two ascending numbers such as [10, 20], not {text!r}")
    return int(found[1]), int(found[2])


def parse_flag(name: str, text: str) -> bool:
    """True or False. UserError: the text is neither."""
    if text.lower() not in FLAGS:
        raise UserError(f"profiler_options: {name} must be True or False, not {text!r}")
    return FLAGS[text.lower()]
