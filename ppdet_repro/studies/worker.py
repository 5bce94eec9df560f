"""Trains the runs of a study: workers of this process, each in a thread, start one training process at a time."""

from __future__ import annotations

import datetime
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Dict, List, Optional

from ppdet_repro.studies import identity
from ppdet_repro.studies.plan import IDENTITY, RESULT, TRAINING, Plan, Run, check_folder, read_json, write_json
from ppdet_repro.studies.queue import STALE, Heartbeat, Queue
from ppdet_repro.studies.study import METRICS
from ppdet_repro.utils.cpu_env import THREADS, usable_cores, user_environ
from ppdet_repro.utils.curves import read_log
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.launch import PIPE
from ppdet_repro.utils.logger import get_logger
from ppdet_repro.utils.packaged import PACKAGE

POLL = 0.2  # seconds
OUTPUT = "output.txt"  # what a run's training prints
LAST_LINES = 5


class Stopped(Exception):
    """The study is interrupted."""


def run_study(plan: Plan, workers: int = 1, gpus: Optional[str] = None, stale: float = STALE) -> None:
    """Train all runs that have no result yet, together with workers in other processes that have the same folder.
    Returns when all runs are done.

    UserError: the folder has runs of other code, data or configs; a training failed; the sources changed meanwhile.

    Args:
        workers: The number of runs at the same time in this process.
        gpus: The GPUs of `paddle.distributed.launch`, such as `0,1`; None: one process for each run.
    """
    check_folder(plan)
    stop = threading.Event()
    reading, writing = os.pipe()  # trainings end when `writing` is closed, which also SIGKILL does
    try:
        with ThreadPoolExecutor(workers) as pool:
            tasks = [pool.submit(Worker(plan, workers, gpus, stale, stop, reading).work) for _ in range(workers)]
            try:
                while not all(task.done() for task in tasks):
                    time.sleep(POLL)
                    if any(task.done() and task.exception() for task in tasks):
                        break
            finally:
                stop.set()
        errors = [task.exception() for task in tasks]
        for error in sorted((e for e in errors if e is not None), key=lambda e: isinstance(e, Stopped)):
            raise error
    finally:
        os.close(reading)
        os.close(writing)


