"""Which operators of Paddle 3's programs the installed Paddle cannot run with oneDNN.

Paddle 3.3.1, for example, refuses to resize and crashes on a leaky ReLU after a convolution. Small programs are tried
out: each in a process of its own, because it may crash, and once per Paddle and processor, because that takes seconds.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np
import paddle
from paddle import inference, nn
from paddle.nn import functional as F

from ppdet_repro.paddle_private.saved_program import inference_config, is_pir, saved_program
from ppdet_repro.paddle_private.versions import PADDLE, TESTED
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.files import write_output
from ppdet_repro.utils.user_cache import user_cache

# Operators that failed in a released Paddle, and what makes a network have them
SUSPECTS: Dict[str, Callable[[paddle.Tensor], paddle.Tensor]] = {
    "nearest_interp": lambda x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "bilinear_interp": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
}
PACKAGE_ROOT = Path(__file__).resolve().parents[2]
CHILD = "from ppdet_repro.paddle_private.onednn_check import try_out; try_out({name!r})"
SECONDS = 300  # a child that takes longer has failed
FAILED = 7  # the exit code of a child whose program raises, or computes something else than without oneDNN
CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


def onednn_failure(program: Path, operators: Sequence[str]) -> Optional[str]:
    """A sentence that says on which of a program's operators oneDNN fails; None if it runs the program."""
    failing = [name for name in SUSPECTS if name in operators and not works(name)] if is_pir(program) else []
    return f"oneDNN of Paddle {PADDLE} fails on {' and '.join(failing)}" if failing else None


def onednn_note(program: Path) -> Optional[str]:
    """For a program that oneDNN runs, and a Paddle that this package is not tested with: a sentence that says on which
    operators, none of them in the program, oneDNN fails. None if it fails on none."""
    failing = [name for name in SUSPECTS if not works(name)] if is_pir(program) and not TESTED else []
    return (
        f"oneDNN of Paddle {PADDLE} fails on {', '.join(failing)}, which this network does not have"
        if failing
        else None
    )


@functools.cache
def works(name: str) -> bool:
    """Whether oneDNN runs a suspect after a convolution. The answer is kept in the user's folder for caches."""
    record = user_cache("onednn") / f"{installation()}-{name}"
    with suppress(OSError):
        return record.read_text() == "works"
    code = run_child(CHILD.format(name=name))
    if code in (0, FAILED) or (code is not None and -code in CRASHES):  # otherwise it did not get to its program
        with suppress(UserError):  # the folder cannot be written: the next process tries again
            write_output(record, b"fails" if code else b"works")
    return code == 0


def installation() -> str:
    """A name for the installed Paddle on this processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return f"paddle{PADDLE}-{digest(paddle.version.commit, flags)}"
    return f"paddle{PADDLE}-{digest(paddle.version.commit, platform.processor())}"


def digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def run_child(code: str) -> Optional[int]:
    """Run Python code in a process of its own. Its exit code, or minus its signal; None if it did not end."""
    paths = os.pathsep.join([str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    with suppress(OSError, subprocess.TimeoutExpired):
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, env=environment, timeout=SECONDS, check=False).returncode
    return None


class AfterConvolution(nn.Layer):
    """A convolution, and then a suspect."""

    def __init__(self, name: str):
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, padding=1)
        self.suspect = SUSPECTS[name]

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        return self.suspect(self.conv(image))


def try_out(name: str) -> None:
    """In the child process: run a suspect with and without oneDNN. Exits with `FAILED` if that fails."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            spec = paddle.static.InputSpec([1, 3, 8, 8], "float32", "image")
            layer = AfterConvolution(name)
            layer.eval()
            prefix = Path(folder, "model")
            paddle.jit.save(paddle.jit.to_static(layer, input_spec=[spec], full_graph=True), str(prefix))
            image = np.random.default_rng(0).normal(size=[1, 3, 8, 8]).astype(np.float32)
            with_onednn, without = (run(saved_program(prefix), image, onednn) for onednn in (True, False))
        np.testing.assert_allclose(with_onednn, without, atol=1e-4)
    except Exception as error:  # Paddle raises many types
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(FAILED)


def run(program: Path, image: np.ndarray, onednn: bool) -> np.ndarray:
    """The first output of a program."""
    config = inference_config(program)
    config.disable_gpu()
    if onednn:
        config.enable_mkldnn()
    else:
        config.disable_mkldnn()
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle("image").copy_from_cpu(image)
    predictor.run()
    outputs: List[str] = predictor.get_output_names()
    return predictor.get_output_handle(outputs[0]).copy_to_cpu()
