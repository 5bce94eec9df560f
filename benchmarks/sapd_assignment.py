"""Measure the share of SAPD's training targets (points, instance losses, levels, weights) in a CPU training step.

    python benchmarks/sapd_assignment.py
    python benchmarks/sapd_assignment.py -c configs/sapd/sapd_r50_1x_coco.yml --steps 3

A step is forward, losses, backward and update, on noise with random boxes. The figures are medians over the steps after
a warm-up step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any, Dict, List

import _checkout

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import run_command

CONFIG = "sapd/sapd_r18vd_256_synthetic.yml"
SMALLEST = 16  # side of the smallest box in pixels


def random_batch(images: int, side: int, boxes: int, num_classes: int) -> Dict[str, Any]:
    """A batch of noise with boxes of up to half the image size, at the end of training, where levels are soft."""
    import numpy as np
    import paddle

    rng = np.random.default_rng(0)
    truths = []
    for _ in range(images):
        sides = SMALLEST * (side / 2 / SMALLEST) ** rng.random((boxes, 2))
        corners = rng.random((boxes, 2)) * (side - sides)
        truths.append(paddle.to_tensor(np.concatenate([corners, corners + sides], axis=1), "float32"))
    return {
        "image": paddle.to_tensor(rng.standard_normal((images, 3, side, side)), "float32"),
        "gt_bbox": truths,
        "gt_class": [paddle.to_tensor(rng.integers(0, num_classes, (boxes, 1)), "int32") for _ in truths],
        "progress": paddle.ones([1]),
    }


def timed(function, durations: List[float]):
    """Wrap a function so that the duration of each call, in seconds, is appended to `durations`."""

    def run(*arguments):
        start = time.perf_counter()
        result = function(*arguments)
        durations.append(time.perf_counter() - start)
        return result

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", default=CONFIG, help=f"YAML config (default: {CONFIG})")
    parser.add_argument("--size", type=at_least_one, default=512, help="image size in pixels (default: 512)")
    parser.add_argument("--boxes", type=at_least_one, default=20, help="objects per image (default: 20)")
    parser.add_argument("--batch", type=at_least_one, default=2, help="batch size (default: 2)")
    parser.add_argument("--steps", type=at_least_one, default=10, help="number of measured steps (default: 10)")
    options = parser.parse_args()

    import paddle

    from ppdet_repro import build_model, load_config

    paddle.set_device("cpu")
    paddle.seed(0)
    config = load_config(options.config)
    model = build_model(config)
    model.train()
    optimizer = paddle.optimizer.Momentum(1e-4, parameters=model.parameters())
    batch = random_batch(options.batch, options.size, options.boxes, config.run.num_classes)
    targets: List[float] = []
    steps: List[float] = []
    model.head.point_loss.targets = timed(model.head.point_loss.targets, targets)
    for _ in range(options.steps + 1):
        start = time.perf_counter()
        model(batch)["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        steps.append(time.perf_counter() - start)
    target, step = statistics.median(targets[1:]), statistics.median(steps[1:])
    print(
        f"{config.name}, {options.batch} images of {options.size} px with {options.boxes} objects: "
        f"{1000 * step:.0f} ms per step, of which targets {1000 * target:.1f} ms ({100 * target / step:.1f} %)"
    )


if __name__ == "__main__":
    run_command(main)
