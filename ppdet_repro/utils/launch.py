"""Several processes of one command on this machine's CPU, all on the caller's terminal.

Training of small models gains more from two processes than from two threads: each convolution unfolds its input
on one thread. `python -m paddle.distributed.launch` does the same over machines and GPUs, with logs in files.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Dict, List, Mapping, Sequence

POLL, PATIENCE = 0.2, 10.0  # seconds


def run_processes(count: int, argv: Sequence[str]) -> int:
    """Run `python argv...` `count` times as the ranks of one Paddle run, and return its exit code.

    Where one fails the others are ended, and its code counts; negative ones (signals) become 1. Who ends this
    process with SIGTERM ends them too.
    """
    before = signal.signal(signal.SIGTERM, leave)
    environs = rank_environs(count, free_ports(count + 1), os.environ)
    processes = [subprocess.Popen([sys.executable, *argv], env=environ) for environ in environs]
    try:
        while any(process.poll() is None for process in processes) and not failures(processes):
            time.sleep(POLL)
        failed = failures(processes)
    except KeyboardInterrupt:  # the terminal has told the children too: they leave in good order
        wait(processes)
        raise
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        wait(processes)
        signal.signal(signal.SIGTERM, before)
    return max(failed[0], 1) if failed else 0


def leave(number: int, frame: object) -> None:
    """A signal's handler: end as an exit does, through every `finally`, with the code a shell gives the signal."""
    sys.exit(128 + number)


def rank_environs(count: int, ports: Sequence[int], environ: Mapping[str, str]) -> List[Dict[str, str]]:
    """The environment of each rank, as Paddle's launcher makes it: `count` + 1 ports, the last the master's."""
    endpoints = [f"127.0.0.1:{port}" for port in ports]
    return [
        {
            **environ,
            "PADDLE_MASTER": endpoints[-1],
            "PADDLE_NNODES": "1",
            "PADDLE_GLOBAL_SIZE": str(count),
            "PADDLE_LOCAL_SIZE": str(count),
            "PADDLE_TRAINERS_NUM": str(count),
            "PADDLE_GLOBAL_RANK": str(rank),
            "PADDLE_LOCAL_RANK": str(rank),
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints[:-1]),
            "PADDLE_DISTRI_BACKEND": "gloo",
        }
        for rank in range(count)
    ]


def free_ports(count: int) -> List[int]:
    """Different ports that nobody listens on just now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def failures(processes: Sequence[subprocess.Popen]) -> List[int]:
    """The exit codes other than 0 of those that have ended."""
    return [process.returncode for process in processes if process.poll() not in (None, 0)]


def wait(processes: Sequence[subprocess.Popen]) -> None:
    """Wait for all; one that does not end in `PATIENCE` seconds is killed."""
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
