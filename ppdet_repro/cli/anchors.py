"""Compute anchors for a config's TrainDataset, and print how well they and the config's own anchors fit its boxes.

    ppdet-repro anchors -c configs/ppyolo/ppyolov2_r50vd_dcn_365e_coco.yml
    ppdet-repro anchors -c CONFIG -n 9 --size 256 256

The new anchors are printed in the form of the config. No file is written.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ppdet_repro.utils.cli import add_config, at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("-n", "--n", type=at_least_one, help="number of anchors (default: as many as the config has)")
    parser.add_argument(
        "--size", nargs=2, type=at_least_one, metavar=("H", "W"),
        help="input size in pixels (default: the config's TestReader.inputs_def.image_shape)",
    )  # fmt: skip
    parser.add_argument(
        "--generations", type=int, default=1000, metavar="N",
        help="generations of the evolution that follows k-means (default: 1000)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")


def run(arguments: Namespace) -> None:
    from ppdet_repro.core.config import load_config
    from ppdet_repro.engine.analysis.anchor_cluster import anchor_report

    cfg = load_config(arguments.config, arguments.opt)
    print(anchor_report(cfg, arguments.size, arguments.n, arguments.generations, arguments.seed))
