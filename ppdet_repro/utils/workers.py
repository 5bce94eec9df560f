"""Worker processes that apply a function to tasks.

Each worker has its own pipe, and workers share no locks. Therefore a worker may be killed at any moment: the parent
notices it at once and raises an error. Large arrays are passed in anonymous shared memory (memfd), with two blocks per
worker. This needs no space in /dev/shm and leaves no files behind. Where it is not available, arrays are passed
through the pipe. Workers end when their parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Generator, Optional, Sequence, TypeVar

import cv2

from ppdet_repro.utils.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 2  # tasks per worker that are in progress, or finished and not fetched
ALIGNMENT = 64
HAS_SHARED_MEMORY = hasattr(os, "memfd_create")
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # mallopt(3)


class WorkerTraceback(Exception):
    """The traceback of an exception in a worker, as text."""


class SharedBlock:
    """Memory that a process shares with children that it forks later. It grows as needed."""

    def __init__(self) -> None:
        self.file = os.memfd_create("ppdet_repro", os.MFD_CLOEXEC)
        self.memory: Optional[mmap.mmap] = None

    def write(self, buffers: Sequence[memoryview]) -> None:
        """Write buffers one after another. OSError if there is not enough memory."""
        starts = _starts([buffer.nbytes for buffer in buffers])
        if self.memory is None or len(self.memory) < starts[-1]:
            size = max(starts[-1], mmap.PAGESIZE)  # a map cannot be empty
            os.posix_fallocate(self.file, 0, size)
            self.memory = mmap.mmap(self.file, size)
        for start, buffer in zip(starts, buffers):
            self.memory[start : start + buffer.nbytes] = buffer

    def parts(self, sizes: Sequence[int]) -> list[memoryview]:
        """Return the buffers that the other process has written, without copying them. `sizes` are in bytes."""
        starts = _starts(sizes)
        if self.memory is None or len(self.memory) < starts[-1]:
            self.memory = mmap.mmap(self.file, os.fstat(self.file).st_size)
        whole = memoryview(self.memory)
        return [whole[start : start + size] for start, size in zip(starts, sizes)]

    def close(self) -> None:
        """Release the memory. Arrays that are still in use keep it alive."""
        self.memory = None
        os.close(self.file)


def ordered_map(
    function: Callable[[T], R], tasks: Sequence[T], workers: int, use_shared_memory: bool = True
) -> Generator[R, None, None]:
    """Yield `function(task)` for each task, in order, computed ahead in `workers` processes, or in this one for 0.

    Arrays in a result are valid until the next result is requested; copy them to keep them. Where processes cannot be
    forked, the function and the tasks must be picklable.

    Raises:
        UserError: The function raised it or failed in a worker, a worker was killed, or there is no memory to share.
            All workers are stopped first.
    """
    if workers == 0:
        yield from map(function, tasks)
        return
    pool: list[_Worker] = []
    try:
        for index in range(min(workers, len(tasks))):
            pool.append(_Worker(index, workers, function, use_shared_memory, pool))
        for i, task in enumerate(tasks[: AHEAD * len(pool)]):
            pool[i % len(pool)].send(task)
        for i in range(len(tasks)):
            worker = pool[i % len(pool)]
            yield worker.receive(pool)
            later = i + AHEAD * len(pool)
            if later < len(tasks):
                worker.send(tasks[later])
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """One worker, as the parent process sees it."""

    def __init__(self, index: int, count: int, function: Callable, use_shared_memory: bool, elders: list[_Worker]):
        self.name = f"data worker {index + 1} of {count}"
        context: Any = multiprocessing.get_context(START_METHOD)  # its type lacks `Process`
        self.connection, theirs = context.Pipe()
        forked = START_METHOD == "fork"
        self.blocks = _shared_blocks() if use_shared_memory and forked else []
        inherited = [*(elder.connection for elder in elders), self.connection] if forked else []
        arguments = (function, theirs, self.blocks, inherited)
        self.process = context.Process(target=_work, args=arguments, name=self.name, daemon=True)
        self.process.start()
        theirs.close()
        self.turns = itertools.cycle(self.blocks or [None])

    def send(self, task: Any) -> None:
        try:
            self.connection.send(task)
        except (BrokenPipeError, ConnectionResetError):
            raise self.death() from None

    def receive(self, pool: list[_Worker]) -> Any:
        ready = wait([self.connection, *(worker.process.sentinel for worker in pool)])
        if self.connection not in ready:
            raise next(worker for worker in pool if worker.process.sentinel in ready).death()
        block = next(self.turns)
        try:
            kind, content, sizes = self.connection.recv()
            buffers = [self.connection.recv_bytes() for _ in sizes if block is None]
        except (EOFError, OSError):
            raise self.death() from None
        if kind == "user error":
            raise UserError(content)
        if kind == "error":
            summary, details = content
            cause = WorkerTraceback(details)
            raise UserError(f"{self.name} failed: {summary}; set worker_num=0 to see where") from cause
        return pickle.loads(content, buffers=buffers if block is None else block.parts(sizes))

    def death(self) -> UserError:
        self.process.join(timeout=5)
        code = self.process.exitcode
        killed = code is not None and code < 0
        how = f"was killed by {signal.Signals(-code).name}" if killed else f"ended with exit code {code}"
        fix = "lower worker_num or the reader's batch_size"
        if code == -signal.SIGKILL:
            how += ", most likely because the machine ran out of memory"
        if code == -signal.SIGBUS:
            how += ", most likely because shared memory ran out"
            fix = f"set use_shared_memory: false in the reader, or {fix}"
        return UserError(f"{self.name} (pid {self.process.pid}) {how}: {fix}")

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join(timeout=5)
        for block in self.blocks:
            block.close()


def _shared_blocks() -> list[SharedBlock]:
    """The shared blocks of one worker; none if the system does not support them."""
    if not HAS_SHARED_MEMORY:
        return []
    try:
        return [SharedBlock() for _ in range(AHEAD)]
    except OSError:
        return []


def _starts(sizes: Sequence[int]) -> list[int]:
    """The aligned start of each buffer, followed by the end of the last one."""
    rounded = (-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)
    return list(itertools.accumulate(rounded, initial=0))


def _work(function: Callable, connection: Connection, blocks: list[SharedBlock], inherited: list[Connection]) -> None:
    """Run in a worker: receive tasks and send results until the parent closes the pipe."""
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    for number in (signal.SIGTERM, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE):
        signal.signal(number, signal.SIG_DFL)
    run_on_one_thread()
    gc.freeze()  # do not free objects of the parent, which may hold device memory
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        for block in itertools.cycle(blocks or [None]):
            task = connection.recv()
            try:
                message, buffers = _pack(function(task), block)
            except UserError as error:
                message, buffers = ("user error", str(error), []), []
            except Exception as error:
                summary = f"{type(error).__name__}: {error}"
                message, buffers = ("error", (summary, traceback.format_exc()), []), []
            connection.send(message)
            for buffer in buffers:
                connection.send_bytes(buffer)


def run_on_one_thread() -> None:
    """Limit OpenCV to one thread, and keep freed memory in this process.

    By default, glibc returns large freed blocks to the system, and page faults then cost as much time as the work.
    """
    cv2.setNumThreads(0)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(TRIM_THRESHOLD, (1 << 31) - 1)


def _pack(result: Any, block: Optional[SharedBlock]) -> tuple[tuple, list[memoryview]]:
    """Return the message for a result, and the buffers that must be sent through the pipe."""
    out_of_band: list[pickle.PickleBuffer] = []
    content = pickle.dumps(result, protocol=5, buffer_callback=out_of_band.append)
    buffers = [buffer.raw() for buffer in out_of_band]
    message = ("result", content, [buffer.nbytes for buffer in buffers])
    if block is None:
        return message, buffers
    try:
        block.write(buffers)
    except OSError as error:
        size = sum(buffer.nbytes for buffer in buffers) / 2**20
        raise UserError(
            f"a data worker cannot get {size:.0f} MB of shared memory ({error.strerror}): set "
            "use_shared_memory: false in the reader, or lower worker_num or batch_size"
        ) from error
    return message, []
