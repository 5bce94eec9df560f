"""Whether another engine runs a model faster on this machine. `ppdet-repro infer --run_benchmark` measures it."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional

import numpy as np

from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.networks import network_file
from ppdet_repro.runtime.pipeline import Engine
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.logger import get_logger

WARM_UPS, ROUNDS = 5, 20
GAIN = 0.9  # another engine must take at most this share of the time

Open = Callable[[Path, Namespace], Engine]  # a model's folder and flags -> the engine


def other_flags(flags: Namespace) -> Optional[Namespace]:
    """The flags that run, in float32 on the CPU, the export for the other of Paddle Inference and ONNX Runtime that
    lies beside the model: DIR and DIR_onnx. None if there is no such export, or the flags ask for something else."""
    folder = Path(flags.model_dir)
    beside = {"paddle": ("onnxruntime", folder.with_name(f"{folder.name}_onnx"))}
    if folder.name.endswith("_onnx"):
        beside["onnxruntime"] = ("paddle", folder.with_name(folder.name[: -len("_onnx")]))
    low = flags.enable_mkldnn_bfloat16 or flags.run_mode != "paddle" or flags.use_fd_format
    if flags.engine not in beside or flags.device != "cpu" or low:
        return None
    engine, other = beside[flags.engine]
    if not network_file(other, engine).is_file():
        return None
    return Namespace(**{**vars(flags), "engine": engine, "model_dir": str(other)})


def faster_engine(engine: Engine, flags: Namespace, inputs: Mapping[str, np.ndarray], open_other: Open) -> None:
    """Time an engine and the other one on the same inputs, alternately, and log a line if the other is faster, or why
    it does not run."""
    other = other_flags(flags)
    if other is None:
        return
    try:
        rival = open_other(Path(other.model_dir), other)
        times = alternate({flags.engine: engine, other.engine: rival}, inputs)
    except UserError as error:
        get_logger().info(f"{other.model_dir} cannot be compared: {error}")
        return
    ours, theirs = (1000 * float(np.median(times[name])) for name in (flags.engine, other.engine))
    if theirs <= GAIN * ours:
        figures = f"{theirs:.1f} ms per batch against {ours:.1f}"
        get_logger().info(f"faster on this machine: --model_dir={other.model_dir} --engine={other.engine} ({figures})")


def alternate(engines: Mapping[str, Engine], inputs: Mapping[str, np.ndarray]) -> Dict[str, List[float]]:
    """The seconds of `ROUNDS` runs of each engine, one after the other in each round, without the warm-up."""
    times: Dict[str, List[float]] = {name: [] for name in engines}
    for _ in range(WARM_UPS + ROUNDS):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.run(inputs)
            times[name].append(time.perf_counter() - start)
    return {name: seconds[WARM_UPS:] for name, seconds in times.items()}


def compare_engines(engine: Engine, flags: Namespace, inputs: Mapping[str, np.ndarray]) -> None:
    """`faster_engine` with the engines of this machine."""
    from ppdet_repro.runtime.engines import open_engine

    faster_engine(engine, flags, inputs, lambda folder, f: open_engine(open_model_folder(folder, engine=f.engine), f))
