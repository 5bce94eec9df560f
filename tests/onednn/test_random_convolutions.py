"""Some of the cases of random_convolutions.py, in a process that ends where oneDNN writes beyond its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from ppdet_repro.onednn import library

SCRIPT = Path(__file__).with_name("random_convolutions.py")


@pytest.mark.skipif(library.library() is None, reason="this Paddle has no oneDNN 3")
@pytest.mark.skipif(sys.platform != "linux", reason="memory is protected as on Linux")
def test_random_convolutions_are_those_of_paddle_and_stay_in_their_memory():
    command = [sys.executable, str(SCRIPT), "--seed", "2", "--count", "300"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    last = (done.stdout.splitlines() or ["nothing"])[-1]
    assert done.returncode == 0, f"{last}\n{done.stderr[-2000:]}"
    assert last.startswith("299 ")
