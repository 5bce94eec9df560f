"""Exported networks in Paddle-Lite's Python package, on an x86 CPU.

Paddle-Lite aborts the process on models that it cannot load or run. The package has no setting for the number of
threads.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Mapping, Union

import numpy as np

from ppdet_repro.runtime.networks import missing
from ppdet_repro.utils.errors import UserError

CHILD = "import sys; from ppdet_repro.runtime.lite_network import run_once; run_once(*sys.argv[1:])"
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class LiteNetwork:
    """A .nb file, loaded into this process. Its input has a fixed size, for one image; `run` splits batches."""

    def __init__(self, path: Path):
        """Load a file. UserError if Paddle-Lite is not installed. A damaged file aborts this process: see `trial`."""
        self.predictor = create_predictor(path)

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """See `Network.run`."""
        count = len(inputs["image"])
        if count == 1:
            return run_predictor(self.predictor, inputs)
        images = ({name: array[i : i + 1] for name, array in inputs.items()} for i in range(count))
        return [np.concatenate(outputs) for outputs in zip(*(run_predictor(self.predictor, one) for one in images))]


class IsolatedLiteNetwork:
    """A .nb file of which every run has a process of its own: slow, but a model that aborts Paddle-Lite is an error."""

    def __init__(self, path: Path):
        self.path = path

    def run(self, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
        """See `Network.run`. Also raises UserError if Paddle-Lite aborts."""
        with tempfile.TemporaryDirectory() as folder:
            given, result = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
            named: Dict[str, Any] = dict(inputs)
            np.savez(given, **named)
            run_in_child(self.path, given, result)
            with np.load(result) as arrays:
                return [arrays[f"arr_{i}"] for i in range(len(arrays.files))]


def import_lite() -> Any:
    """The module `paddlelite.lite`. UserError if it is not installed."""
    import zlib  # noqa: F401  before paddlelite: with Paddle in the same process both crash otherwise

    try:
        import paddlelite.lite
    except ImportError:
        raise missing("paddlelite", "lite") from None
    return paddlelite.lite


def create_predictor(path: Union[str, Path]) -> Any:
    lite = import_lite()
    config = lite.MobileConfig()
    config.set_model_from_file(str(path))
    return lite.create_paddle_predictor(config)


def run_predictor(predictor: Any, inputs: Mapping[str, np.ndarray]) -> List[np.ndarray]:
    for name in predictor.get_input_names():
        predictor.get_input_by_name(name).from_numpy(np.ascontiguousarray(inputs[name], np.float32))
    predictor.run()
    outputs = [predictor.get_output_by_name(name) for name in predictor.get_output_names()]
    return [np.array(output.numpy()) for output in outputs]  # copies: the predictor owns these arrays


def run_in_child(model: Path, *files: Path) -> None:
    """Call `run_once` in a child process. UserError if that fails."""
    if not model.is_file() or not model.stat().st_size:
        raise UserError(f"{model} is missing or empty; export it again")
    paths = os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", CHILD, str(model), *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode:
        lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        end = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        reason = (lines or ["it printed nothing"])[-1].strip()
        raise UserError(f"Paddle-Lite ended with {end} when it ran {model}: {reason}")


def run_once(model: str, given: str, result: str) -> None:
    """In the child process: load a model and run it once, on arrays in the file `given`."""
    with np.load(given) as arrays:
        np.savez(result, *run_predictor(create_predictor(model), arrays))
