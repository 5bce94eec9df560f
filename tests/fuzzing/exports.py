"""Exported models, with and without a manifest: damaged, cut, exchanged and missing files; and infer_cfg.yml.

A model is opened and run as `ppdet-repro infer` does it. Only two things are different: where the product starts a
process to try out a model, this makes a fork of the reader's process, which has imported Paddle but has run nothing;
and models that went well are not remembered. The rest of `runtime.trial`, also its limits, is the product's.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import paddle

from ppdet_repro.core.config import load_config
from ppdet_repro.engine.export.export_model import export_model
from ppdet_repro.engine.models import load_trained
from ppdet_repro.paddle_private.saved_program import signature
from ppdet_repro.runtime import paddle_network, trial  # noqa: F401  imports Paddle Inference before the forks
from ppdet_repro.runtime.engines import open_pipeline
from ppdet_repro.runtime.manifest import MANIFEST, write_manifest
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import build_parser
from ppdet_repro.utils.errors import UserError
from tests.fuzzing import configs
from tests.fuzzing.mutations import damaged
from tests.fuzzing.runner import MAX_MEMORY, MAX_SECONDS
from tests.paths import FIXTURES

FORKED = True  # each case has a process of its own: engines keep threads and memory
ALLOWED = ("os.fork",)
OLD = FIXTURES / "version_0_1_0"
EXPECTED = "expected"  # a file of a case: what must become of it
SECONDS = 30  # for a forked trial
INFER_CFG, INFO = "infer_cfg.yml", "model.pdiparams.info"  # the second is of use to training alone


def generate(rng: random.Random) -> Dict[str, bytes]:
    """The files of a case: those of an export, after one or more changes."""
    export = rng.choice(genuine())
    files = dict(export)
    if rng.random() < 0.5:
        del files[MANIFEST]
    for _ in range(rng.choice([1, 1, 1, 2])):
        change(rng, files)
    network = [name for name in export if name not in (MANIFEST, INFER_CFG, INFO)]
    if files.get(MANIFEST) == export[MANIFEST] and any(files.get(name) != export[name] for name in network):
        files[EXPECTED] = b"refused"
    if files == export:
        files[EXPECTED] = b"loaded"
    return {"engine": b"onnxruntime" if "model.onnx" in export else b"paddle", **files}


def change(rng: random.Random, files: Dict[str, bytes]) -> None:
    """Change one file, exchange two, or remove one."""
    names = sorted(set(files) - {EXPECTED})
    weights = [{INFER_CFG: 2, MANIFEST: 2, "model.pdiparams": 2, INFO: 0}.get(name, 4) for name in names]
    (name,) = rng.choices(names, weights)
    others = [content for export in genuine() for content in export.values()]
    kind = rng.random()
    if kind < 0.7:
        damage = configs.changed(rng, files[name].decode(errors="replace")) if name == INFER_CFG else b""
        files[name] = damage or damaged(rng, files[name], others)
    elif kind < 0.8:
        files[name] = files[name][: rng.randrange(len(files[name]) + 1)]
    elif kind < 0.86:
        other = rng.choice(names)
        files[name], files[other] = files[other], files[name]
    elif kind < 0.92:
        files[name] = rng.choice([b"", b"\0", b"x", rng.randbytes(100), bytes(100_000), b"[" * 100_000])
    elif kind < 0.98:
        files[name] = rng.choice(others)
    else:
        del files[name]


def read(folder: Path) -> None:
    """Open the model and run it, as `ppdet-repro infer` does."""
    before = sorted(os.listdir(folder))
    trial.run_child, trial.went_well, trial.write_output = run_fork, lambda record: False, lambda path, data: None
    expected = (folder / EXPECTED).read_bytes() if (folder / EXPECTED).exists() else b""
    engine = (folder / "engine").read_text()
    try:
        flags = build_parser().parse_args([f"--model_dir={folder}", f"--engine={engine}"])
        model = open_model_folder(flags.model_dir, flags.use_fd_format, flags.engine)
        open_pipeline(model, flags)([np.full([48, 64, 3], 100, np.uint8)])
    except UserError:
        if expected == b"loaded":
            raise RuntimeError("a genuine export was refused") from None
        raise
    if expected == b"refused":
        raise RuntimeError("a file that is not what the manifest says was loaded")
    if sorted(os.listdir(folder)) != before:
        raise RuntimeError("a file was written beside the model")


def run_fork(arguments: List[str]) -> Tuple[int, str]:
    """For `trial.run_child`: call `trial.child` in a fork. Its exit code, or minus the signal, and its output."""
    before = current_memory()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(SECONDS)
            os.dup2(writing, 1)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            trial.child(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as file:
        output = file.read().decode(errors="replace")
    _, status, usage = os.wait4(pid, 0)
    seconds, memory = usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss - before
    if seconds > MAX_SECONDS or memory > MAX_MEMORY:
        raise RuntimeError(f"the trial took {seconds:.1f} seconds of the processor and {memory >> 20} MB more memory")
    return os.waitstatus_to_exitcode(status), output


def current_memory() -> int:
    """The bytes that this process has in memory."""
    return resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1])


@cache
def genuine() -> List[Dict[str, bytes]]:
    """The files of exports by name: of version 0.1.0 (.pdmodel), and of the installed Paddle, also as ONNX."""
    cfg = load_config(OLD / "tiny.yml", [f"weights={OLD}/epoch_0001", f"TestDataset.anno_path={OLD}/data/truth.json"])
    paddle.set_device("cpu")
    model = load_trained(cfg)
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old")
        shutil.copytree(OLD / "exported", old)
        write_manifest(old, "tiny", None, signature(old / "model.pdmodel"))
        folders = [old, export_model(model, cfg, folder)]
        if all(map(find_spec, ("paddle2onnx", "onnxruntime"))):
            folders.append(export_model(model, cfg, folder, "onnx"))
        return [{path.name: path.read_bytes() for path in sorted(where.iterdir())} for where in folders]
