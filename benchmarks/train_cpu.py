"""Measure the training speed on the CPU: Paddle as it comes, the package's CPU settings, and oneDNN's kernels.

    python benchmarks/train_cpu.py -c ttfnet/pafnet_lite_mbv3_256_bccd.yml --size 320 320
    python benchmarks/train_cpu.py -o ResNet.depth=18 --size 320 320 --batch 4
    python benchmarks/train_cpu.py --network_only --torch_python /path/to/python

Each measurement is a process of its own, because the settings (see `ppdet_repro.utils.cpu_env`) must be made before
Paddle is loaded. It trains the model of a config on random images with random boxes: forward and backward pass, losses
and optimizer; the learning rate is 0, so that an untrained model cannot diverge. Measurements of all kinds alternate;
the figures are medians over the rounds, ratios to Paddle as it comes within a round, and shares of the rate at which
the machine multiplies large float32 matrices.

With `--network_only`, the loss is the sum over the head's outputs of the mean of their squares. `--torch_python` then
adds PyTorch (eager mode, channels last, bfloat16 by autocast with weights in float32): the same network in
`torch_networks.py`, run by a Python that has PyTorch, which needs neither Paddle nor this package. Before anything is
timed, its outputs and gradients are compared with Paddle's for the same weights and image, in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence

import _checkout
import numpy as np
from _memory import peak_memory
from tabulate import tabulate
from tqdm import tqdm

from ppdet_repro.onednn import library
from ppdet_repro.utils import cpu_env
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command

CONFIG = "yolof/yolof_r50_c5_1x_coco.yml"
KINDS = {  # name -> the package's settings are made, who computes the network, in bfloat16
    "Paddle as it comes": (False, "paddle", False),
    "with CPU settings": (True, "paddle", False),
    "oneDNN, float32": (True, "onednn", False),
    "oneDNN, bfloat16": (True, "onednn", True),
    "PyTorch, float32": (True, "torch", False),
    "PyTorch, bfloat16": (True, "torch", True),
}
OURS = [kind for kind, (_, computes, _) in KINDS.items() if computes != "torch"]
AGREE = 1e-6  # the largest distance of PyTorch's outputs and gradients in float64, relative to the norm of Paddle's
RATE = 0.0  # the learning rate
CHECKED = (128, 192)  # the size at which PyTorch's network is compared with Paddle's
UPDATE = 3  # an update costs about this many forward passes
HERE = Path(__file__).resolve().parent
GEMM = "float32 GEMM"
GEMM_SIDE = 2048
GEMM_TRIES = 5


def images_per_second(options: argparse.Namespace) -> float:
    """The training speed of one of our kinds, in this process."""
    import _paddle_training

    from ppdet_repro import load_config

    _, kernels, low = KINDS[options.kind]
    config = load_config(options.config, [*options.opt, f"cpu_kernels={kernels}", f"amp={str(low).lower()}"])
    size, network_only = tuple(options.size), options.network_only
    return options.batch * _paddle_training.updates_per_second(
        config, options.batch, size, options.steps, RATE, network_only
    )


def measure_in_child(kind: str) -> Dict[str, Any]:
    """Run this command with --kind and return its {rate, settings}. UserError if it fails."""
    environ = plain_environ()
    if not KINDS[kind][0]:
        environ[cpu_env.RECORD] = "off"
    return answer_of([sys.executable, __file__, *sys.argv[1:], "--kind", kind], environ)


def plain_environ() -> Dict[str, str]:
    """The environment without the variables that this package sets."""
    return {k: v for k, v in os.environ.items() if k not in (cpu_env.MKL, cpu_env.THREADS, cpu_env.RECORD)}


def answer_of(command: Sequence[str], environ: Mapping[str, str]) -> Dict[str, Any]:
    """The last line that a command prints, from JSON. UserError if it fails."""
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise UserError(f"a measurement failed with exit code {done.returncode}; see its message above")
    return json.loads(done.stdout.splitlines()[-1])


class PyTorch:
    """Measures with the Python of --torch_python. UserError: it has no PyTorch."""

    def __init__(self, python: str, network: str, classes: int):
        self.python, self.network, self.classes = python, network, classes
        try:
            done = subprocess.run([python, "-c", "import numpy, torch"], capture_output=True, text=True, check=False)
        except OSError as error:
            raise UserError(f"--torch_python {python}: {error.strerror}") from error
        if done.returncode:
            reason = (done.stderr.splitlines() or ["it fails"])[-1]
            raise UserError(f"--torch_python {python}: {reason}; install torch and numpy there")

    def ask(self, task: str, **settings: Any) -> Dict[str, Any]:
        """The answer of `_torch_training.py`. UserError: it refuses the task, or fails."""
        own = {"task": task, "network": self.network, "classes": self.classes, "threads": cpu_env.usable_cores()}
        command = [self.python, str(HERE / "_torch_training.py"), json.dumps({**own, **settings})]
        answer = answer_of(command, plain_environ())
        if "error" in answer:
            raise UserError(answer["error"])
        return answer

    def compared(self, expected: Mapping[str, int], file: Path) -> str:
        """One line that says that the network is Paddle's, whose reference is in a file. UserError: it is not."""
        found = self.ask("compare", file=str(file))
        wrong = [f"{found[name]} {name} instead of {count}" for name, count in expected.items() if found[name] != count]
        wrong += [f"gradients of {found['only one']} in one of both alone"] if found["only one"] else []
        for name in ("outputs", "gradients"):
            if not found[name] <= AGREE:
                wrong.append(f"{name} that differ by {found[name]:.1e}, more than {AGREE:g}")
        if wrong:
            raise UserError(f"PyTorch's network is not Paddle's: it has {', '.join(wrong)}")
        counts = f"{found['parameters']:,} parameters, {found['trained']:,} of them trained"
        distances = (
            f"outputs in evaluation mode differ by {found['outputs']:.1e}, gradients by {found['gradients']:.1e}"
        )
        return f"PyTorch's network is Paddle's: {counts}; in float64, {distances}"

    def rate(self, options: argparse.Namespace, low: bool) -> Dict[str, Any]:
        """One measurement of the training speed, in bfloat16 if `low`: {rate, settings}."""
        settings = {"shape": [options.batch, 3, *options.size], "steps": options.steps, "lr": RATE}
        return self.ask("train", bfloat16=low, **settings)


