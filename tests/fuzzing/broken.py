"""A reader that misbehaves, to test the runner: the name of the file says how."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random
from typing import Dict

from ppdet_repro.utils.errors import UserError

KINDS = ("loaded", "refused", "traceback", "message", "side effect", "signal", "exit", "memory", "hangs")


def generate(rng: Random) -> Dict[str, bytes]:
    return {rng.choice(KINDS): b"the cause: BUG, and other bytes"}


def read(folder: Path) -> None:
    (path,) = folder.iterdir()
    if b"BUG" not in path.read_bytes():
        return
    if path.name == "refused":
        raise UserError("a mistake")
    if path.name == "traceback":
        raise ValueError("a mistake")
    if path.name == "message":
        raise UserError("x" * 100_000)
    if path.name == "side effect":
        (folder / "new").write_text("")
    if path.name == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.name == "exit":
        os._exit(3)
    if path.name == "memory":
        _ = b"x" * (700 << 20)
    if path.name == "hangs":
        time.sleep(60)
