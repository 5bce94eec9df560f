"""Measure the training speed on the CPU: Paddle as it comes, the package's CPU settings, and oneDNN's kernels.

    python benchmarks/train_cpu.py -c ttfnet/pafnet_lite_mbv3_256_bccd.yml --size 320 320
    python benchmarks/train_cpu.py -o ResNet.depth=18 --size 320 320 --batch 4

Each measurement is a process of its own, because the settings (see `ppdet_repro.utils.cpu_env`) must be made before
Paddle is loaded. It trains the model of a config on random images with random boxes: forward and backward pass, losses
and optimizer. Measurements of all kinds alternate; the figures are medians over the rounds, and ratios to Paddle as it
comes within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import _checkout
from tabulate import tabulate
from tqdm import tqdm

from ppdet_repro.onednn import library
from ppdet_repro.utils import cpu_env
from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import UserError, run_command

CONFIG = "yolof/yolof_r50_c5_1x_coco.yml"
BOXES = 4  # per image
KINDS = {  # name -> the package's settings are made, who computes the network, in bfloat16
    "Paddle as it comes": (False, "paddle", False),
    "with CPU settings": (True, "paddle", False),
    "oneDNN, float32": (True, "onednn", False),
    "oneDNN, bfloat16": (True, "onednn", True),
}


def images_per_second(options: argparse.Namespace) -> float:
    """The training speed over `options.steps` updates after a warm-up update."""
    import paddle

    from ppdet_repro import build_model, load_config
    from ppdet_repro.engine.distributed import World
    from ppdet_repro.engine.training.cpu_kernels import choose_kernels

    paddle.set_device("cpu")
    paddle.seed(0)
    _, kernels, low = KINDS[options.kind]
    config = load_config(options.config, [*options.opt, f"cpu_kernels={kernels}", f"amp={str(low).lower()}"])
    model = build_model(config)
    choose_kernels(model, config, World(rank=0, size=1, gpu=False))
    model.train()
    optimizer = paddle.optimizer.Momentum(1e-4, parameters=model.parameters())
    height, width = options.size
    batch = random_batch(options.batch, height, width, config.run.num_classes)
    for step in range(options.steps + 1):
        if step == 1:
            start = time.perf_counter()
        model(batch)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
    return options.steps * options.batch / (time.perf_counter() - start)


def random_batch(images: int, height: int, width: int, num_classes: int) -> Dict[str, Any]:
    """A training batch of noise with boxes of a quarter to half of the image size."""
    import paddle

    corners = [paddle.rand([BOXES, 2]) * 0.5 for _ in range(images)]
    sides = [0.25 + paddle.rand([BOXES, 2]) * 0.25 for _ in range(images)]
    scale = paddle.to_tensor([width, height, width, height], "float32")
    return {
        "image": paddle.randn([images, 3, height, width]),
        "im_shape": paddle.to_tensor([[height, width]] * images, "float32"),
        "scale_factor": paddle.ones([images, 2]),
        "gt_bbox": [paddle.concat([c, c + s], axis=1) * scale for c, s in zip(corners, sides)],
        "gt_class": [paddle.randint(0, num_classes, [BOXES, 1]).astype("int32") for _ in range(images)],
        "progress": paddle.ones([1]),
    }


def measure_in_child(kind: str) -> Dict[str, Any]:
    """Run this command with --kind and return its {rate, settings}. UserError if it fails."""
    environ = {k: v for k, v in os.environ.items() if k not in (cpu_env.MKL, cpu_env.THREADS, cpu_env.RECORD)}
    if not KINDS[kind][0]:
        environ[cpu_env.RECORD] = "off"
    command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise UserError(f"a measurement failed with exit code {done.returncode}; see its message above")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: List[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", default=CONFIG, help=f"YAML config (default: {CONFIG})")
    parser.add_argument(
        "-o",
        "--opt",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override a value of the config",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=at_least_one,
        default=[256, 256],
        metavar=("H", "W"),
        help="image size in pixels (default: 256 256)",
    )
    parser.add_argument("--batch", type=at_least_one, default=4, help="batch size (default: 4)")
    parser.add_argument("--steps", type=at_least_one, default=8, help="updates per measurement (default: 8)")
    parser.add_argument("--rounds", type=at_least_one, default=5, help="measurements of each kind (default: 5)")
    parser.add_argument("--kind", choices=KINDS, help="make one measurement in this process and print it as JSON")
    options = parser.parse_args()
    if options.kind:
        print(json.dumps({"rate": images_per_second(options), "settings": cpu_env.describe()}))
        return

    kinds = [kind for kind, (_, _, low) in KINDS.items() if not low or library.has_bfloat16()]
    rates: Dict[str, List[float]] = {kind: [] for kind in kinds}
    settings = ""
    for _ in tqdm(range(options.rounds), unit="round"):
        for kind in kinds:
            measured = measure_in_child(kind)
            rates[kind].append(measured["rate"])
            settings = measured["settings"]
    first, (height, width) = rates[kinds[0]], options.size
    rows = [(k, spread(rates[k]), spread([a / b for a, b in zip(rates[k], first)])) for k in kinds]
    print(f"{Path(options.config).stem}, {options.batch} x {height} x {width}, {options.rounds} rounds\n{settings}")
    print(tabulate(rows, ["", "images/s", "ratio"], tablefmt="github"))


if __name__ == "__main__":
    run_command(main)
