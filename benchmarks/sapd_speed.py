"""Compare the inference speed of RetinaNet, AB+FSAF, FSAF and SAPD with the same backbone and batch size 1.

    python benchmarks/sapd_speed.py
    python benchmarks/sapd_speed.py --cpu -o ResNet.depth=18 --size 320 --rounds 5

The figures to compare with are the frames per second on a 1080 Ti in SAPD, Table 5. The detectors take turns on one
image of noise each, from the image to the boxes; the figures are medians over the rounds. The weights are untrained, so
no candidate passes the score threshold and NMS has nothing to do: networks and decoding are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Dict, List

import _checkout

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import run_command
from ppdet_repro.utils.table import text_table

CONFIGS = {
    "RetinaNet": "table5_retinanet_r50_1x_coco",
    "AB+FSAF": "table5_ab_fsaf_r50_1x_coco",
    "FSAF": "fsaf_r50_1x_coco",
    "SAPD without BFP": "table2_sw_ss_r50_1x_coco",
    "SAPD": "sapd_r50_1x_coco",
}
PAPER = {"RetinaNet": 11.6, "AB+FSAF": 9.0, "SAPD": 14.9}  # frames per second: SAPD, Table 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "-o", "--opt", nargs="+", default=[], metavar="KEY=VALUE", help="override a value of all configs"
    )
    parser.add_argument("--size", type=at_least_one, default=800, help="image size in pixels (default: 800)")
    parser.add_argument("--rounds", type=at_least_one, default=20, help="images per detector (default: 20)")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU even if there is a GPU")
    options = parser.parse_args()

    import paddle

    from ppdet_repro import build_model, load_config

    gpu = paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0 and not options.cpu
    paddle.set_device("gpu" if gpu else "cpu")
    paddle.seed(0)
    models = {}
    for name, config in CONFIGS.items():
        models[name] = build_model(load_config(f"sapd/{config}.yml", options.opt))
        models[name].eval()
    batch = {
        "image": paddle.randn([1, 3, options.size, options.size]),
        "im_shape": paddle.full([1, 2], float(options.size)),
        "scale_factor": paddle.ones([1, 2]),
    }
    seconds: Dict[str, List[float]] = {name: [] for name in models}
    with paddle.no_grad():
        for _ in range(options.rounds + 1):
            for name, model in models.items():
                start = time.perf_counter()
                model(batch)["bbox"].numpy()
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    rows = [
        [name, f"{1000 * median:.1f}", f"{medians['RetinaNet'] / median:.2f}", ratio_of_paper(name)]
        for name, median in medians.items()
    ]
    print(f"{'GPU' if gpu else 'CPU'}, 1 image of {options.size} px, {options.rounds} rounds")
    print(text_table(["detector", "ms", "speed / RetinaNet", "paper"], rows))


def ratio_of_paper(name: str) -> str:
    """The speed of a detector divided by that of RetinaNet in the paper's Table 5; empty if it is not there."""
    return f"{PAPER[name] / PAPER['RetinaNet']:.2f}" if name in PAPER else ""


if __name__ == "__main__":
    run_command(main)
