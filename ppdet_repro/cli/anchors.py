"""Compute anchors for a config's TrainDataset, and print how well they and the config's own anchors fit its boxes.

    ppdet-repro anchors -c configs/ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml
    ppdet-repro anchors -c CONFIG -n 9 --size 256 256
    ppdet-repro anchors -c configs/ppyolo/ppyolo_r50vd_dcn_1x_coco.yml -n 9 -s 608 -m v2 -i 1000

By default, k-means with the medians of clusters is followed by random changes that improve the fit. The new anchors are
printed in the form of the config. No file is written.
"""

from argparse import ArgumentParser, Namespace
from typing import Sequence, Tuple

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, at_least_one
from ppdet_repro.utils.errors import UserError


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add("-n", "--n", type=at_least_one, help="number of anchors (default: as many as the config has)")
    add("-s", "--size", nargs="+", metavar="PIXELS",
        help="input size: H W, one number for both, or W,H (default: TestReader.inputs_def.image_shape)")  # fmt: skip
    add("-m", "--method", choices=("v2",),
        help="v2: only k-means with the means of clusters, as PaddleDetection does (default: see above)")  # fmt: skip
    add("-i", "--iters", type=at_least_one, default=1000, metavar="N",
        help="the most iterations of k-means with -m v2 (default: 1000)")  # fmt: skip
    add("--generations", type=int, default=1000, metavar="N",
        help="generations of the evolution that follows k-means (default: 1000)")  # fmt: skip
    add("--seed", type=int, default=0, help="random seed (default: 0)")


def run(arguments: Namespace) -> None:
    from ppdet_repro.engine.analysis.anchor_cluster import anchor_report

    cfg = read_config(arguments)
    size = None if arguments.size is None else size_of_flag(arguments.size)
    iterations = arguments.iters if arguments.method == "v2" else None
    print(anchor_report(cfg, size, arguments.n, arguments.generations, arguments.seed, iterations))


def size_of_flag(words: Sequence[str]) -> Tuple[int, int]:
    """Height and width that the words after --size name: "608", "608 416" or, as in PaddleDetection, "416,608".

    UserError if they are no size.

    Example:
        >>> size_of_flag(["608"]), size_of_flag(["608", "416"]), size_of_flag(["416,608"])
        ((608, 608), (608, 416), (608, 416))
    """
    sides = words[0].split(",")[::-1] if len(words) == 1 else words
    if len(sides) > 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise UserError(f"--size {' '.join(words)} is no size in pixels: write 608, height and width 608 416, or W,H")
    return int(sides[0]), int(sides[-1])
