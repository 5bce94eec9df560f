"""Loads an exported model for the first time in a process of its own.

Paddle Inference and Paddle-Lite crash on some damaged files, and a crash takes the whole process with it. A model
whose files no manifest vouches for is therefore loaded and run once in a child process. If that goes well, a small file
in the user's folder for caches says so, and the same files are not tried again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from ppdet_repro import __version__
from ppdet_repro.data.transform.preprocess import from_list
from ppdet_repro.runtime.manifest import AGAIN, sha256, versions
from ppdet_repro.runtime.model_folder import ModelFolder, open_model_folder
from ppdet_repro.runtime.networks import first_line
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.user_cache import user_cache

PACKAGE_ROOT = Path(__file__).resolve().parents[2]
CHILD = "import sys; from ppdet_repro.runtime.trial import child; child(*sys.argv[1:])"
SECONDS = 600  # a child that takes longer has failed
MEMORY = 400 << 20  # bytes that a model may take, with the next two
MEMORY_PER_BYTE = 8  # of its files
MEMORY_PER_PIXEL = 2048  # bytes for each pixel of the network's input
MAX_MEMORY = 4 << 30  # bytes, in any case
WORKS = b"this model was loaded and run once without a crash\n"
ONEDNN_FLAGS = ("enable_mkldnn", "enable_mkldnn_bfloat16", "enable_mkldnn_int8")
ENGINES: Dict[str, Tuple[str, str, Tuple[str, ...]]] = {  # --engine -> its name, module, and packages on PyPI
    "paddle": ("Paddle", "ppdet_repro.runtime.paddle_network", ("paddlepaddle", "paddlepaddle-gpu")),
    "onnxruntime": ("ONNX Runtime", "onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    "openvino": ("OpenVINO", "openvino", ("openvino",)),
    "lite": ("Paddle-Lite", "paddlelite.lite", ("paddlelite",)),
}


def try_out(model: ModelFolder, flags: Namespace) -> None:
    """Load and run a model once in a process of its own, unless these files went well before with this engine.

    It runs on the CPU, whatever device the flags name. UserError if the process crashes, finds the model damaged, or
    takes too much memory or time.
    """
    settings = settings_of(flags)
    record = record_file(model, settings)
    if not went_well(record):
        try_in_child(model, settings)
        with suppress(UserError):  # the folder cannot be written: the next process tries the model again
            write_output(record, WORKS)


def settings_of(flags: Namespace) -> Dict[str, Any]:
    """The flags for the child process: the engine, and on the CPU those of oneDNN."""
    chosen = ONEDNN_FLAGS if getattr(flags, "device", "cpu") == "cpu" else ()
    onednn = {name: getattr(flags, name) for name in chosen if hasattr(flags, name)}
    return {"engine": flags.engine, "device": "cpu", "run_mode": "paddle", "cpu_threads": 1, **onednn}


def record_file(model: ModelFolder, settings: Dict[str, Any]) -> Path:
    """The file whose existence says that a model went well; its name depends on all that matters for that. UserError if
    a file of the model cannot be read."""
    _, _, packages = ENGINES[settings["engine"]]
    try:
        files = [sha256(path) for path in (*model.files, model.config_file)]
    except OSError as error:
        raise UserError(f"{model.folder}: cannot read the model: {error.strerror}") from error
    facts = [__version__, sorted(versions(packages).items()), sorted(settings.items()), files]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return user_cache("loaded") / name


def went_well(record: Path) -> bool:
    """Whether a model went well before."""
    with suppress(OSError):
        return record.read_bytes() == WORKS
    return False


def try_in_child(model: ModelFolder, settings: Dict[str, Any]) -> None:
    """Run `child` for a model in a process of its own. UserError if it fails."""
    engine = ENGINES[settings["engine"]][0]
    what = f"{engine} on {model.network_file}, tried out in a process of its own,"
    try:
        names = "fastdeploy" if model.network_file.stem == "inference" else ""
        code, output = run_child([str(model.folder), names, json.dumps(settings)])
    except subprocess.TimeoutExpired:
        raise UserError(f"{what} took more than {SECONDS} seconds; {AGAIN}") from None
    except OSError as error:
        raise UserError(f"{what} cannot be started: {error.strerror}") from error
    judge(code, output, what)


def run_child(arguments: Sequence[str]) -> Tuple[int, str]:
    """Call `child` in a process of its own. Its exit code, or minus the signal that ended it, and its output."""
    paths = os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", CHILD, *arguments]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=SECONDS, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def judge(code: int, output: str, what: str) -> None:
    """UserError if the child process that did `what` crashed, or printed what is wrong with the model."""
    verdicts = re.findall(r"^VERDICT (.*)$", output, re.MULTILINE)
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        likely = "the machine has too little memory" if name == "SIGKILL" else "the model is damaged"
        raise UserError(f"{what} crashed ({name}), most likely because {likely}; {AGAIN}")
    if code or not verdicts:
        raise UserError(f"{what} ended early with exit code {code}, most likely because the model is damaged; {AGAIN}")
    error = json.loads(verdicts[-1])
    if error is not None:
        raise UserError(error)


def child(folder: str, names: str, settings: str) -> None:
    """In the child process: load and run a model. Prints the error as JSON, null if there is none."""
    flags = Namespace(**json.loads(settings))
    model = open_model_folder(folder, names == "fastdeploy", flags.engine)
    with suppress(ImportError):  # `error_of` reports it
        importlib.import_module(ENGINES[flags.engine][1])
    limit_memory(model)
    print(f"\nVERDICT {json.dumps(error_of(model, flags))}", flush=True)


def error_of(model: ModelFolder, flags: Namespace) -> Optional[str]:
    """Load a model and run it on a gray image in this process. The error as text; None if there is none."""
    from ppdet_repro.runtime.engines import open_network  # which imports this module

    name = ENGINES[flags.engine][0]
    try:
        inputs = from_list(model.preprocess, str(model.config_file))([np.full([64, 64, 3], 128, np.uint8)])
        open_network(model._replace(checked=True), flags).run(inputs._asdict())
    except UserError as error:
        return str(error)
    except MemoryError:
        return f"{name} needs more memory for {model.network_file} than a model of this size may take; {AGAIN}"
    except Exception as error:  # engines raise many types
        return f"{name} cannot run {model.network_file}: {type(error).__name__}: {first_line(error)[:200]}; {AGAIN}"
    return None


def limit_memory(model: ModelFolder) -> None:
    """Limit the memory that this process may add to what it has, where the system can, and write no core dumps."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = re.search(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if used:
            limit = 1024 * int(used[1]) + allowed_memory(model)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def allowed_memory(model: ModelFolder) -> int:
    """The bytes that a model may take, by the size of its files and of its input."""
    size = sum(path.stat().st_size for path in model.files)
    sizes = [step.get(key) for step in model.preprocess for key in ("target_size", "size")]
    pixels = max((np.prod(value, dtype=float) for value in sizes if isinstance(value, list)), default=0.0)
    return min(MAX_MEMORY, MEMORY + MEMORY_PER_BYTE * size + MEMORY_PER_PIXEL * int(pixels))
