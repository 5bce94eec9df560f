"""Reads made-up files in a process of their own, and reports whatever is not a value or one clear error.

A case is a set of files that a module of this package makes from a seed and a number. It fails if reading it

- ends the process, takes more than `MAX_SECONDS` of a processor, or needs more than `MAX_MEMORY` and a multiple of its
  bytes;
- raises anything but a `UserError`, or one whose message is long or cannot be printed;
- writes, deletes, starts or connects to anything (Python's audit events tell).
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.printable import printable

MAX_SECONDS = 5.0
HANGS = 60.0  # seconds by the clock until a process is ended; the machine may do other things, too
MAX_MEMORY = 500 << 20  # bytes, beyond those that are in use before
MEMORY_PER_BYTE = 8  # of the case's files
ADDRESS_SPACE = 6 << 30  # more than any case may take: an allocation above it fails
MAX_MESSAGE, MAX_LINES = 20_000, 60  # characters and lines of an error
MINIMIZING = 300  # attempts to make a failing case smaller
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.remove", "os.rename", "os.mkdir",
    "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.kill", "os.putenv",
    "subprocess.Popen", "shutil.", "socket.", "ctypes.", "pty.spawn", "urllib.", "tempfile.", "pickle.find_class",
)  # fmt: skip

ENVIRONMENT = {"pictures": {"OPENCV_IO_MAX_IMAGE_PIXELS": "25000000"}}  # variables of the process that reads

Files = Dict[str, bytes]


class Result(NamedTuple):
    """What reading a case did. `outcome` is loaded or refused if all is well."""

    outcome: str
    detail: str = ""
    seconds: float = 0.0  # of the processor
    memory: int = 0  # bytes


class Failure(NamedTuple):
    """A case that is not as it should be, and its files made as small as the failure allows."""

    number: int
    result: Result
    files: Files


def case(what: str, seed: int, number: int) -> Files:
    """The files of a case. They depend on nothing but the arguments."""
    module = importlib.import_module(f"tests.fuzzing.{what}")
    return module.generate(random.Random(f"{what} {seed} {number}"))


class Watch:
    """Collects the audit events of what a reader must not do."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self.armed, self.allowed = False, allowed
        self.events: List[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: Any) -> None:
        if not self.armed or event in self.allowed:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or event.startswith(FORBIDDEN):
            self.events.append(f"{event} {arguments!r}"[:200])


def worker(what: str, connection: Any) -> None:
    """Read the cases that come through the connection, and send the results back."""
    os.environ.update(ENVIRONMENT.get(what, {}))
    module = importlib.import_module(f"tests.fuzzing.{what}")
    forks = getattr(module, "FORKED", False)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch, folder = Watch(getattr(module, "ALLOWED", ())), Path(tempfile.mkdtemp(prefix="fuzz"))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the log of what is read
    os.dup2(sys.stderr.fileno(), 2)  # what C libraries write about it
    try:
        while (files := connection.recv()) is not None:
            shutil.rmtree(folder)
            folder.mkdir()
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            os.chdir(folder)
            task = partial(examine, module.read, folder, watch, sum(map(len, files.values())))
            connection.send(in_fork(task) if forks else task())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_fork(task: Callable[[], Result]) -> Result:
    """Do a task in a fork of this process, which thereby stays as it is."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(max(1, int(HANGS) - 1))
        with open(writing, "wb") as file:
            file.write(pickle.dumps(task()))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        data = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return pickle.loads(data)
    if code == -signal.SIGALRM:
        return Result("hangs", f"more than {HANGS:.0f} seconds", HANGS)
    return Result("signal" if code < 0 else "exit", f"exit code {code}")


def examine(read: Callable[[Path], None], folder: Path, watch: Watch, size: int) -> Result:
    """Read one case and judge what happened."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the memory starts anew
    before, start = peak_memory(), time.process_time()
    watch.events.clear()
    watch.armed = True
    outcome, detail = "loaded", ""
    try:
        read(folder)
    except UserError as error:
        outcome, detail = "refused", str(error)
    except BaseException:
        outcome, detail = "traceback", traceback.format_exc(limit=-6)
    watch.armed = False
    seconds, memory = time.process_time() - start, peak_memory() - before
    if outcome == "refused":
        shown = printable(detail)
        if len(shown) > MAX_MESSAGE or shown.count("\n") >= MAX_LINES or not shown.isascii() and not encodable(shown):
            outcome = "message"
    if watch.events:
        outcome, detail = "side effect", "; ".join(watch.events)
    elif seconds > MAX_SECONDS:
        outcome = "slow"
    elif "enough memory" in detail or memory > MAX_MEMORY + MEMORY_PER_BYTE * size:
        outcome = "memory"
    return Result(outcome, detail[:3000], seconds, memory)


def encodable(text: str) -> bool:
    try:
        return bool(text.encode("utf-8"))
    except UnicodeError:
        return False


def peak_memory() -> int:
    """The largest number of bytes that this process has had in memory so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0


class Reader:
    """A worker process, which is started anew after it ended."""

    def __init__(self, what: str):
        self.what = what
        self.process: Optional[Any] = None

    def __call__(self, files: Files) -> Result:
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.connection, inner = context.Pipe()
            self.process = context.Process(target=worker, args=(self.what, inner), daemon=True)
            self.process.start()
            inner.close()
        self.connection.send(files)
        try:
            if not self.connection.poll(HANGS):
                self.close()
                return Result("hangs", f"more than {HANGS:.0f} seconds", HANGS)
            result = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode
            self.close()
            return Result("signal" if code and code < 0 else "exit", f"exit code {code}")
        return result

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def fuzz(what: str, cases: int, seed: int, report: Callable[[str], None] = print) -> Iterator[Failure]:
    """Read so many cases of a kind. Yields those that fail, and reports the counts at the end."""
    module = importlib.import_module(f"tests.fuzzing.{what}")
    if hasattr(module, "fuzz"):  # its cases are not files
        yield from module.fuzz(cases, seed, report)
        return
    reader, longest, largest = Reader(what), 0.0, 0
    outcomes: Dict[str, int] = {}
    try:
        for number in range(cases):
            files = case(what, seed, number)
            result = reader(files)
            outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
            longest, largest = max(longest, result.seconds), max(largest, result.memory)
            if result.outcome not in ("loaded", "refused"):
                yield Failure(number, result, smaller(reader, files, result.outcome))
    finally:
        reader.close()
    counts = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(outcomes.items()))
    report(
        f"{what}: {counts}; at most {longest:.1f} s of the processor and {largest / 2**20:.0f} MB more memory in a case"
    )


def smaller(reader: Callable[[Files], Result], files: Files, outcome: str) -> Files:
    """Remove pieces of the largest file as long as the outcome stays the same."""
    name = max(files, key=lambda key: len(files[key]))
    data, piece, left = files[name], len(files[name]) // 2, MINIMIZING
    while piece and left > 0:
        at = 0
        while at < len(data) and left > 0:
            shorter = data[:at] + data[at + piece :]
            left -= 1
            if outcome not in ("slow", "hangs") and reader({**files, name: shorter}).outcome == outcome:
                data = shorter
            else:
                at += piece
        piece //= 2
    return {**files, name: data}
