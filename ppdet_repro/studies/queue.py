"""Shares the runs of a study among workers, on one machine or on several that share a folder.

A worker that takes a run writes a lease: who it is, and a number that it increases every `BEAT` seconds. Another worker
may take the run over if its worker, on the same machine, does not run any more, or if the number has not changed for
`STALE` seconds of the other worker's own clock. All changes are made under one lock of the operating system, which
ends with its process. The folder must support such locks (`flock`; NFS 4 does).
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from filelock import FileLock

from ppdet_repro.studies.plan import QUEUE_LOCK, RESULT, Plan, Run, read_json, write_json
from ppdet_repro.utils.errors import UserError

BEAT, STALE = 10.0, 90.0  # seconds


class Process(NamedTuple):
    """A process on some machine. The time of its start tells it from a later process with the same number."""

    machine: str
    pid: int
    started: str

    @staticmethod
    def of(pid: int) -> Process:
        """A process of this machine."""
        return Process(machine(), pid, start_time(pid))

    def is_here(self) -> bool:
        """Whether it is, or was, on this machine."""
        return self.machine == machine()

    def runs(self) -> bool:
        """Whether it runs, for a process of this machine."""
        return self.started != "" and start_time(self.pid) == self.started


def machine() -> str:
    """This machine and its space of process numbers; containers on one machine have different ones."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def start_time(pid: int) -> str:
    """When a process of this machine was started, in the kernel's clock; "" if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


class Queue:
    """The runs of a plan as one worker sees them."""

    def __init__(self, plan: Plan, stale: float = STALE):
        self.plan, self.stale = plan, stale
        self.worker = uuid.uuid4().hex
        self.seen: Dict[str, Any] = {}  # by run: the worker and number of a lease, and since when they are unchanged

    def lock(self) -> FileLock:
        """The lock of the study's folder."""
        self.plan.output.mkdir(parents=True, exist_ok=True)
        return FileLock(str(self.plan.output / QUEUE_LOCK))

    def lease_path(self, run: Run) -> Path:
        """The file of a run's lease."""
        return self.plan.output / "leases" / f"{run.name}.json"

    def left(self) -> List[Run]:
        """The runs that have no result yet."""
        return [run for run in self.plan.runs if not (run.folder / RESULT).is_file()]

    def take(self) -> Optional[Run]:
        """Take a run that is not done and that no living worker has; None if there is none."""
        with self.lock():
            for run in self.left():
                lease = read_json(self.lease_path(run))
                if lease and self.is_alive(run, lease):
                    continue
                end_training(lease)
                write_json(self.lease_path(run), {"worker": self.worker, "process": Process.of(os.getpid()), "beat": 0})
                return run
        return None

    def is_alive(self, run: Run, lease: Dict[str, Any]) -> bool:
        """Whether the worker that has a lease still works."""
        process = Process(*lease["process"])
        if process.is_here():
            return process.runs()
        state = (lease["worker"], lease["beat"])
        before, since = self.seen.get(run.name, (None, 0.0))
        if state != before:
            since = time.monotonic()
            self.seen[run.name] = (state, since)
        return time.monotonic() - since < self.stale

    def beat(self, run: Run, training: Optional[int] = None) -> bool:
        """Say that this worker still works on a run, with the number of the training's process. False if the run was
        taken over, or the folder was removed."""
        with self.lock():
            lease = read_json(self.lease_path(run))
            if lease.get("worker") != self.worker:
                return False
            if training is not None:
                lease["training"] = Process.of(training)
            write_json(self.lease_path(run), {**lease, "beat": lease["beat"] + 1})
            return True

    def finish(self, run: Run, result: Dict[str, Any]) -> bool:
        """Write a run's result and give its lease back. False if the run was taken over: nothing is written then."""
        with self.lock():
            if read_json(self.lease_path(run)).get("worker") != self.worker:
                return False
            write_json(run.folder / RESULT, result)
            self.lease_path(run).unlink()
            return True

    def give_back(self, run: Run) -> None:
        """Give a run back without a result."""
        with self.lock():
            if read_json(self.lease_path(run)).get("worker") == self.worker:
                self.lease_path(run).unlink()

    def active(self) -> int:
        """The number of runs that workers have."""
        return sum(self.lease_path(run).is_file() for run in self.left())


class Heartbeat:
    """Beats for a run in a thread until the block ends; `lost` says that the run was taken over."""

    def __init__(self, queue: Queue, run: Run, training: int, seconds: float = BEAT):
        self.queue, self.run, self.training, self.seconds = queue, run, training, seconds
        self.lost, self.ending = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self) -> None:
        with suppress(OSError, UserError):
            while self.queue.beat(self.run, self.training):
                if self.ending.wait(self.seconds):
                    return
        self.lost.set()

    def __enter__(self) -> Heartbeat:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ending.set()
        self.thread.join()


def end_training(lease: Dict[str, Any]) -> None:
    """End what a dead worker of this machine has left running, so that two trainings never write into one folder."""
    training = Process(*lease["training"]) if "training" in lease else None
    if training is None or not training.is_here():
        return
    deadline = time.monotonic() + 30
    while training.runs() and time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.killpg(training.pid, signal.SIGKILL)
        time.sleep(0.05)
