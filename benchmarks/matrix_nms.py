"""How long decoding and Matrix NMS take beside the network, with all pairs of box and class and with the best ones.

    python benchmarks/matrix_nms.py
    python benchmarks/matrix_nms.py -c configs/ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml --size 640

Two kinds of scores: those of a network without training, whose batch norms know the image's statistics, so that
nearly all pairs pass the threshold; and the same with all but a hundredth of the boxes and a tenth of their classes
set to zero, as a trained one gives them. With all pairs the first take seconds at 320 px and minutes at 640.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Callable

from ppdet_repro.utils.cli import at_least_one
from ppdet_repro.utils.errors import run_command

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "ppyolo" / "ppyolov2_r50vd_dcn_365e_coco.yml"


def milliseconds(run: Callable[[], object], repeat: int) -> float:
    """The shortest of `repeat` runs."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def warm_up(model, image) -> None:
    """Leave a detector in eval mode with the image's statistics in its batch norms."""
    from paddle import nn

    for layer in model.sublayers():
        if isinstance(layer, nn.BatchNorm2D):
            layer._momentum = 0.0
    model.train()
    model.raw(image)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-c", "--config", default=str(CONFIG))
    parser.add_argument("--size", type=at_least_one, default=320, help="px, a multiple of 32 (default: 320)")
    parser.add_argument("--repeat", type=at_least_one, default=10, help="the shortest of so many runs counts")
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
    settings = dict(score_threshold=0.01, post_threshold=0.01, background_label=-1)
    best, everything = MatrixNMS(**settings), MatrixNMS(**settings, candidates=None)
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
