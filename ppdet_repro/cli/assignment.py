"""Draw the training targets of images: positive locations, ignored boxes, loss weights.

ppdet-repro assignment -c configs/ttfnet/pafnet_r18vd_224_synthetic.yml --number 4
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ppdet_repro.utils.cli import add_config, add_offline, at_least_one


def add_arguments(parser: ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--image", nargs="+", default=[], help="file names or image ids of TrainDataset (default: its first images)"
    )
    parser.add_argument(
        "-n", "--number", type=at_least_one, default=4, help="number of images if --image is not given (default: 4)"
    )
    parser.add_argument(
        "--weights", metavar="PATH_OR_URL", help="weights of the model (default: random initial weights)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the training transforms (default: 0)")
    parser.add_argument(
        "--progress", type=float, default=1.0,
        help="training progress to assume, from 0 (start) to 1 (end), where targets depend on it (default: 1)",
    )  # fmt: skip
    parser.add_argument(
        "--output_dir", metavar="DIR", default="output/assignment",
        help="folder for the drawings (default: output/assignment)",
    )  # fmt: skip
    add_offline(parser)


def run(arguments: Namespace) -> None:
    from ppdet_repro.core.config import load_config

    cfg = load_config(arguments.config, arguments.opt)

    from ppdet_repro.engine.analysis.show_assignment import show_assignment

    lines = show_assignment(
        cfg,
        arguments.output_dir,
        arguments.image,
        arguments.number,
        arguments.weights,
        arguments.seed,
        arguments.offline,
        arguments.progress,
    )
    print("\n".join(lines))