class Worker:
    """Takes runs and trains them until all are done."""

    def __init__(self, plan: Plan, workers: int, gpus: Optional[str], stale: float, stop: threading.Event, pipe: int):
        self.plan, self.queue, self.gpus = plan, Queue(plan, stale), gpus
        self.workers, self.stop, self.pipe = workers, stop, pipe

    def work(self) -> None:
        """Train runs until all have a result. Raises Stopped, or UserError."""
        waiting = False
        while self.queue.left():
            run = self.queue.take()
            if run is not None:
                waiting = False
                self.train(run)
                continue
            if not waiting:
                get_logger().info(f"waiting for {len(self.queue.left())} runs of other workers")
            waiting = True
            self.wait(min(5.0, self.queue.stale / 4))

    def wait(self, seconds: float) -> None:
        """Wait. Raises Stopped when the study ends."""
        if self.stop.wait(seconds):
            raise Stopped

    def train(self, run: Run) -> None:
        """Train a run that was taken, and write its result; give the run back if that fails."""
        try:
            if identity.code_hash() != run.identity["code"]:
                raise UserError(
                    "the package's sources changed while the study ran; start it again in a copy of its own"
                )
            resumed = (run.folder / IDENTITY).is_file()
            write_json(run.folder / IDENTITY, dict(run.identity))
            start = time.monotonic()
            if not self.run_training(run):
                get_logger().warning(f"{run.name}: another worker has taken the run over")
                return
            seconds = None if resumed else round(time.monotonic() - start, 1)
            if self.queue.finish(run, result_of(run, seconds)):
                shutil.rmtree(run.folder / TRAINING / "checkpoints", ignore_errors=True)  # the weights remain
                get_logger().info(progress(self.plan, run, self.queue.active() + 1))
        finally:
            self.queue.give_back(run)

    def run_training(self, run: Run) -> bool:
        """Start a run's training, or go on with it, and wait for its end. False if the run was taken over.
        UserError if the training fails."""
        run.folder.mkdir(parents=True, exist_ok=True)
        with open(run.folder / OUTPUT, "ab") as output:
            process = subprocess.Popen(
                train_command(run, self.gpus), env=self.environ(), stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, start_new_session=True, pass_fds=[self.pipe],
            )  # fmt: skip
        try:
            with Heartbeat(self.queue, run, process.pid) as heart:
                while process.poll() is None and not heart.lost.is_set():
                    self.wait(POLL)
                if heart.lost.is_set():
                    return False
        finally:
            end(process)
        if process.returncode != 0:
            text = (run.folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
            last = "\n".join(text.splitlines()[-LAST_LINES:])
            raise UserError(
                f"{run.name}: training ended with code {process.returncode}; {run.folder / OUTPUT}:\n{last}"
            )
        return True

    def environ(self) -> Dict[str, str]:
        """The environment of a training: the workers of this process share its cores."""
        environ = user_environ(os.environ)
        environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [environ.get("PYTHONPATH")])])
        if self.workers > 1:
            environ.setdefault(THREADS, str(max(1, usable_cores() // self.workers)))
        return environ if self.gpus is not None else {**environ, PIPE: str(self.pipe)}


def train_command(run: Run, gpus: Optional[str]) -> List[str]:
    """The command that trains a run, or goes on with it."""
    script = PACKAGE.parent / "tools" / "train.py"
    flags = ["-c", run.config, "--eval", "--resume", "auto", "-o", *run.overrides]
    if gpus is None:
        return [sys.executable, *([str(script)] if script.is_file() else ["-m", "ppdet_repro", "train"]), *flags]
    installed = [os.path.join(os.path.dirname(sys.executable), "ppdet-repro"), "train"]
    program = [str(script)] if script.is_file() else installed
    return [sys.executable, "-m", "paddle.distributed.launch", "--gpus", gpus, *program, *flags]


def end(process: subprocess.Popen) -> None:
    """End a training and all its processes."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def result_of(run: Run, seconds: Optional[float]) -> Dict[str, Any]:
    """The result of a run whose training ended: its scores, in points, after every evaluation. UserError if the
    training was never evaluated."""
    evaluations = read_log(run.log)["eval"]
    if not evaluations:
        raise UserError(f"{run.log}: the training was never evaluated; snapshot_epoch must not exceed epoch")
    curve = [{"epoch": entry["epoch"], **points(entry)} for entry in evaluations]
    return {
        "row": run.row,
        "seed": run.seed,
        "identity": dict(run.identity),
        "scores": points(evaluations[-1]),
        "curve": curve,
        "seconds": seconds,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def points(entry: Dict[str, Any]) -> Dict[str, float]:
    """The scores of an evaluation in points. COCO's -1 stands for no objects of a size."""
    found = {METRICS[name]: 100 * value for name, value in entry.items() if name in METRICS}
    return {name: round(value, 4) for name, value in found.items() if value >= 0 and math.isfinite(value)}


def progress(plan: Plan, run: Run, active: int) -> str:
    """What is done, the last result, and the expected end."""
    results = [content for content in (read_json(each.folder / RESULT) for each in plan.runs) if content]
    times = [content["seconds"] for content in results if content["seconds"]]
    own = read_json(run.folder / RESULT)
    score = own["scores"].get(plan.study.metric)
    words = f"{len(results)} of {len(plan.runs)} runs done; {run.name}: {plan.study.metric} "
    words += "-" if score is None else f"{score:.1f}"
    if times and len(results) < len(plan.runs):
        left = sum(times) / len(times) * (len(plan.runs) - len(results)) / max(1, active)
        clock = datetime.datetime.now() + datetime.timedelta(seconds=left)
        words += f"; expected end {clock:%d %B %H:%M}, in {datetime.timedelta(seconds=int(left))}"
    return words
