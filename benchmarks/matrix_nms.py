"""Time decoding and Matrix NMS relative to the network, with all pairs of box and class and with the best pairs only.

    python benchmarks/matrix_nms.py
    python benchmarks/matrix_nms.py -c configs/ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml --size 640

Two kinds of scores are used. "untrained": those of an untrained network whose batch norms know the image's statistics;
nearly all pairs pass the threshold. "trained": the same, with zeros for 99 % of the boxes and 90 % of the remaining
classes, which is about what a trained network gives. NMS of all untrained pairs takes seconds at 320 pixels and minutes
at 640.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Callable

import _checkout

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import run_command

CONFIG = "ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml"


def milliseconds(run: Callable[[], object], repeat: int) -> float:
    """The duration, in milliseconds, of the fastest of `repeat` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def warm_up(model, image) -> None:
    """Put the image's statistics into the batch norms, and the model into evaluation mode."""
    from paddle import nn

    from ppdet_repro.paddle_private.layers import set_momentum

    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            set_momentum(layer, 0.0)
    model.train()
    model.raw(image)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", default=CONFIG, help=f"YAML config (default: {CONFIG})")
    parser.add_argument(
        "--size", type=at_least_one, default=320, help="input size in pixels, a multiple of 32 (default: 320)"
    )
    parser.add_argument(
        "--repeat", type=at_least_one, default=10, help="number of runs, the fastest counts (default: 10)"
    )
    arguments = parser.parse_args()

    import paddle

    from ppdet_repro import build_model, load_config
    from ppdet_repro.modeling.nms import MatrixNMS

    paddle.seed(0)
    model = build_model(load_config(arguments.config))
    side = arguments.size
    image, shape = paddle.randn([1, 3, side, side]), paddle.full([1, 2], float(side))
    with paddle.no_grad():
        warm_up(model, image)
        raw = model.raw(image)
        network = milliseconds(lambda: model.raw(image), 3)
        decode = milliseconds(lambda: model.decode(raw, shape, paddle.ones([1, 2])), arguments.repeat)
        boxes, untrained = model.decode(raw, shape, paddle.ones([1, 2]))
    trained = untrained * (paddle.rand([1, 1, boxes.shape[1]]) < 0.01) * (paddle.rand(untrained.shape) < 0.1)
    matrix_nms = partial(MatrixNMS, score_threshold=0.01, post_threshold=0.01, background_label=-1)
    best, everything = matrix_nms(), matrix_nms(candidates=None)
    print(f"network {network:.1f} ms, decoding {decode:.1f} ms ({decode / network:.1%}), {boxes.shape[1]} boxes")
    for name, scores in (("untrained", untrained), ("trained", trained)):
        pairs = int((scores > 0.01).sum())
        slow = milliseconds(lambda: everything(boxes, scores), 1)  # noqa: B023
        fast = milliseconds(lambda: best(boxes, scores), arguments.repeat)  # noqa: B023
        print(
            f"{name:>9}: {pairs} pairs, all {slow:.1f} ms, best {best.candidates} {fast:.1f} ms: "
            f"ratio {slow / fast:.1f}, {fast / network:.1%} of the network"
        )


if __name__ == "__main__":
    run_command(main)