def numpy_gemm() -> float:
    """The best rate of a product of two square float32 matrices, in multiply-adds per second."""
    a, b = np.random.default_rng(0).standard_normal((2, GEMM_SIDE, GEMM_SIDE), np.float32)
    rates = []
    for _ in range(GEMM_TRIES):
        start = time.perf_counter()
        np.matmul(a, b)
        rates.append(GEMM_SIDE**3 / (time.perf_counter() - start))
    return max(rates)


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", default=CONFIG, help=f"YAML config (default: {CONFIG})")
    text = "override a value of the config"
    parser.add_argument("-o", "--opt", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)
    text = "image size in pixels (default: 256 256)"
    parser.add_argument("--size", nargs=2, type=at_least_one, default=[256, 256], metavar=("H", "W"), help=text)
    parser.add_argument("--batch", type=at_least_one, default=4, help="batch size (default: 4)")
    parser.add_argument("--steps", type=at_least_one, default=8, help="updates per measurement (default: 8)")
    parser.add_argument("--rounds", type=at_least_one, default=5, help="measurements of each kind (default: 5)")
    text = "without the losses of the detector: the mean of the squares of each output of the head"
    parser.add_argument("--network_only", action="store_true", help=text)
    text = "a Python with torch and numpy: measure PyTorch, too (with --network_only)"
    parser.add_argument("--torch_python", metavar="PATH", help=text)
    text = "make one measurement in this process and print it as JSON"
    parser.add_argument("--kind", choices=OURS, help=text)
    return parser


class Measured(NamedTuple):
    """What was measured, by kind and round."""

    rates: Dict[str, List[float]]  # images per second; those of GEMM are multiply-adds
    memory: Dict[str, List[float]]  # the largest of a process, in MiB
    settings: List[str]  # of those who computed


def measure(options: argparse.Namespace, torch: Optional[PyTorch]) -> Measured:
    """Measure all kinds and GEMM in alternation."""
    kinds = [kind for kind, (_, _, low) in KINDS.items() if not low or library.has_bfloat16()]
    kinds = [kind for kind in kinds if torch is not None or kind in OURS]
    rates: Dict[str, List[float]] = {kind: [] for kind in [*kinds, GEMM]}
    memory: Dict[str, List[float]] = {kind: [] for kind in kinds}
    settings: Dict[str, None] = {}
    for _ in tqdm(range(options.rounds), unit="round"):
        for kind in kinds:
            _, computes, low = KINDS[kind]
            found = torch.rate(options, low) if torch and computes == "torch" else measure_in_child(kind)
            rates[kind].append(found["rate"])
            memory[kind].append(found["memory"])
            settings[found["settings"]] = None
        rates[GEMM].append(torch.ask("gemm")["rate"] if torch else numpy_gemm())
    return Measured(rates, memory, list(settings))


def report(rates: Mapping[str, Sequence[float]], memory: Mapping[str, Sequence[float]], cost: int) -> str:
    """A table of all kinds. `cost` is the number of multiply-adds per image of the forward pass."""
    first, gemm = rates[next(iter(rates))], rates[GEMM]
    rows = []
    for kind, own in rates.items():
        if kind != GEMM:
            ratios = spread([a / b for a, b in zip(own, first)])
            shares = spread([a * UPDATE * cost / b for a, b in zip(own, gemm)], ".0%")
            rows.append((kind, spread(own), ratios, shares, f"{statistics.median(memory[kind]):.0f} MiB"))
    table = tabulate(rows, ["", "images/s", "ratio", "of GEMM", "peak memory"], tablefmt="github")
    operations = f"{UPDATE} x {cost / 1e9:.2f} GFLOPs (an estimate of forward and backward pass; multiply-adds)"
    rate = f"{spread([g / 1e9 for g in gemm], '.1f')} GFLOPs/s of products of float32 matrices"
    return f"{table}\nof GEMM: an image takes {operations}, over {rate}"


def main() -> None:
    options = make_parser().parse_args()
    if options.kind:
        rate = images_per_second(options)
        memory = peak_memory()
        print(json.dumps({"rate": rate, "memory": memory, "settings": cpu_env.describe()}))
        return
    if options.torch_python and not options.network_only:
        raise UserError("--torch_python needs --network_only: the losses are not written for PyTorch")

    import _paddle_training

    from ppdet_repro import load_config

    config, (height, width) = load_config(options.config, options.opt), options.size
    torch = None
    if options.torch_python:
        torch = PyTorch(options.torch_python, config.name, config.run.num_classes)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "reference.npz"
            print(torch.compared(_paddle_training.write_reference(config, CHECKED, file), file), flush=True)
    cost = _paddle_training.multiply_adds(config, (height, width))
    measured = measure(options, torch)
    task = "network only" if options.network_only else "whole updates"
    print(
        f"{config.name}, {task}, {options.batch} x {height} x {width}, {options.rounds} rounds",
        *measured.settings,
        sep="\n",
    )
    print(report(measured.rates, measured.memory, cost))
    if torch is None:
        print("PyTorch is left out; --network_only --torch_python PATH adds it, where PATH is a Python with torch")


if __name__ == "__main__":
    run_command(main)
