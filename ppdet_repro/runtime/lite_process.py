"""A Paddle-Lite network in a process of its own: a model that crashes it costs one line, not the caller's life."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List, Mapping

import numpy as np

from ppdet_repro.runtime.networks import LiteNetwork
from ppdet_repro.utils.errors import UserError

CHILD = "import sys; from ppdet_repro.runtime import lite_process; lite_process.{task}(*sys.argv[1:])"
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class LiteProcess:
    """`LiteNetwork` for checking a model: every run starts a process, so it is slow."""

    def __init__(self, path: Path):
        self.path = path

    def check(self) -> None:
        """UserError if Paddle-Lite cannot load the model."""
        self._child("loaded", "load_once", str(self.path))

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """As `LiteNetwork.run`. UserError also where Paddle-Lite aborts."""
        with tempfile.TemporaryDirectory() as folder:
            given, result = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
            np.savez(given, **inputs)
            self._child("ran", "run_once", str(self.path), str(given), str(result))
            with np.load(result) as arrays:
                return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]

    def _child(self, did: str, task: str, *arguments: str) -> None:
        """Run a function of this module in a process of its own. UserError if it does not end well."""
        paths = os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-c", CHILD.format(task=task), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONPATH": paths},
        )
        if done.returncode:
            lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
            end = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
            reason = (lines or ["it said nothing"])[-1].strip()
            raise UserError(f"Paddle-Lite ended with {end} when it {did} {self.path}: {reason}")


def load_once(model: str) -> None:
    """The child: nothing but loading."""
    LiteNetwork(Path(model))


def run_once(model: str, given: str, result: str) -> None:
    """The child: one run, inputs and outputs in files."""
    with np.load(given) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    np.savez(result, *LiteNetwork(Path(model)).run(inputs))
