"""Run one command in several processes on this machine's CPU; all of them write to the caller's terminal.

Training a small model on the CPU is faster in two processes than on two threads, because Paddle unfolds the input of
each convolution on a single thread. For GPUs or several machines there is `python -m paddle.distributed.launch`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import Dict, List, Mapping, Sequence

POLL, PATIENCE = 0.2, 10.0  # seconds
PIPE = "PPDET_REPRO_LAUNCHER"  # the variable with the file descriptor that `end_with_launcher` reads


def rerun_arguments() -> List[str]:
    """The arguments that make Python run this process's program again: the script's path, or `-m` and a module."""
    spec = sys.modules["__main__"].__spec__  # None for a script
    return [sys.argv[0]] if spec is None else ["-m", spec.name]


def run_processes(count: int, argv: Sequence[str]) -> int:
    """Run `python argv...` in `count` processes that are the ranks of one distributed Paddle run.

    If one process fails, the others are terminated. If this process gets SIGTERM or Ctrl-C, so do they; for SIGKILL,
    see `end_with_launcher`. Returns the exit code: 0 if all succeed, else that of the first that failed, or 1 if a
    signal ended it.
    """
    # On SIGTERM, exit through every `finally`, with the code that a shell reports for this signal.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    environs = rank_environs(count, free_ports(count + 1), os.environ)
    reading, writing = os.pipe()
    command = [sys.executable, *argv]
    processes = [
        subprocess.Popen(command, env={**environ, PIPE: str(reading)}, pass_fds=[reading]) for environ in environs
    ]
    try:
        while any(process.poll() is None for process in processes) and not failures(processes):
            time.sleep(POLL)
        failed = failures(processes)
    except KeyboardInterrupt:  # the terminal sends Ctrl-C to the children too: let them finish their cleanup
        wait(processes)
        raise
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        wait(processes)
        os.close(reading)
        os.close(writing)
        signal.signal(signal.SIGTERM, before)
    return max(failed[0], 1) if failed else 0


def end_with_launcher() -> None:
    """In a process that `run_processes` started: end when the process that called it does, even by SIGKILL.

    Otherwise the processes would train on, and write into the folder in which the user has started them again. In any
    other process this does nothing.
    """
    descriptor = os.environ.pop(PIPE, None)
    if descriptor is None:
        return

    def wait_for_end() -> None:
        os.read(int(descriptor), 1)  # nobody writes: it returns when the other end is closed
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_end, daemon=True).start()


def end_on_sigterm() -> None:
    """Let SIGTERM end this process at once, unless the program has a handler of its own in Python.

    Paddle's handler, which is there once Paddle is imported, allocates memory. A process that gets the signal while it
    allocates memory itself would then wait for itself forever.
    """
    own = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None)
    if not own and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def rank_environs(count: int, ports: Sequence[int], environ: Mapping[str, str]) -> List[Dict[str, str]]:
    """`environ` with the variables of each of `count` ranks, as Paddle's launcher sets them.

    There must be `count` + 1 free ports; the last one is the master's.
    """
    endpoints = [f"127.0.0.1:{port}" for port in ports]
    sizes = ("GLOBAL_SIZE", "LOCAL_SIZE", "TRAINERS_NUM")
    ranks = ("GLOBAL_RANK", "LOCAL_RANK", "RANK_IN_NODE", "TRAINER_ID")
    return [
        {
            **environ,
            **{f"PADDLE_{name}": str(count) for name in sizes},
            **{f"PADDLE_{name}": str(rank) for name in ranks},
            "PADDLE_MASTER": endpoints[-1],
            "PADDLE_NNODES": "1",
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints[:-1]),
            "PADDLE_DISTRI_BACKEND": "gloo",
        }
        for rank in range(count)
    ]


def free_ports(count: int) -> List[int]:
    """`count` different ports on which no program listens at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def failures(processes: Sequence[subprocess.Popen]) -> List[int]:
    """The exit codes, other than 0, of the processes that have ended."""
    return [process.returncode for process in processes if process.poll() not in (None, 0)]


def wait(processes: Sequence[subprocess.Popen]) -> None:
    """Wait for all processes; kill those that do not end within `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
