"""Compute anchors for a config's TrainDataset, and print how well they and the config's own anchors fit its boxes.

    ppdet-repro anchors -c configs/ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml
    ppdet-repro anchors -c CONFIG -n 9 --size 256 256

The new anchors are printed in the form of the config. No file is written.
"""

from argparse import ArgumentParser, Namespace

from ppdet_repro.cli import read_config
from ppdet_repro.utils.cli import add_config, at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_config(parser)
    add("-n", "--n", type=at_least_one, help="number of anchors (default: as many as the config has)")
    add("--size", nargs=2, type=at_least_one, metavar=("H", "W"),
        help="input size in pixels (default: the config's TestReader.inputs_def.image_shape)")  # fmt: skip
    add("--generations", type=int, default=1000, metavar="N",
        help="generations of the evolution that follows k-means (default: 1000)")  # fmt: skip
    add("--seed", type=int, default=0, help="random seed (default: 0)")


def run(arguments: Namespace) -> None:
    from ppdet_repro.engine.analysis.anchor_cluster import anchor_report

    cfg = read_config(arguments)
    print(anchor_report(cfg, arguments.size, arguments.n, arguments.generations, arguments.seed))
